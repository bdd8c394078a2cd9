"""The list of a folder's files with sizes and checksums: written with the folder, and compared when
the folder is loaded.

    FOLDER/checksums.json   {"format", "version", "files": {name: {"bytes", "blocks": [[bytes,
    sha256, part], ...]}}, "list_sha256"}

Files that are not listed belong to the user and are never damage. A part is a named range of a
file, such as a tensor in a safetensors file. Blocks end where parts end, so that a wrong checksum
tells which part is damaged.
"""

import concurrent.futures
import contextlib
import contextvars
import dataclasses
import errno
import hashlib
import itertools
import os
import pathlib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.io import checksum, schema, versioned_folder
from atlas_jax.io.folder import Folder, Place

FILE = 'checksums.json'
# Blocks are hashed in parallel, so that one large file keeps all processors busy.
BLOCK_BYTES = 64 << 20
_MAX_THREADS = 32  # on a network disk, more threads than processors pay
_ABOVE = 3  # a list may lie so many folders above a file: RUN/tokenizers/reader/spiece.model

Part = tuple[int, int, str]  # first byte, end, name
_Block = tuple[int, int, str]
_TEXT = schema.Text('(?s).*', 'text')
_FACTS = schema.ObjectOf({
    'bytes': schema.Integer(),
    'blocks': schema.Array(schema.TupleOf((schema.Integer(), _TEXT, _TEXT)))})


def _contradiction(listed: dict[str, Any]) -> str:
    wrong = [name for name, facts in listed['files'].items()
             if sum(size for size, _, _ in facts['blocks']) != facts['bytes']]
    return f'{wrong[0]}: sizes that do not fit each other' if wrong else ''


KIND = versioned_folder.FolderKind[dict[str, Any]](
    'a list of checksums', schema.ObjectOf({'files': schema.Table(schema.FileName(), _FACTS)}),
    errors.ModelFolderError, 'atlas-jax', 'atlas_jax checksums', file=FILE, checksum='list_sha256',
    contradiction=_contradiction,
    remedy='restore it from a copy; --no_verify loads the folder as it is')
_is_checking: contextvars.ContextVar[bool] = contextvars.ContextVar('is_checking', default=True)
# State of files that were found whole, because a command opens a folder several times.
_whole: dict[tuple[str, str], tuple[int, int, int]] = {}


@dataclasses.dataclass(frozen=True)
class DamagedFile:
    """A file that is not as it was written.

    path: the file, or gs://...
    what: the damage, in a few words.
    parts: names of the damaged parts, if the list has parts.
    """

    path: pathlib.Path | str
    what: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'{self.path}: {self.what}{named(self.parts)}'


