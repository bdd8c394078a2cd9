"""The stored embeddings: shards of consecutive rows in zarr3 arrays whose chunks carry crc32c, and all rows of one version of an index.

Each shard lists its files with size and SHA-256 in `shard.json`. The list grows with every chunk written: a file in the list is finished,
so a killed build goes on behind the list's end.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import tensorstore

from atlas_jax import errors
from atlas_jax.index import index_manifest
from atlas_jax.io import arrays, schema, untrusted
from atlas_jax.io.folder import Folder, storage_errors

FOLDER = 'shards'
FILES = 'shard.json'
REMEDY = 'restore it or build the index again'
DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16), 'int8': np.dtype(np.int8)}
_FLOAT32 = DTYPES['float32']
_LARGEST = 127  # -128 is left out, so that a number and its negative are stored alike
# shard.json: a Layout and its files.
_DESCRIPTION = schema.Record({'rows': schema.Integer(1), 'dim': schema.Integer(1, 2**24), 'dtype': schema.Text('|'.join(DTYPES), 'a dtype'),
                              'chunk_rows': schema.Integer(1), 'files': schema.FILES})
_CRC_BYTES = 4  # behind the numbers of each chunk
# Rows read at a time. The decoded chunks of one block are all that a reader holds besides the rows themselves.
_BLOCK_ROWS = 16384


def encode(embeddings: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Converts [n, dim] float32 to numbers [n, dim] of `dtype` and, for int8, scales [n] float32 (else None).

    int8 is symmetric: scale = max|x| / 127, number = round(x / scale). A row of zeros has scale 0.
    """
    if dtype != 'int8':
        return embeddings.astype(DTYPES[dtype]), None
    scales = (np.abs(embeddings).max(axis=1) / _LARGEST).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(embeddings / divisors), -_LARGEST, _LARGEST).astype(np.int8), scales


