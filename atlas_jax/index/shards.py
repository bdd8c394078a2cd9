"""Shards: the embeddings of consecutive rows in a zarr3 array whose chunks carry crc32c.

zarr3 reads a missing chunk as the fill value, so each shard lists its files with size and SHA-256 in `shard.json`. The list grows with
every chunk written: what it names is finished, and a build that was killed goes on behind it.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator

import numpy as np
import tensorstore

from atlas_jax import errors
from atlas_jax.index import manifest
from atlas_jax.io import atomic, checksum

FOLDER = 'shards'
_FILES = 'shard.json'
_REMEDY = 'restore it or build the index anew'


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape of a shard: `rows` embeddings of `dim` numbers of type `dtype`, `chunk_rows` of them to a file."""

    rows: int
    dim: int
    dtype: str
    chunk_rows: int

    @property
    def chunks(self) -> int:
        """Number of chunk files."""
        return -(-self.rows // self.chunk_rows)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What verification found: the file, what is wrong with it, and the index rows [first_row, stop_row) it hits."""

    path: pathlib.Path
    what: str
    first_row: int
    stop_row: int

    def __str__(self) -> str:
        return f'{self.path}: {self.what} (rows {self.first_row} to {self.stop_row - 1})'


class ShardWriter:
    """Writes one shard chunk by chunk; takes up a shard that was left unfinished.

    next_row  first row that is still to be written
    """

    def __init__(self, folder: pathlib.Path, layout: Layout):
        """Opens or creates the shard; one with another layout or damaged files is started anew. Raises DiskFullError."""
        self._folder, self._layout = folder, layout
        self._files = _finished_files(folder, layout)
        with _storage_errors(folder), atomic.disk_full_is_a_user_error(folder):
            if not self._files:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            self._array = tensorstore.open(_spec(folder, layout), open=True, create=True).result()
            if not self._files:
                self._record('zarr.json')

    @property
    def next_row(self) -> int:
        """First row within the shard that is still to be written; a multiple of chunk_rows, or the number of rows."""
        return min(self._layout.rows, (len(self._files) - 1) * self._layout.chunk_rows)

    def write(self, embeddings: np.ndarray) -> None:
        """Writes the next chunk, [chunk_rows, dim] (fewer rows at the end of the shard); afterwards it is finished for good.

        Raises DiskFullError; the chunks before stay.
        """
        start = self.next_row
        stop = min(start + self._layout.chunk_rows, self._layout.rows)
        assert embeddings.shape == (stop - start, self._layout.dim), (embeddings.shape, start, stop)
        with _storage_errors(self._folder), atomic.disk_full_is_a_user_error(self._folder):
            self._array[start:stop].write(embeddings).result()
            self._record(_chunk_file(start // self._layout.chunk_rows))

    def finish(self, first_row: int, generation: int) -> manifest.ShardEntry:
        """The manifest's entry of the complete shard."""
        assert self.next_row == self._layout.rows
        digest = checksum.sha256_file(self._folder / _FILES)
        return manifest.ShardEntry(self._folder.name, first_row, self._layout.rows, generation, digest)

    def _record(self, name: str) -> None:
        path = self._folder / name
        self._files[name] = [path.stat().st_size, checksum.sha256_file(path)]
        atomic.write_json(self._folder / _FILES, {**dataclasses.asdict(self._layout), 'files': self._files})


class Shard:
    """A finished shard, read-only.

    entry   its line in the manifest
    layout  its shape
    """

    def __init__(self, index_folder: pathlib.Path, entry: manifest.ShardEntry):
        """Reads the shard's file list and looks whether the files are there; reads no embeddings.

        Raises IndexFolderError: a file is missing, cut, or belongs to another index.
        """
        self._folder, self.entry = index_folder / FOLDER / entry.name, entry
        try:
            content = (self._folder / _FILES).read_bytes()
        except OSError as error:
            raise errors.IndexFolderError(f'{self._folder / _FILES}: {error.strerror}; {_REMEDY}') from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise errors.IndexFolderError(f'{self._folder}: not the shard that this index was built with; {_REMEDY}')
        body = json.loads(content)
        self._files = body.pop('files')
        self.layout = Layout(**body)
        self.check_files(0, self.layout.rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of the shard, [stop - start, dim] in the stored dtype.

        Raises IndexFolderError: a file is missing, cut or damaged.
        """
        self.check_files(start, stop)
        with _storage_errors(self._folder):
            return np.asarray(self._open()[start:stop].read().result())

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The given rows of the shard, [n] int to [n, dim]. Raises as `read`."""
        for chunk in np.unique(rows // self.layout.chunk_rows):
            self.check_files(chunk * self.layout.chunk_rows, chunk * self.layout.chunk_rows + 1)
        with _storage_errors(self._folder):
            return np.asarray(self._open()[rows.astype(np.int64)].read().result())

    def check_files(self, start: int, stop: int) -> None:
        """Looks whether the files of rows start to stop are there in full length. Raises IndexFolderError."""
        chunks = range(start // self.layout.chunk_rows, -(-stop // self.layout.chunk_rows))
        for name in ['zarr.json', *map(_chunk_file, chunks)]:
            if problem := self._problem(name, contents=False):
                raise errors.IndexFolderError(f'{problem}; {_REMEDY}')

    def verify(self) -> list[Problem]:
        """Reads every file and compares its SHA-256; also names files that do not belong there."""
        names = ['zarr.json', *map(_chunk_file, range(self.layout.chunks))]
        problems = [problem for name in names if (problem := self._problem(name, contents=True))]
        found = {path.relative_to(self._folder).as_posix() for path in self._folder.rglob('*') if path.is_file()}
        first, stop = self.entry.first_row, self.entry.first_row + self.layout.rows
        foreign = sorted(found - {*names, _FILES})
        return problems + [Problem(self._folder / name, 'does not belong to this shard', first, stop) for name in foreign]

    @property
    def size_bytes(self) -> int:
        """Bytes of the shard's files on disk."""
        return sum(size for size, _ in self._files.values())

    def _open(self) -> tensorstore.TensorStore:
        return tensorstore.open(_spec(self._folder, self.layout), open=True).result()

    def _problem(self, name: str, contents: bool) -> Problem | None:
        path, (size, sha256) = self._folder / name, self._files[name]
        first, stop = 0, self.layout.rows
        if name != 'zarr.json':
            first = int(name.split('/')[1]) * self.layout.chunk_rows
            stop = min(stop, first + self.layout.chunk_rows)
        if not path.is_file():
            what = 'missing'
        elif path.stat().st_size != size:
            what = f'{path.stat().st_size} bytes long instead of {size}'
        elif contents and checksum.sha256_file(path) != sha256:
            what = 'contents differ from those written'
        else:
            return None
        return Problem(path, what, self.entry.first_row + first, self.entry.first_row + stop)


def _finished_files(folder: pathlib.Path, layout: Layout) -> dict[str, list]:
    """The files of an unfinished shard that can stay: those listed, in order, up to the first damaged one."""
    try:
        body = json.loads((folder / _FILES).read_text(encoding='utf-8'))
        listed = body.pop('files')
    except (OSError, ValueError, KeyError):
        return {}
    if body != dataclasses.asdict(layout):
        return {}
    kept: dict[str, list] = {}
    for name in ['zarr.json', *map(_chunk_file, range(layout.chunks))]:
        path = folder / name
        if name not in listed or not path.is_file() or [path.stat().st_size, checksum.sha256_file(path)] != listed[name]:
            break
        kept[name] = listed[name]
    return kept


def _chunk_file(chunk: int) -> str:
    return f'c/{chunk}/0'


def _spec(folder: pathlib.Path, layout: Layout) -> dict:
    return {
        'driver': 'zarr3',
        'kvstore': {'driver': 'file', 'path': f'{folder}/'},
        'store_data_equal_to_fill_value': True,
        'metadata': {
            'shape': [layout.rows, layout.dim],
            'data_type': layout.dtype,
            'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': [layout.chunk_rows, layout.dim]}},
            'codecs': [{'name': 'bytes', 'configuration': {'endian': 'little'}}, {'name': 'crc32c'}],
        },
    }


@contextlib.contextmanager
def _storage_errors(folder: pathlib.Path) -> Iterator[None]:
    """TensorStore reports everything as ValueError with a text: turns it into the user's error."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if re.search(r'No space left on device|Disk quota exceeded|ENOSPC|EDQUOT', text):
            raise errors.DiskFullError(f'{folder}: the disk is full; free some space and run the same command again') from error
        reason = 'a flipped bit or cut file' if 'DATA_LOSS' in text or 'CRC' in text.upper() else text.split('[')[0].strip()
        raise errors.IndexFolderError(f'{folder}: damaged ({reason}); {_REMEDY}') from error