def named(parts: Iterable[str]) -> str:
    """Returns ", in a, b, c and 4 more" for messages; '' for no parts."""
    parts = list(parts)
    more = f' and {len(parts) - 3} more' if len(parts) > 3 else ''
    return f', in {", ".join(parts[:3])}{more}' if parts else ''


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Loads folders inside the block as they are, without comparing checksums."""
    token = _is_checking.set(False)
    try:
        yield
    finally:
        _is_checking.reset(token)


def is_checking() -> bool:
    """Returns whether loading compares folders with their lists."""
    return _is_checking.get()


def write(
    folder: Place, names: Iterable[str] | None = None,
    parts: Mapping[str, Sequence[Part]] = types.MappingProxyType({}),
    pending: Mapping[str, bytes] = types.MappingProxyType({})
) -> None:
    """Writes the list of a folder's files.

    Args:
      names: files to list, relative to the folder with `/`; None lists all except hidden ones.
      parts: named parts of files, in order and without overlap.
      pending: content of files that the caller writes after the list.

    Raises:
      DiskFullError, OSError, StorageError.
    """
    folder = Folder(folder)
    facts = _facts(folder,
                   [name for name in folder.sizes() if name != FILE] if names is None else names,
                   parts)
    for name, content in pending.items():
        facts[name] = {
            'bytes': len(content),
            'blocks': [[len(content), hashlib.sha256(content).hexdigest(), '']]}
    KIND.write(folder, {'files': facts})


def add(folder: Place, names: Iterable[str]) -> None:
    """Adds files, or their new content, to the folder's list.

    Raises ModelFolderError, DiskFullError, OSError, StorageError.
    """
    folder = Folder(folder)
    KIND.write(folder, {'files': {**(read(folder) or {}), **_facts(folder, names, {})}})


def read(folder: Place) -> dict[str, dict[str, Any]] | None:
    """Returns {file: {"bytes", "blocks"}}; None if the folder has no list.

    Raises ModelFolderError: the list is damaged or of another version. StorageError: the folder
    cannot be read.
    """
    folder = Folder(folder)
    content = KIND.content(folder)
    body = None if content is None else content[0]
    # Either field shows that the list is ours: a flipped bit must not make it another program's.
    if not isinstance(body, dict) or (body.get('format') != KIND.format
                                      and KIND.checksum not in body):
        return None
    return KIND.parse(folder, {**body, 'format': KIND.format})['files']


def damage(
    folder: Place, under: Iterable[str] = ('', ), share: tuple[int, int] = (0, 1)
) -> list[DamagedFile] | None:
    """Compares the files of a folder with its list; returns the damage, None if there is no list.

    Args:
      under: prefixes of the names to compare.
      share: (process, processes): each process hashes its share of the blocks.

    Raises:
      ModelFolderError: the list itself is damaged. StorageError: the folder cannot be read.
    """
    folder = Folder(folder)
    listed = read(folder)
    if listed is None:
        return None
    wanted = {name: facts for name, facts in listed.items() if name.startswith(tuple(under))}
    with _pool() as pool:
        sizes = dict(
            zip(wanted,
                pool.map(lambda name: _size_problem(folder, name, wanted[name]['bytes']), wanted),
                strict=True))
    found = {name: DamagedFile(_path(folder, name), what) for name, what in sizes.items() if what}
    looked_at = {name: _state(folder, name) for name in wanted if name not in found}
    blocks = [(name, *block) for name, facts in wanted.items() if name in looked_at and (
        looked_at[name] is None or _whole.get(_key(folder, name, facts)) != looked_at[name])
              for block in _stored_blocks(facts)][share[0]::share[1]]
    with _pool() as pool:
        for (name, _, _, digest, part), now in zip(
                blocks, pool.map(lambda block: _digest_now(folder, block), blocks), strict=True):
            if now != digest:
                before = found[name].parts if name in found else ()
                what = now if now.startswith(
                    'cannot') else 'damaged (its content differs from the written one)'
                found[name] = DamagedFile(_path(folder, name), what,
                                     (*before, part) if part and part not in before else before)
    if share[1] == 1:
        _whole.update({
            _key(folder, name, wanted[name]): state
            for name, state in looked_at.items()
            if state and name not in found})
    return [found[name] for name in sorted(found)]


def check(folder: Place, under: Iterable[str] = ('',)) -> None:
    """Raises ModelFolderError if a file differs from the folder's list. A folder without a list
    passes, and inside `unchecked` every folder does.
    """
    if is_checking() and (found := damage(folder, under)):
        raise errors.ModelFolderError(described(found))


def check_file(path: pathlib.Path) -> None:
    """Compares one file with the list of its folder, or of a folder above. A file that no list
    names passes. Raises ModelFolderError.
    """
    for folder in list(path.parents)[:_ABOVE] if is_checking() else ():
        name = path.relative_to(folder).as_posix()
        if name in (read(folder) or {}):
            check(folder, (name,))
            return


def described(found: list[DamagedFile], remedy: str = '') -> str:
    """Returns the message of a damaged folder: its first damaged file, and what to do."""
    more = f' (and {len(found) - 1} more files)' if len(found) > 1 else ''
    remedy = remedy or ('restore the folder from a copy or write it again; --no_verify loads it as '
                        'it is')
    return f'{found[0]}{more}; {remedy}'


def _facts(folder: Folder, names: Iterable[str],
           parts: Mapping[str, Sequence[Part]]) -> dict[str, dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = {}
    hashed = {}
    with _pool() as pool:
        for name in sorted(names):
            cuts = parts.get(name, ())
            size = folder.size(name, at_least=max((stop for _, stop, _ in cuts), default=0))
            facts[name] = {'bytes': size}
            hashed[name] = [(block, pool.submit(_digest, folder, name, *block[:2]))
                            for block in _blocks(size, cuts)]
        for name, jobs in hashed.items():
            facts[name]['blocks'] = [
                [stop - start, job.result(), part] for (start, stop, part), job in jobs]
    return facts


def _pool() -> concurrent.futures.ThreadPoolExecutor:
    # hashlib and reads release Python's lock.
    return concurrent.futures.ThreadPoolExecutor(min(_MAX_THREADS, 2 * (os.cpu_count() or 1)))


def _blocks(size: int, parts: Sequence[Part]) -> list[_Block]:
    """Cuts a file at its parts, and the parts into blocks of at most BLOCK_BYTES. An empty file has
    one block.
    """
    cuts: list[Part] = []
    end = 0
    for start, stop, name in [*parts, (size, size, '')]:
        if start > end:
            cuts.append((end, start, ''))
        if stop > start:
            cuts.append((start, stop, name))
        end = max(end, stop)
    return [(at, min(at + BLOCK_BYTES, stop), name)
            for start, stop, name in cuts
            for at in range(start, stop, BLOCK_BYTES)] or [(0, 0, '')]


def _stored_blocks(facts: dict[str, Any]) -> list[tuple[int, int, str, str]]:
    """Returns (first byte, end, sha256, part) of each block in the list."""
    ends = itertools.accumulate(size for size, _, _ in facts['blocks'])
    return [(end - size, end, digest, part)
            for end, (size, digest, part) in zip(ends, facts['blocks'], strict=True)]


def _digest(folder: Folder, name: str, start: int, stop: int) -> str:
    digest = hashlib.sha256()
    for piece in folder.pieces(name, start, stop):
        digest.update(piece)
    return digest.hexdigest()


def _digest_now(folder: Folder, block: tuple[str, int, int, str, str]) -> str:
    try:
        return _digest(folder, *block[:3])
    except (OSError, errors.StorageError) as error:  # a disk that fails gives EIO
        return _cannot_be_read(error)


def _size_problem(folder: Folder, name: str, size: int) -> str:
    try:
        # A bucket does not tell sizes: the last byte and everything after it is read.
        found = folder.size(name, at_least=max(size - 1, 0))
    except (OSError, errors.StorageError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return 'is missing'
        # A pipe would block for ever.
        return 'is no file' if isinstance(error, OSError) and error.errno in (
            errno.EINVAL, errno.EISDIR) else _cannot_be_read(error)
    return '' if found == size else f'damaged ({found:,} bytes, expected {size:,})'


def _cannot_be_read(error: OSError | errors.StorageError) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    return f'cannot be read ({cause.strerror if isinstance(cause, OSError) else error})'


def _key(folder: Folder, name: str, facts: dict[str, Any]) -> tuple[str, str]:
    return str(folder if folder.local is
               None else folder.local.absolute()) + f'/{name}', checksum.json_sha256(facts)


def _path(folder: Folder, name: str) -> pathlib.Path | str:
    return (folder / name).path


def _state(folder: Folder, name: str) -> tuple[int, int, int] | None:
    """Returns values that change with a file; None in a bucket, whose files are always compared."""
    if folder.local is None:
        return None
    status = (folder.local / name).stat()
    return status.st_size, status.st_mtime_ns, status.st_ino

