"""Shards: the embeddings of consecutive rows in zarr3 arrays whose chunks carry crc32c; of int8 also their scales.

Each shard lists its files with size and SHA-256 in `shard.json`. The list grows with every chunk written: what it names is finished, and a
build that was killed goes on behind it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np

from atlas_jax import errors
from atlas_jax.index import manifest, quantize
from atlas_jax.io import arrays
from atlas_jax.io.folder import Folder, storage_errors

FOLDER = 'shards'
FILES = 'shard.json'
REMEDY = 'restore it or build the index anew'


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape of a shard: `rows` embeddings of `dim` numbers of type `dtype`, `chunk_rows` of them to a file."""

    rows: int
    dim: int
    dtype: str
    chunk_rows: int

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.rows // self.chunk_rows)

    @property
    def headers(self) -> list[str]:
        """Files that describe the arrays."""
        return ['zarr.json', 'scales/zarr.json'] if self.dtype == 'int8' else ['zarr.json']

    def chunk_files(self, chunk: int) -> list[str]:
        """Files of one chunk."""
        return [f'c/{chunk}/0', f'scales/c/{chunk}'] if self.dtype == 'int8' else [f'c/{chunk}/0']

    def files(self) -> Iterator[tuple[str, int, int]]:
        """(file, first row, row behind the last) of every file."""
        for name in self.headers:
            yield name, 0, self.rows
        for chunk in range(self.chunks):
            for name in self.chunk_files(chunk):
                yield name, chunk * self.chunk_rows, min(self.rows, (chunk + 1) * self.chunk_rows)


class ShardWriter:
    """Writes one shard chunk by chunk; takes up a shard that was left unfinished.

    next_row  first row that is still to be written
    """

    def __init__(self, parent: Folder, name: str, layout: Layout):
        """Opens or creates the shard `name`; one of another layout or with damaged files is begun anew. Raises DiskFullError."""
        self._folder, self._layout = parent / name, layout
        folder, self._files = self._folder, _finished_files(self._folder, layout)
        if not self._files:
            parent.remove(name)
        with storage_errors(folder):
            self._array = arrays.create(folder, [layout.rows, layout.dim], quantize.DTYPES[layout.dtype], [layout.chunk_rows, layout.dim])
            if layout.dtype == 'int8':
                self._scales = arrays.create(folder / 'scales', [layout.rows], np.float32, [layout.chunk_rows])
        if not self._files:
            self._record(layout.headers)

    @property
    def next_row(self) -> int:
        """First row within the shard that is still to be written; a multiple of chunk_rows, or the number of rows."""
        headers = len(self._layout.headers)
        return min(self._layout.rows, (len(self._files) // headers - 1) * self._layout.chunk_rows)

    def write(self, values: np.ndarray, scales: np.ndarray | None = None) -> None:
        """Writes the next chunk, [chunk_rows, dim] (fewer rows at the end of the shard); afterwards it is finished for good.

        Raises DiskFullError; the chunks before stay.
        """
        start = self.next_row
        stop = min(start + self._layout.chunk_rows, self._layout.rows)
        assert values.shape == (stop - start, self._layout.dim), (values.shape, start, stop)
        with storage_errors(self._folder):
            self._array[start:stop].write(values).result()
            if scales is not None:
                self._scales[start:stop].write(scales).result()
        self._record(self._layout.chunk_files(start // self._layout.chunk_rows))

    def _record(self, names: Sequence[str]) -> None:
        for name in names:
            content = self._folder.read(name)
            self._files[name] = [len(content), hashlib.sha256(content).hexdigest()]
        self._folder.write_json(FILES, {**dataclasses.asdict(self._layout), 'files': self._files})


def entry_of(index_folder: Folder, name: str, first_row: int, rows: int, generation: int, model_fingerprint: str) -> manifest.ShardEntry:
    """The manifest's entry of a complete shard of `rows` rows."""
    return manifest.ShardEntry(name=name, first_row=first_row, rows=rows, offset=0, generation=generation,
                               model_fingerprint=model_fingerprint, sha256=(index_folder / FOLDER / name).sha256(FILES))


class Shard:
    """A finished shard, read-only.

    entry     its line in the manifest: which of its rows the index uses
    layout    its shape
    files     {file: [bytes, SHA-256]} as they were written
    """

    def __init__(self, index_folder: Folder, entry: manifest.ShardEntry):
        """Reads the shard's file list; reads no embeddings.

        Raises IndexFolderError: the list is missing or belongs to another index.
        """
        self.folder, self.entry = index_folder / FOLDER / entry.name, entry
        try:
            content = self.folder.read(FILES)
        except OSError as error:
            raise errors.IndexFolderError(f'{self.folder}/{FILES}: {error.strerror}; {REMEDY}') from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise errors.IndexFolderError(f'{self.folder}: not the shard that this index was built with; {REMEDY}')
        body = json.loads(content)
        self.files = body.pop('files')
        self.layout = Layout(**body)

    def used_files(self) -> Iterator[tuple[str, int, int]]:
        """(file, first index row, row behind the last) of the files with rows that the index uses."""
        start, shift = self.entry.offset, self.entry.first_row - self.entry.offset
        for name, first, stop in self.layout.files():
            first, stop = max(first, start), min(stop, start + self.entry.rows)
            if first < stop:
                yield name, first + shift, stop + shift

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The index rows start to stop, all of this shard: ([n, dim] in the stored type, [n] float32 scales of int8).

        Raises IndexFolderError: a file is missing, cut or damaged.
        """
        shift = self.entry.offset - self.entry.first_row
        return self._read(slice(start + shift, stop + shift))

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The given index rows, [n] int64, as `read`."""
        return self._read(rows + (self.entry.offset - self.entry.first_row))

    @property
    def size_bytes(self) -> int:
        """Bytes of the shard's files on disk."""
        return sum(size for size, _ in self.files.values())

    def _read(self, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with storage_errors(self.folder, errors.IndexFolderError, REMEDY):
            pending = [arrays.open_array(self.folder)[rows].read()]
            if self.layout.dtype == 'int8':
                pending.append(arrays.open_array(self.folder / 'scales')[rows].read())
            values, *scales = (np.asarray(future.result()) for future in pending)
        return values, scales[0] if scales else None


def _finished_files(folder: Folder, layout: Layout) -> dict[str, list]:
    """The files of an unfinished shard that can stay: those listed, chunk by chunk, up to the first damaged one."""
    try:
        body = json.loads(folder.read(FILES))
        listed = body.pop('files')
    except (OSError, ValueError, KeyError):
        return {}
    if body != dataclasses.asdict(layout):
        return {}
    there = folder.sizes()

    def is_whole(name: str) -> bool:
        return name in listed and there.get(name, 0) in (listed[name][0], None) and folder.sha256(name) == listed[name][1]

    kept: dict[str, list] = {}
    for names in [layout.headers, *(layout.chunk_files(chunk) for chunk in range(layout.chunks))]:
        if not all(is_whole(name) for name in names):
            break
        kept |= {name: listed[name] for name in names}
    return kept
