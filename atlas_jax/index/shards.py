"""The stored embeddings of an index: shards of consecutive rows, in zarr3 arrays whose chunks have
a crc32c.

`shard.json` lists the files of a shard with size and SHA-256. The list grows with every chunk
written. A listed file is finished, so a killed build continues after the last listed chunk.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore

from atlas_jax import errors
from atlas_jax.index import index_manifest
from atlas_jax.io import arrays, schema, untrusted, versioned_folder
from atlas_jax.io.folder import Folder, storage_errors

FILES = 'shard.json'
DTYPES = dict(zip(index_manifest.DTYPES, map(np.dtype, (np.float32, ml_dtypes.bfloat16, np.int8)),
                  strict=True))
_FLOAT32 = DTYPES['float32']
_LARGEST = 127  # -128 is unused, so that a number and its negative are stored alike
_CRC_BYTES = 4  # after the numbers of each chunk
# Rows read at a time. Besides the rows, a reader holds the decoded chunks of one block.
_BLOCK_ROWS = 16384


def encode(embeddings: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Converts [n, dim] float32 to numbers [n, dim] of `dtype` and, for int8, scales [n] float32
    (else None).

    int8 is symmetric: scale = max|x| / 127, number = round(x / scale). A row of zeros has scale 0.
    """
    if dtype != 'int8':
        return embeddings.astype(DTYPES[dtype]), None
    scales = (np.abs(embeddings).max(axis=1) / _LARGEST).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(embeddings / divisors), -_LARGEST, _LARGEST).astype(np.int8), scales