def decode(numbers: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """Converts stored numbers [n, dim], for int8 with scales [n] float32, to embeddings [n, dim] float32."""
    return numbers.astype(np.float32) * (1 if scales is None else scales[:, None])


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
        """Names of the files that describe the arrays."""
        return ['zarr.json', 'scales/zarr.json'] if self.dtype == 'int8' else ['zarr.json']

    def chunk_files(self, chunk: int) -> list[str]:
        """Names of the files of one chunk."""
        return [f'c/{chunk}/0', f'scales/c/{chunk}'] if self.dtype == 'int8' else [f'c/{chunk}/0']

    @property
    def chunk_bytes(self) -> list[int]:
        """Sizes of the files of one chunk; the last chunk is padded."""
        numbers = self.chunk_rows * self.dim * DTYPES[self.dtype].itemsize + _CRC_BYTES
        return [numbers, self.chunk_rows * _FLOAT32.itemsize + _CRC_BYTES] if self.dtype == 'int8' else [numbers]

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yields (file, first row, row behind the last) of every file."""
        for name in self.headers:
            yield name, 0, self.rows
        for chunk in range(self.chunks):
            for name in self.chunk_files(chunk):
                yield name, chunk * self.chunk_rows, min(self.rows, (chunk + 1) * self.chunk_rows)


class ShardWriter:
    """Writes one shard chunk by chunk; continues a shard that was left unfinished."""

    def __init__(self, parent: Folder, name: str, layout: Layout):
        """Opens or creates the shard `name`. One with another layout or damaged files is begun again.

        Raises DiskFullError, StorageError.
        """
        self._folder, self._layout = parent / name, layout
        self._files = _finished_files(self._folder, layout)
        if not self._files:
            parent.remove(name)
        with storage_errors(self._folder):
            self._array = arrays.create(self._folder, [layout.rows, layout.dim], DTYPES[layout.dtype], [layout.chunk_rows, layout.dim])
            if layout.dtype == 'int8':
                self._scales = arrays.create(self._folder / 'scales', [layout.rows], _FLOAT32, [layout.chunk_rows])
        if not self._files:
            self._record(layout.headers)

    @property
    def next_row(self) -> int:
        """First row of the shard that is still to be written: a multiple of chunk_rows, or the number of rows."""
        # Every chunk has as many files as there are headers, and the headers come first.
        finished_chunks = len(self._files) // len(self._layout.headers) - 1
        return min(self._layout.rows, finished_chunks * self._layout.chunk_rows)

    def write(self, numbers: np.ndarray, scales: np.ndarray | None = None) -> None:
        """Writes the next chunk: numbers [chunk_rows, dim], scales [chunk_rows] float32 of int8; fewer rows at the end of the shard.

        Raises DiskFullError, StorageError; the chunks before stay.
        """
        start = self.next_row
        stop = min(start + self._layout.chunk_rows, self._layout.rows)
        assert numbers.shape == (stop - start, self._layout.dim), (numbers.shape, start, stop)
        with storage_errors(self._folder):
            self._array[start:stop].write(numbers).result()
            if scales is not None:
                self._scales[start:stop].write(scales).result()
        self._record(self._layout.chunk_files(start // self._layout.chunk_rows))

    def _record(self, names: Sequence[str]) -> None:
        """Adds files to the shard's list: from here on they are finished."""
        for name in names:
            # Read back from where it was written: the sum is that of the bytes on disk.
            content = self._folder.read(name)
            self._files[name] = [len(content), hashlib.sha256(content).hexdigest()]
        self._folder.write_json(FILES, {**dataclasses.asdict(self._layout), 'files': self._files})


def entry_of(index_folder: Folder, name: str, first_row: int, rows: int, generation: int,
             model_fingerprint: str) -> index_manifest.ShardEntry:
    """Returns the manifest's entry of a complete shard of `rows` rows."""
    return index_manifest.ShardEntry(name=name, first_row=first_row, rows=rows, offset=0, generation=generation,
                                     model_fingerprint=model_fingerprint, sha256=(index_folder / FOLDER / name).sha256(FILES))


class Shard:
    """A finished shard, read-only.

    entry     its line in the manifest, with the rows that the index uses
    layout    its shape
    files     {file: [bytes, SHA-256]} as they were written
    """

    def __init__(self, index_folder: Folder, entry: index_manifest.ShardEntry):
        """Reads the shard's file list, no embeddings.

        Raises:
          IndexFolderError: the list is missing or belongs to another index.
        """
        self.folder, self.entry = index_folder / FOLDER / entry.name, entry
        try:
            content = self.folder.read(FILES)
        except OSError as error:
            raise errors.IndexFolderError(f'{self.folder}/{FILES}: {error.strerror}; {REMEDY}') from error
        # The list holds the sums of all files, so its own sum stands for the whole shard.
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise errors.IndexFolderError(f'{self.folder}: not the shard that this index was built with; {REMEDY}')
        try:
            self.layout, self.files = _parse(content)
            self._check_layout()
        except ValueError as error:  # somebody made this list, and its sum too
            raise errors.IndexFolderError(f'{self.folder}/{FILES}: damaged ({error}); {REMEDY}') from error

    def used_files(self) -> Iterator[tuple[str, int, int]]:
        """Yields (file, first index row, row behind the last) of the files with rows that the index uses."""
        start, shift = self.entry.offset, self.entry.first_row - self.entry.offset
        for name, first, stop in self.layout.files():
            first, stop = max(first, start), min(stop, start + self.entry.rows)
            if first < stop:
                yield name, first + shift, stop + shift

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the index rows start to stop, all of this shard: numbers [n, dim] as stored and, of int8, scales [n] float32.

        Raises:
          IndexFolderError: a file is missing, cut or damaged.
        """
        shift = self.entry.offset - self.entry.first_row
        return self._read(slice(start + shift, stop + shift))

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the given index rows, [n] int64; returns and raises as `read`."""
        return self._read(rows + (self.entry.offset - self.entry.first_row))

    def _check_layout(self) -> None:
        """Raises ValueError if the list lacks a file, or a chunk has another size than its numbers: what is read later is bounded by it."""
        layout, entry = self.layout, self.entry
        if entry.offset + entry.rows > layout.rows:
            raise ValueError(f'{layout.rows} rows, the index uses {entry.offset} to {entry.offset + entry.rows - 1}')
        if len(self.files) != (layout.chunks + 1) * len(layout.headers):  # before the chunks are counted through
            raise ValueError(f'{len(self.files)} files of {layout.chunks} chunks')
        for chunk in range(layout.chunks):
            for name, size in zip(layout.chunk_files(chunk), layout.chunk_bytes, strict=True):
                if self.files.get(name, (0, ''))[0] != size:
                    raise ValueError(f'{name} has {self.files.get(name, (0, ""))[0]} bytes, expected {size}')
        if not set(layout.headers) <= self.files.keys():
            raise ValueError('a description of an array is missing')

    @property
    def size_bytes(self) -> int:
        """Bytes of the shard's files on disk."""
        return sum(size for size, _ in self.files.values())

    def _read(self, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with storage_errors(self.folder, errors.IndexFolderError, REMEDY):
            # Both reads are begun before either is waited for.
            pending = [self._open(self.folder, (self.layout.rows, self.layout.dim), DTYPES[self.layout.dtype])[rows].read()]
            if self.layout.dtype == 'int8':
                pending.append(self._open(self.folder / 'scales', (self.layout.rows,), _FLOAT32)[rows].read())
            numbers, *scales = (np.asarray(future.result()) for future in pending)
        return numbers, scales[0] if scales else None

    def _open(self, folder: Folder, shape: tuple[int, ...], dtype: np.dtype) -> tensorstore.TensorStore:
        """Opens an array. Raises IndexFolderError: it is not the one that the list describes."""
        array = arrays.open_array(folder)
        if tuple(array.shape) != shape or array.dtype.numpy_dtype != dtype:
            raise errors.IndexFolderError(f'{folder}: damaged ({array.dtype.name} {list(array.shape)}, expected {dtype} {list(shape)}); '
                                          f'{REMEDY}')
        return array


class StoredEmbeddings:
    """The embeddings of one version of an index as they are stored, read from its shards.

    manifest  the version
    shards    its shards
    """

    def __init__(self, folder: Folder, current: index_manifest.Manifest):
        """Checks that every file is there in full length; reads no embeddings.

        Raises:
          IndexFolderError: a file is missing, cut or of another index.
        """
        self.manifest = current
        self.shards = [Shard(folder, entry) for entry in current.shards]
        self._first_rows = np.array([entry.first_row for entry in current.shards], np.int64)
        # One listing for all shards: in a bucket each look at a file is a request.
        there = (folder / FOLDER).sizes()
        for shard in self.shards:
            if (shard.layout.dim, shard.layout.dtype) != (current.dim, current.dtype):
                raise errors.IndexFolderError(f'{shard.folder}: of another shape or type than this index ({shard.layout.dim} x '
                                              f'{shard.layout.dtype}, expected {current.dim} x {current.dtype}); {REMEDY}')
            for name, first, stop in shard.used_files():
                size = there.get(f'{shard.entry.name}/{name}', -1)
                if size not in (shard.files[name][0], None):
                    what = 'missing' if size < 0 else f'{size} bytes long instead of {shard.files[name][0]}'
                    raise errors.IndexFolderError(f'{shard.folder}/{name}: {what} (rows {first} to {stop - 1}); {REMEDY}')

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored numbers."""
        return DTYPES[self.manifest.dtype]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the given rows, [n] int64, in their order: numbers [n, dim] as stored and, of int8, scales [n] float32.

        Raises:
          IndexFolderError: a file is missing, cut or damaged.
        """
        numbers, scales = self._empty(len(rows))
        owners = np.searchsorted(self._first_rows, rows, side='right') - 1
        for owner in np.unique(owners):  # one read a shard, whatever the order of the rows
            chosen = owners == owner
            numbers[chosen], part = self.shards[owner].take(rows[chosen])
            if scales is not None:
                scales[chosen] = part
        return numbers, scales

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the rows start to stop, [stop - start, dim] with zeros past the last row; returns and raises as `take`."""
        numbers, scales = self._empty(stop - start)
        for shard in self.shards:
            entry = shard.entry
            last = min(stop, entry.first_row + entry.rows)
            for first in range(max(start, entry.first_row), last, _BLOCK_ROWS):
                behind = min(last, first + _BLOCK_ROWS)
                numbers[first - start:behind - start], part = shard.read(first, behind)
                if scales is not None:
                    scales[first - start:behind - start] = part
        return numbers, scales

    def _empty(self, rows: int) -> tuple[np.ndarray, np.ndarray | None]:
        scales = arrays.aligned((rows,), _FLOAT32) if self.manifest.dtype == 'int8' else None
        return arrays.aligned((rows, self.manifest.dim), self.dtype), scales


def _parse(content: bytes) -> tuple[Layout, dict[str, list]]:
    """Returns a shard's layout and {file: [bytes, SHA-256]}. Raises ValueError."""
    body = untrusted.parse_json(content)
    _DESCRIPTION.check(body)
    files = body.pop('files')
    return Layout(**body), files


def _finished_files(folder: Folder, layout: Layout) -> dict[str, list]:
    """Returns the files of an unfinished shard that can stay: those listed, chunk by chunk, up to the first damaged one."""
    try:
        found, listed = _parse(folder.read(FILES))
    except (OSError, ValueError):
        return {}
    # Through a link TensorStore would write somewhere else: such a shard is begun again.
    if found != layout or folder.has_links():
        return {}
    there = folder.sizes()

    def is_whole(name: str) -> bool:
        # In a bucket sizes are unknown (None), and the sum alone decides.
        return name in listed and there.get(name, 0) in (listed[name][0], None) and folder.sha256(name) == listed[name][1]

    kept: dict[str, list] = {}
    for names in [layout.headers, *(layout.chunk_files(chunk) for chunk in range(layout.chunks))]:
        if not all(is_whole(name) for name in names):
            break
        kept |= {name: listed[name] for name in names}
    return kept
