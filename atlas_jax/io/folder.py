"""Folders on a disk or in a bucket (gs://bucket/folder), with the same calls for both."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import tensorstore

from atlas_jax import errors
from atlas_jax.io import atomic, checksum, untrusted

_BUCKET = 'gs://'
_PIECE_BYTES, _REQUEST_BYTES = 1 << 20, 16 << 20  # read at once, from a disk and from a bucket
# Gives up on a bucket that does not answer after about ten seconds.
_RETRIES = {'max_retries': 5, 'initial_delay': '0.5s', 'max_delay': '4s'}
# Copies of buckets' folders, by path. They are removed with the process.
_copies: dict[str, tempfile.TemporaryDirectory] = {}


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path lies in a bucket (gs://...) and not on this machine."""
    return str(path).startswith(_BUCKET)


def default_cache_dir() -> pathlib.Path:
    """Returns the folder for copies of remote files: `$ATLAS_JAX_CACHE`, or `~/.cache/atlas_jax`.
    """
    return pathlib.Path(
        os.environ.get('ATLAS_JAX_CACHE') or pathlib.Path.home() / '.cache' / 'atlas_jax')


class Folder:
    """A folder whose files are written whole and atomically. File names are relative to it, with
    `/`.

    A name may come from a file, so every name is checked: it must not lead out of the folder. A
    folder that was reached with `/` also refuses to write or remove anything through a link that
    leads out of the first folder.

    path    a pathlib.Path, or the text gs://…
    local   the pathlib.Path; None for a bucket
    bucket  name of the bucket; empty for a disk
    """

    bucket: str
    path: pathlib.Path | str
    local: pathlib.Path | None
    _first: pathlib.Path | None  # the first local folder, from which `/` led here

    def __init__(self, path: 'str | os.PathLike | Folder'):
        """Names a folder, which need not exist. Raises StorageError: a bucket without a name."""
        text = str(path)  # not pathlib, which would make gs:/ of gs://
        if not text.startswith(_BUCKET):
            self.path = self.local = pathlib.Path(text)
            self.bucket = ''
            self._first = path._first if isinstance(path, Folder) else self.local
            return
        self.path, self.local, self._first = text.rstrip('/'), None, None
        self.bucket, _, self._bucket_path = self.path.removeprefix(_BUCKET).partition('/')
        if not self.bucket:
            raise errors.StorageError(f'{text}: names no bucket; write gs://bucket/folder')

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> 'Folder':
        if self.local is None:
            self._check(name)
            return Folder(f'{self.path}/{name}')
        below = Folder(self._place(name))
        below._first = self._first
        return below

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self.path).rsplit('/', 1)[-1]

    def kvstore(self) -> dict[str, Any]:
        """Returns TensorStore's specification of this folder."""
        if self.local is not None:
            return {'driver': 'file', 'path': f'{self.local.absolute()}/'}
        path = f'{self._bucket_path}/' if self._bucket_path else ''
        return {
            'driver': 'gcs', 'bucket': self.bucket, 'path': path, 'gcs_request_retries': _RETRIES}

    def read(self, name: str) -> bytes:
        """Returns the whole file. Raises FileNotFoundError, OSError, StorageError."""
        if self.local is not None:
            with self._os_errors():
                return _regular(self._place(name)).read_bytes()
        self._check(name)
        with storage_errors(self):
            found = self.open().read(name).result()
        # The same error that a missing local file gives.
        if found.state == 'missing':
            raise FileNotFoundError(2, 'No such file or directory', f'{self.path}/{name}')
        return found.value

    def read_json(self, name: str) -> Any:
        """Returns the value of a JSON file.

        Raises FileNotFoundError, StorageError, and the ValueErrors of untrusted.read_json.
        """
        if self.local is not None:
            with self._os_errors():
                return untrusted.read_json(self._place(name))
        return untrusted.parse_json(self.read(name))

    def pieces(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes of a file from `start` to `stop`, or to its end, in pieces.

        Raises FileNotFoundError, OSError, StorageError.
        """
        if self.local is not None:
            with self._os_errors(), open(_regular(self._place(name)), 'rb') as file:
                file.seek(start)
                while piece := file.read(min(_PIECE_BYTES, stop - start)):
                    start += len(piece)
                    yield piece
            return
        self._check(name)
        while start < stop and (piece := self._part(name, start, min(start + _REQUEST_BYTES,
                                                                     stop))):
            start += len(piece)
            yield piece

    def size(self, name: str, at_least: int = 0) -> int:
        """Returns the size of a file in bytes. Raises FileNotFoundError, OSError, StorageError.

        In a bucket the file is read from `at_least` on. If it ends before, the result is at most
        `at_least`.
        """
        if self.local is not None:
            with self._os_errors():
                path = _regular(self._place(name))
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                return path.stat().st_size
        self._check(name)
        return at_least + len(self._part(name, at_least, None))

    def _part(self, name: str, start: int, stop: int | None) -> bytes:
        """Returns bytes of a bucket's file; b'' if the range lies past its end."""
        with storage_errors(self):
            try:
                found = self.open().read(name, byte_range=slice(start, stop)).result()
            except ValueError as error:
                if 'OUT_OF_RANGE' not in str(error):
                    raise
                return b''
        if found.state == 'missing':
            raise FileNotFoundError(2, 'No such file or directory', f'{self.path}/{name}')
        return found.value

    def write(self, name: str, content: bytes) -> None:
        """Writes the file, and creates the folders above it.

        Raises DiskFullError, OSError, StorageError.
        """
        if self.local is not None:
            with self._os_errors(), atomic.writing(self._own_place(name), 'wb') as file:
                file.write(content)
            return
        self._check(name)
        with storage_errors(self):
            self.open().write(name, content).result()

    def write_json(self, name: str, value: Any) -> None:
        """Writes `value` as indented JSON. Raises the same errors as `write`.
        """
        self.write(name, (json.dumps(value, indent=1, ensure_ascii=False) + '\n').encode())

    def sizes(self) -> dict[str, int | None]:
        """Returns {file at any depth: bytes} without hidden files; {} if there is no folder.

        Leaves out pipes, devices and broken links. A bucket gives None for the size: it lists only
        names, and its files are never cut. Raises StorageError.
        """
        if self.local is None:
            with storage_errors(self):
                names = [name.decode() for name in self.open().list().result()]
            return {name: None for name in sorted(names) if not _is_hidden(name)}
        found = {}
        with self._os_errors():
            for folder, folders, names in os.walk(self.local, onerror=_unless_missing):
                # Changed in place, so that os.walk skips hidden folders.
                folders[:] = [name for name in folders if not name.startswith('.')]
                for name in names:
                    path = os.path.join(folder, name)
                    if not name.startswith('.') and os.path.isfile(path):
                        found[os.path.relpath(path,
                                              self.local).replace(os.sep,
                                                                  '/')] = os.path.getsize(path)
        return dict(sorted(found.items()))

    def has_links(self) -> bool:
        """Returns whether the folder is a link or holds one at any depth; False for a bucket."""
        if self.local is None:
            return False
        below = (pathlib.Path(folder, name)
                 for folder, folders, names in os.walk(self.local)
                 for name in folders + names)
        return self.local.is_symlink() or any(path.is_symlink() for path in below)

    def is_folder(self) -> bool:
        """Returns whether the folder exists; in a bucket, whether it holds a file.

        Raises OSError, StorageError.
        """
        return bool(self.children()) if self.local is None else self.local.is_dir()

    def children(self) -> set[str]:
        """Returns the names of the files and folders in it, hidden ones too; empty if there is no
        folder. Raises OSError, StorageError.
        """
        if self.local is not None:
            with self._os_errors():
                return set(os.listdir(self.local)) if self.local.is_dir() else set()
        with storage_errors(self):
            return {name.decode().split('/')[0] for name in self.open().list().result()}

    def exists(self, name: str) -> bool:
        """Returns whether there is a file with this name. Raises StorageError."""
        if self.local is not None:
            with self._os_errors():
                return self._place(name).is_file()
        # Reads it, because callers ask for small files.
        try:
            return bool(self.read(name))
        except FileNotFoundError:
            return False

    def sha256(self, name: str) -> str:
        """Returns the file's SHA-256 in hexadecimal. Raises the same errors as `read`.
        """
        if self.local is not None:
            with self._os_errors():
                return checksum.sha256_file(_regular(self._place(name)))
        return hashlib.sha256(self.read(name)).hexdigest()

    def differs(self, name: str, sha256: str) -> str:
        """Returns the difference of a file from its SHA-256, in words; '' if there is none.

        Raises StorageError: the bucket cannot be read.
        """
        try:
            found = self.sha256(name) if self.local is None else checksum.sha256_file(
                _regular(self._place(name)))
        # A bad sector must not keep callers from the other files.
        except OSError as error:
            return f'cannot be read: {error.strerror}'
        return '' if found == sha256 else 'contents differ from those written'

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all its files, if there is one.

        Raises OSError, StorageError.
        """
        if self.local is None:
            self._check(name)
            with storage_errors(self):
                # A bucket has no folders: `name` is a file, or the beginning of files' names.
                self.open().write(name, None).result()
                (self / name).open().delete_range(tensorstore.KvStore.KeyRange()).result()
            return
        path = self._own_place(name)
        with self._os_errors():
            # A link is removed itself, not the folder it leads to.
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def mapped(self, name: str, sha256: str) -> pathlib.Path:
        """Returns a path on this machine that holds the file, to be mapped into memory.

        This is the file's own path, or a copy in the cache, which is named by its SHA-256.

        Raises:
          StorageError: the bucket holds another file, or cannot be read.
          FileNotFoundError, OSError, DiskFullError.
        """
        if self.local is not None:
            return _regular(self._place(name))
        # Named by the hash: a replaced store gets another copy, and equal files share one.
        copy = Folder(default_cache_dir() / 'buckets')._own_place(sha256)
        if not copy.is_file():
            content = self.read(name)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise errors.StorageError(f'{self.path}/{name}: damaged (contents differ from '
                                          'those written); restore it')
            with atomic.writing(copy, 'wb') as file:
                file.write(content)
        return copy

    @contextlib.contextmanager
    def making(self, name: str) -> 'Iterator[Folder]':
        """Yields an empty folder on this machine, which becomes `name` when the block ends without
        an error. `name` must not exist.

        On a disk that is one step. A bucket receives file after file, so a manifest may name the
        folder only after the block.

        Raises DiskFullError, StorageError.
        """
        if self.local is not None:
            with self._os_errors(), atomic.writing_folder(self._own_place(name)) as made:
                yield Folder(made)
            return
        self._check(name)
        with tempfile.TemporaryDirectory(prefix='atlas_jax') as made:
            yield Folder(made)
            # Reached only without an error, so a failed block leaves the bucket as it was.
            for file in Folder(made).sizes():
                (self / name).write(file, (pathlib.Path(made) / file).read_bytes())

    def on_disk(self) -> pathlib.Path:
        """Returns a path on this machine that has the files: the folder's own, or a copy that is
        removed with the process.

        Meant for small files that libraries read by path. Raises DiskFullError, StorageError.
        """
        return self._copied(self.sizes()) if self.local is None else self.local

    def _copied(self, names: Iterable[str]) -> pathlib.Path:
        """Returns a folder on this machine with copies of a bucket's files.

        Raises FileNotFoundError, DiskFullError, StorageError.
        """
        if str(self.path) not in _copies:
            _copies[str(self.path)] = tempfile.TemporaryDirectory(prefix='atlas_jax')
        copies = Folder(_copies[str(self.path)].name)
        for name in names:
            copies.write(name, self.read(name))
        assert copies.local is not None
        return copies.local

    def require_own(self) -> None:
        """Raises StorageError if links lead out of the first folder. Call it before TensorStore
        writes here.
        """
        if self.local is not None and self.local != self._first:
            self._own_place('anything')

    def _os_errors(self) -> contextlib.AbstractContextManager[None]:
        return atomic.storage_errors_are_user_errors(str(self))

    def _check(self, name: str) -> None:
        self._named(pathlib.Path(), name)

    def _place(self, name: str) -> pathlib.Path:
        """Returns the path of a local file to read. Raises StorageError: the name leads out."""
        assert self.local is not None  # a bucket's files have no paths
        return self._named(self.local, name)

    def _own_place(self, name: str) -> pathlib.Path:
        """Returns the path of a local file to write or remove.

        Raises StorageError: the name or a link on the way leads out.
        """
        path, first = self._place(name), self._first
        assert first is not None
        # The last part may be a link, because it is replaced or removed, not followed.
        if (parent := path.parent) != first:
            self._named(first, parent.relative_to(first).as_posix(), links=False)
        return path

    def _named(self, folder: pathlib.Path, name: str, links: bool = True) -> pathlib.Path:
        try:
            return untrusted.inside(folder, name, links=links)
        except ValueError as error:
            raise errors.StorageError(f'{self}: {error}; do not use these files') from error

    def open(self) -> tensorstore.KvStore:
        """Opens TensorStore's key-value store of this folder.

        Raises ValueError: TensorStore's message.
        """
        return tensorstore.KvStore.open(self.kvstore()).result()


def file_on_disk(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path on this machine that has a file: its own path, or a copy of a bucket's file,
    which is removed with the process.

    Raises FileNotFoundError, DiskFullError, StorageError.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    folder, _, name = str(path).rpartition('/')
    return Folder(folder)._copied([name]) / name


# A folder: a path of this machine, gs://bucket/folder, or a Folder.
Place = str | os.PathLike | Folder


@contextlib.contextmanager
def storage_errors(place: Folder, damaged: type[errors.UserError] | None = None,
                   remedy: str = '') -> Iterator[None]:
    """Turns TensorStore's errors inside the block, which are ValueErrors with a text, into
    UserErrors.

    Args:
      place: the folder, for messages.
      damaged: type of error for damaged files; None raises StorageErrors for them.
      remedy: end of a message about damage.

    Raises:
      DiskFullError: the disk is full.
      StorageError: a bucket that does not exist, does not answer or may not be used.
      UserError: `damaged`, for everything else.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        # Only the text tells the errors apart. For a disk it has the system's error number.
        if match := re.search(r'\[OS error (\d+)', text):
            problem = atomic.user_error(str(place), OSError(int(match[1]), ''))
            if problem is not None:
                raise problem from error
        if atomic.says_disk_full(error):
            raise errors.DiskFullError(f'{place}: the disk is full; free some space and run the '
                                       'same command again') from error
        # The text ends with source locations in brackets.
        reason = re.sub(r'\s+', ' ', text.split('[')[0]).strip()
        if damaged is not None and not re.match(
                r'PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|ABORTED', text):
            reason = 'a flipped bit or cut file' if 'DATA_LOSS' in text or 'CRC' in text.upper(
            ) else reason
            raise damaged(f'{place}: damaged ({reason}); {remedy}') from error
        raise errors.StorageError(f'{place}: cannot be read or written ({reason}); check the name '
                                  'and that you may use it') from error


def _regular(path: pathlib.Path) -> pathlib.Path:
    """Returns `path`. Raises OSError: it is a pipe or device, which might never end."""
    if not path.is_dir():  # reading a folder raises its own error
        try:
            untrusted.require_regular_file(path)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(path)) from error
    return path


def _unless_missing(error: OSError) -> None:
    """Raises an error that os.walk would hide, unless the folder is missing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _is_hidden(name: str) -> bool:
    return any(part.startswith('.') for part in name.split('/'))
