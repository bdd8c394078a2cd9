"""Folders on a disk or in a bucket (gs://bucket/folder), written and read by the same calls."""

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
# A bucket that does not answer is given up after about ten seconds.
_RETRIES = {'max_retries': 5, 'initial_delay': '0.5s', 'max_delay': '4s'}
# One that accepts a request and sends nothing: TensorStore would wait for ever. Jax sets the same on TPUs. Read at the first request.
_STALLED = {'TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS': '60', 'TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES': '256'}


_copies: dict[str, tempfile.TemporaryDirectory] = {}  # of buckets' folders, by path; they go with the process


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is a bucket's, gs://..., and no path of this machine."""
    return str(path).startswith(_BUCKET)


def default_cache_dir() -> pathlib.Path:
    """Returns the folder for copies of remote files: `$ATLAS_JAX_CACHE`, or `~/.cache/atlas_jax`."""
    return pathlib.Path(os.environ.get('ATLAS_JAX_CACHE') or pathlib.Path.home() / '.cache' / 'atlas_jax')


class Folder:
    """A folder whose files are written whole and atomically. File names are relative to it, with `/`.

    A name may come from a file, so each is checked here: none leads out, and nothing is written or removed through a link that leads out
    of the folder that was given first, from which `/` has led here.

    path   a pathlib.Path, or the text gs://…
    local  the pathlib.Path, None for a bucket
    bucket  its name; empty for a disk
    """

    bucket: str
    path: pathlib.Path | str
    local: pathlib.Path | None
    _first: pathlib.Path | None  # the local folder from which `/` has led here

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
        for name, value in _STALLED.items():
            os.environ.setdefault(name, value)
        path = f'{self._bucket_path}/' if self._bucket_path else ''
        return {'driver': 'gcs', 'bucket': self.bucket, 'path': path, 'gcs_request_retries': _RETRIES}

    def read(self, name: str) -> bytes:
        """Returns the whole file. Raises FileNotFoundError, OSError, StorageError."""
        if self.local is not None:
            with self._os_errors():
                return _regular(self._place(name)).read_bytes()
        self._check(name)
        with storage_errors(self):
            found = self.open().read(name).result()
        # The error that a local file gives, so that callers know one.
        if found.state == 'missing':
            raise FileNotFoundError(2, 'No such file or directory', f'{self.path}/{name}')
        return found.value

    def read_json(self, name: str) -> Any:
        """Returns the value of a JSON file. Raises FileNotFoundError, StorageError, and ValueError as untrusted.read_json."""
        if self.local is not None:
            with self._os_errors():
                return untrusted.read_json(self._place(name))
        return untrusted.parse_json(self.read(name))

    def pieces(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes of a file from `start` up to `stop`, in pieces; fewer where it ends. Raises FileNotFoundError, OSError,
        StorageError.
        """
        if self.local is not None:
            with self._os_errors(), open(_regular(self._place(name)), 'rb') as file:
                file.seek(start)
                while piece := file.read(min(_PIECE_BYTES, stop - start)):
                    start += len(piece)
                    yield piece
            return
        self._check(name)
        while start < stop and (piece := self._part(name, start, min(start + _REQUEST_BYTES, stop))):
            start += len(piece)
            yield piece

    def size(self, name: str, at_least: int = 0) -> int:
        """Returns the size of a file in bytes. Raises FileNotFoundError, OSError, StorageError.

        A bucket's is found by reading the file from `at_least` on; of one that ends before, at most `at_least` is returned.
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
        """Returns bytes of a bucket's file; none if it ends before `stop`, or at `start`."""
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
        """Writes the file, and creates the folders above it. Raises DiskFullError, OSError, StorageError."""
        if self.local is not None:
            with self._os_errors(), atomic.writing(self._own_place(name), 'wb') as file:
                file.write(content)
            return
        self._check(name)
        with storage_errors(self):
            self.open().write(name, content).result()

    def write_json(self, name: str, value: Any) -> None:
        """Writes `value` as indented JSON. Raises DiskFullError, OSError, StorageError: as `write`."""
        self.write(name, (json.dumps(value, indent=1, ensure_ascii=False) + '\n').encode())

    def sizes(self) -> dict[str, int | None]:
        """Returns {file at any depth: bytes} without hidden files; {} if there is no folder. Raises StorageError.

        Pipes, devices and links to nothing are no files. A bucket gives None for bytes: it lists names alone, and its files are never cut
        short.
        """
        if self.local is None:
            with storage_errors(self):
                names = [name.decode() for name in self.open().list().result()]
            return {name: None for name in sorted(names) if not _is_hidden(name)}
        found = {}
        with self._os_errors():
            for folder, folders, names in os.walk(self.local, onerror=_unless_missing):
                # In place: os.walk then skips hidden folders.
                folders[:] = [name for name in folders if not name.startswith('.')]
                for name in names:
                    path = os.path.join(folder, name)
                    if not name.startswith('.') and os.path.isfile(path):
                        found[os.path.relpath(path, self.local).replace(os.sep, '/')] = os.path.getsize(path)
        return dict(sorted(found.items()))

    def has_links(self) -> bool:
        """Returns whether it is a link, or holds one at any depth; a bucket has none."""
        if self.local is None:
            return False
        below = (pathlib.Path(folder, name) for folder, folders, names in os.walk(self.local) for name in folders + names)
        return self.local.is_symlink() or any(path.is_symlink() for path in below)

    def is_folder(self) -> bool:
        """Returns whether there is such a folder; in a bucket, whether a file lies in it. Raises OSError, StorageError."""
        return bool(self.children()) if self.local is None else self.local.is_dir()

    def children(self) -> set[str]:
        """Returns the names of the files and folders in it, hidden ones too; none if there is no folder. Raises OSError, StorageError."""
        if self.local is not None:
            with self._os_errors():
                return set(os.listdir(self.local)) if self.local.is_dir() else set()
        with storage_errors(self):
            return {name.decode().split('/')[0] for name in self.open().list().result()}

    def exists(self, name: str) -> bool:
        """Returns whether there is a file of this name. Raises StorageError."""
        if self.local is not None:
            with self._os_errors():
                return self._place(name).is_file()
        # By reading it: the files asked for are small.
        try:
            return bool(self.read(name))
        except FileNotFoundError:
            return False

    def sha256(self, name: str) -> str:
        """Returns the file's SHA-256 in hexadecimal. Raises FileNotFoundError, OSError, StorageError: as `read`."""
        if self.local is not None:
            with self._os_errors():
                return checksum.sha256_file(_regular(self._place(name)))
        return hashlib.sha256(self.read(name)).hexdigest()

    def differs(self, name: str, sha256: str) -> str:
        """Returns what is wrong with a file that was written with this SHA-256; '' if nothing is. Raises StorageError: of a bucket."""
        try:
            found = self.sha256(name) if self.local is None else checksum.sha256_file(_regular(self._place(name)))
        except OSError as error:  # one sector of a disk that cannot be read: the other files are looked at all the same
            return f'cannot be read: {error.strerror}'
        return '' if found == sha256 else 'contents differ from those written'

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all its files; does nothing if there is neither. Raises OSError, StorageError."""
        if self.local is None:
            self._check(name)
            with storage_errors(self):
                # A bucket has no folders: `name` is a file, or the beginning of files' names.
                self.open().write(name, None).result()
                (self / name).open().delete_range(tensorstore.KvStore.KeyRange()).result()
            return
        path = self._own_place(name)
        with self._os_errors():
            # Of a link the link itself: what it leads to is not ours.
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def mapped(self, name: str, sha256: str) -> pathlib.Path:
        """Returns a path on this machine that holds the file, to be mapped into memory.

        It is the file's own path, or that of a copy in the cache, which is named by its SHA-256.

        Raises:
          StorageError: the bucket holds another file, or as `read`.
          FileNotFoundError, OSError, DiskFullError.
        """
        if self.local is not None:
            return _regular(self._place(name))
        # By its hash: a store that was replaced has another copy, and equal files of two stores have one.
        copy = Folder(default_cache_dir() / 'buckets')._own_place(sha256)
        if not copy.is_file():
            content = self.read(name)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise errors.StorageError(f'{self.path}/{name}: damaged (contents differ from those written); restore it')
            with atomic.writing(copy, 'wb') as file:
                file.write(content)
        return copy

    @contextlib.contextmanager
    def making(self, name: str) -> 'Iterator[Folder]':
        """Yields an empty folder on this machine that becomes `name`, which must not exist, when the block ends without an error.

        A disk takes it in one step. A bucket takes it file by file, so no manifest may name it before the block has ended.

        Raises DiskFullError, StorageError.
        """
        if self.local is not None:
            with self._os_errors(), atomic.writing_folder(self._own_place(name)) as made:
                yield Folder(made)
            return
        self._check(name)
        with tempfile.TemporaryDirectory(prefix='atlas_jax') as made:
            yield Folder(made)
            # A block that fails leaves the bucket as it was.
            for file in Folder(made).sizes():
                (self / name).write(file, (pathlib.Path(made) / file).read_bytes())

    def on_disk(self) -> pathlib.Path:
        """Returns a path on this machine that has the files: the folder's own, or a copy that goes with the process.

        For small files that others read by their paths. Raises DiskFullError, StorageError.
        """
        return self._copied(self.sizes()) if self.local is None else self.local

    def _copied(self, names: Iterable[str]) -> pathlib.Path:
        """Returns a folder on this machine with copies of a bucket's files. Raises FileNotFoundError, DiskFullError, StorageError."""
        if str(self.path) not in _copies:
            _copies[str(self.path)] = tempfile.TemporaryDirectory(prefix='atlas_jax')
        copies = Folder(_copies[str(self.path)].name)
        for name in names:
            copies.write(name, self.read(name))
        assert copies.local is not None
        return copies.local

    def require_own(self) -> None:
        """Raises StorageError if links lead out of the folder that was given first; called before TensorStore writes here."""
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
        """Returns the path of a local file to write or remove. Raises StorageError: the name or a link on the way leads out."""
        path, first = self._place(name), self._first
        assert first is not None
        # The last part may be a link: it is replaced or removed, and not followed.
        if (parent := path.parent) != first:
            self._named(first, parent.relative_to(first).as_posix(), links=False)
        return path

    def _named(self, folder: pathlib.Path, name: str, links: bool = True) -> pathlib.Path:
        try:
            return untrusted.inside(folder, name, links=links)
        except ValueError as error:
            raise errors.StorageError(f'{self}: {error}; do not use these files') from error

    def open(self) -> tensorstore.KvStore:
        """Opens TensorStore's key-value store of this folder. Raises ValueError: TensorStore's message."""
        return tensorstore.KvStore.open(self.kvstore()).result()


def file_on_disk(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path on this machine that has a file: its own, or that of a bucket's copy, which goes with the process.

    Raises FileNotFoundError, DiskFullError, StorageError: of a bucket.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    folder, _, name = str(path).rpartition('/')
    return Folder(folder)._copied([name]) / name


Place = str | os.PathLike | Folder  # a folder: a path of this machine, gs://bucket/folder, or opened already


@contextlib.contextmanager
def storage_errors(place: Folder, damaged: type[errors.UserError] | None = None, remedy: str = '') -> Iterator[None]:
    """Turns TensorStore's errors inside the block, which are ValueErrors with a text, into the user's.

    Args:
      place: the folder, for messages.
      damaged: the error of damaged files; None makes them StorageErrors.
      remedy: what to do about damage.

    Raises:
      DiskFullError: the disk is full.
      StorageError: a bucket that does not exist, does not answer or may not be used.
      UserError: `damaged`, for everything else.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        # The text is all that tells the errors apart; that of a disk's has the system's number.
        if match := re.search(r'\[OS error (\d+)', text):
            problem = atomic.user_error(str(place), OSError(int(match[1]), ''))
            if problem is not None:
                raise problem from error
        if atomic.says_disk_full(error):
            raise errors.DiskFullError(f'{place}: the disk is full; free some space and run the same command again') from error
        # Source locations stand in brackets behind the message.
        reason = re.sub(r'\s+', ' ', text.split('[')[0]).strip()
        if damaged is not None and not re.match(r'PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|ABORTED', text):
            reason = 'a flipped bit or cut file' if 'DATA_LOSS' in text or 'CRC' in text.upper() else reason
            raise damaged(f'{place}: damaged ({reason}); {remedy}') from error
        raise errors.StorageError(f'{place}: cannot be read or written ({reason}); check the name and that you may use it') from error


def _regular(path: pathlib.Path) -> pathlib.Path:
    """Returns `path`. Raises OSError: a pipe or device, whose reading might never end."""
    if not path.is_dir():  # which gives an error of its own
        try:
            untrusted.require_regular_file(path)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(path)) from error
    return path


def _unless_missing(error: OSError) -> None:
    """Raises an error of os.walk, which hides them all, but that of a folder that is not there."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _is_hidden(name: str) -> bool:
    return any(part.startswith('.') for part in name.split('/'))