def decode(numbers: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """Converts stored numbers [n, dim], for int8 with scales [n] float32, to embeddings [n, dim]
    float32.
    """
    return numbers.astype(np.float32) * (1 if scales is None else scales[:, None])


@dataclasses.dataclass(frozen=True)
class ShardLayout:
    """Shape of a shard: `rows` embeddings of `dim` numbers of type `dtype`, `chunk_rows` rows in a
    file.
    """

    rows: schema.Positive
    dim: index_manifest.Dim
    dtype: index_manifest.Dtype
    chunk_rows: schema.Positive

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
        return [numbers, self.chunk_rows * _FLOAT32.itemsize +
                _CRC_BYTES] if self.dtype == 'int8' else [numbers]

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yields (file, first row, row behind the last) of every file."""
        for name in self.headers:
            yield name, 0, self.rows
        for chunk in range(self.chunks):
            for name in self.chunk_files(chunk):
                yield name, chunk * self.chunk_rows, min(self.rows, (chunk + 1) * self.chunk_rows)


class ShardWriter:
    """Writes one shard chunk by chunk; continues an unfinished shard."""

    def __init__(self, parent: Folder, name: str, layout: ShardLayout):
        """Opens or creates the shard `name`. A shard with another layout or damaged files is
        written again from the start.

        Raises DiskFullError, StorageError.
        """
        self._folder, self._layout = parent / name, layout
        self._files = _finished_files(self._folder, layout)
        if not self._files:
            parent.remove(name)
        with storage_errors(self._folder):
            self._array = arrays.create(self._folder, [layout.rows, layout.dim],
                                        DTYPES[layout.dtype], [layout.chunk_rows, layout.dim])
            if layout.dtype == 'int8':
                self._scales = arrays.create(self._folder / 'scales', [layout.rows], _FLOAT32,
                                             [layout.chunk_rows])
        if not self._files:
            self._record(layout.headers)

    @property
    def next_row(self) -> int:
        """First row that is still to be written: a multiple of chunk_rows, or the number of rows.
        """
        # Every chunk has as many files as there are headers; the headers are written first.
        finished_chunks = len(self._files) // len(self._layout.headers) - 1
        return min(self._layout.rows, finished_chunks * self._layout.chunk_rows)

    def write(self, numbers: np.ndarray, scales: np.ndarray | None = None) -> None:
        """Writes the next chunk: numbers [chunk_rows, dim] and, for int8, scales [chunk_rows]
        float32; fewer rows at the end of the shard.

        Raises DiskFullError, StorageError; the earlier chunks stay.
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
        """Adds files to the shard's list, which marks them as finished."""
        for name in names:
            # Read back, so that the checksum covers the bytes on the disk.
            content = self._folder.read(name)
            self._files[name] = len(content), hashlib.sha256(content).hexdigest()
        self._folder.write_json(FILES, {**dataclasses.asdict(self._layout), 'files': self._files})


def entry_of(index_folder: Folder, name: str, first_row: int, rows: int, generation: int,
             model_fingerprint: str) -> index_manifest.ShardEntry:
    """Returns the manifest's entry of a complete shard of `rows` rows."""
    return index_manifest.ShardEntry(
        name=name, first_row=first_row, rows=rows, offset=0, generation=generation,
        model_fingerprint=model_fingerprint,
        sha256=(index_folder / index_manifest.SHARDS / name).sha256(FILES))


class Shard:
    """A finished shard, read-only.

    entry     entry of the manifest, with the rows that the index uses
    layout    shape of the shard
    files     {file: (bytes, SHA-256)} as they were written
    """

    def __init__(self, index_folder: Folder, entry: index_manifest.ShardEntry):
        """Reads the shard's file list, no embeddings.

        Raises:
          IndexFolderError: the list is missing or belongs to another index.
        """
        self.folder, self.entry = index_folder / index_manifest.SHARDS / entry.name, entry
        try:
            content = self.folder.read(FILES)
        except OSError as error:
            raise errors.IndexFolderError(
                f'{self.folder}/{FILES}: {error.strerror}; {index_manifest.REMEDY}') from error
        # The list holds the checksums of all files, so its own checksum covers the whole shard.
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise errors.IndexFolderError(f'{self.folder}: not the shard that this index was '
                                          f'built with; {index_manifest.REMEDY}')
        try:
            self.layout, self.files = _parse(content)
            self._check_layout()
        except ValueError as error:  # somebody made this list, and its checksum too
            raise errors.IndexFolderError(
                f'{self.folder}/{FILES}: damaged ({error}); {index_manifest.REMEDY}') from error

    def used_files(self) -> Iterator[tuple[str, int, int]]:
        """Yields (file, first index row, row after the last) of the files with rows that the index
        uses.
        """
        start, shift = self.entry.offset, self.entry.first_row - self.entry.offset
        for name, first, stop in self.layout.files():
            first, stop = max(first, start), min(stop, start + self.entry.rows)
            if first < stop:
                yield name, first + shift, stop + shift

    def check_fits(self, current: index_manifest.Manifest) -> None:
        """Raises IndexFolderError if the shard has another size or type than the index."""
        if (self.layout.dim, self.layout.dtype) != (current.dim, current.dtype):
            raise errors.IndexFolderError(
                f'{self.folder}: of another shape or type than this index ({self.layout.dim} x '
                f'{self.layout.dtype}, expected {current.dim} x {current.dtype}); '
                f'{index_manifest.REMEDY}')

    def damage(self, there: Mapping[str, int | None], *, contents: bool,
               owner: str = '') -> Iterator[versioned_folder.Damage]:
        """Yields the damage of the files whose rows the index uses.

        `there` is what the folder's sizes() returned; see versioned_folder.damaged_files for the
        others. Raises StorageError.
        """
        rows = {name: (first, stop) for name, first, stop in self.used_files()}
        whole = self.entry.first_row, self.entry.first_row + self.entry.rows
        unused = {FILES, *self.files} - rows.keys()
        yield from versioned_folder.damaged_files(
            self.folder, {name: self.files[name] for name in rows}, contents=contents, owner=owner,
            there={name: size for name, size in there.items() if name not in unused},
            rows=lambda name: rows.get(name, whole))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the index rows start to stop, which lie in this shard: numbers [n, dim] as stored
        and, for int8, scales [n] float32.

        Raises:
          IndexFolderError: a file is missing, cut or damaged.
        """
        shift = self.entry.offset - self.entry.first_row
        return self._read(slice(start + shift, stop + shift))

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the given index rows, [n] int64; returns and raises as `read`."""
        return self._read(rows + (self.entry.offset - self.entry.first_row))

    def _check_layout(self) -> None:
        """Raises ValueError if the list lacks a file, or a chunk's size does not fit its numbers.

        This bounds the bytes of later reads.
        """
        layout, entry = self.layout, self.entry
        if entry.offset + entry.rows > layout.rows:
            raise ValueError(f'{layout.rows} rows, the index uses {entry.offset} to '
                             f'{entry.offset + entry.rows - 1}')
        # Checked before the loop over the chunks.
        if len(self.files) != (layout.chunks + 1) * len(layout.headers):
            raise ValueError(f'{len(self.files)} files of {layout.chunks} chunks')
        for chunk in range(layout.chunks):
            for name, size in zip(layout.chunk_files(chunk), layout.chunk_bytes, strict=True):
                if self.files.get(name, (0, ''))[0] != size:
                    raise ValueError(f'{name} has {self.files.get(name, (0, ""))[0]} bytes, '
                                     f'expected {size}')
        if not set(layout.headers) <= self.files.keys():
            raise ValueError('a description of an array is missing')

    @property
    def size_bytes(self) -> int:
        """Bytes of the shard's files on disk."""
        return sum(size for size, _ in self.files.values())

    def _read(self, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with storage_errors(self.folder, errors.IndexFolderError, index_manifest.REMEDY):
            # Both reads start before the first one is awaited.
            pending = [
                self._open(self.folder, (self.layout.rows, self.layout.dim),
                           DTYPES[self.layout.dtype])[rows].read()]
            if self.layout.dtype == 'int8':
                pending.append(
                    self._open(self.folder / 'scales', (self.layout.rows, ), _FLOAT32)[rows].read())
            numbers, *scales = (np.asarray(future.result()) for future in pending)
        return numbers, scales[0] if scales else None

    def _open(self, folder: Folder, shape: tuple[int, ...],
              dtype: np.dtype) -> tensorstore.TensorStore:
        """Opens an array. Raises IndexFolderError: the list describes another one."""
        array = arrays.open_array(folder)
        if tuple(array.shape) != shape or array.dtype.numpy_dtype != dtype:
            raise errors.IndexFolderError(f'{folder}: damaged ({array.dtype.name} '
                                          f'{list(array.shape)}, expected {dtype} {list(shape)}); '
                                          f'{index_manifest.REMEDY}')
        return array


class StoredEmbeddings:
    """The stored embeddings of one version of an index.

    manifest  the version
    shards    its shards
    """

    def __init__(self, folder: Folder, current: index_manifest.Manifest):
        """Checks that every file is there in full length. Reads no embeddings.

        Raises:
          IndexFolderError: a file is missing, cut or of another index.
        """
        self.manifest = current
        self.shards = [Shard(folder, entry) for entry in current.shards]
        self._first_rows = np.array([entry.first_row for entry in current.shards], np.int64)
        # One listing for all shards: in a bucket each look at a file is a request.
        there: dict[str, dict[str, int | None]] = {}
        for name, size in (folder / index_manifest.SHARDS).sizes().items():
            shard_name, _, file = name.partition('/')
            there.setdefault(shard_name, {})[file] = size
        for shard in self.shards:
            shard.check_fits(current)
            for damage in shard.damage(there.get(shard.entry.name, {}), contents=False):
                raise errors.IndexFolderError(f'{damage}; {index_manifest.REMEDY}')

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored numbers."""
        return DTYPES[self.manifest.dtype]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads rows [n] int64 in the given order: numbers [n, dim] as stored and, for int8, scales
        [n] float32.

        Raises:
          IndexFolderError: a file is missing, cut or damaged.
        """
        numbers, scales = self._empty(len(rows))
        owners = np.searchsorted(self._first_rows, rows, side='right') - 1
        for owner in np.unique(owners):  # one read per shard, whatever the order of the rows
            chosen = owners == owner
            numbers[chosen], part = self.shards[owner].take(rows[chosen])
            if scales is not None:
                scales[chosen] = part
        return numbers, scales

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the rows start to stop, [stop - start, dim], zeros past the last row. Returns and
        raises the same as `take`.
        """
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


def _parse(content: bytes) -> tuple[ShardLayout, schema.Files]:
    """Returns a shard's layout and {file: (bytes, SHA-256)}. Raises ValueError."""
    body: Any = untrusted.parse_json(content)
    layout = schema.object_of(ShardLayout).fields
    schema.ObjectOf({**layout, 'files': schema.of(schema.Files)}).check(body)
    files = schema.build(schema.Files, body.pop('files'))
    return ShardLayout(**body), files


def _finished_files(folder: Folder, layout: ShardLayout) -> schema.Files:
    """Returns the finished files of an unfinished shard: the listed ones, chunk by chunk, up to the
    first damaged one.
    """
    try:
        found, listed = _parse(folder.read(FILES))
    except (OSError, ValueError):
        return {}
    # TensorStore would write through a link to another place, so such a shard is written again.
    if found != layout or folder.has_links():
        return {}
    there = folder.sizes()

    def is_whole(name: str) -> bool:
        # A bucket does not tell sizes (None); there the checksum decides.
        return name in listed and there.get(
            name, 0) in (listed[name][0], None) and folder.sha256(name) == listed[name][1]

    kept: schema.Files = {}
    for names in [layout.headers, *(layout.chunk_files(chunk) for chunk in range(layout.chunks))]:
        if not all(is_whole(name) for name in names):
            break
        kept |= {name: listed[name] for name in names}
    return kept
