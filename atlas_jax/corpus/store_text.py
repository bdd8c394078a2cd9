"""The text of a segment: an Arrow file read by mmap, with a crc32 for each record batch, and a hash of each docid to find rows by."""

import functools
import hashlib
import itertools
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from atlas_jax import errors
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_arrays
from atlas_jax.io.folder import Folder

BATCH_ROWS = 1024
_MAPPED_BYTES = 1 << 20
FILE = 'passages.arrow'
_FIELDS = ('docid', 'title', 'section', 'text')
_SCHEMA = pa.schema([(name, pa.string()) for name in _FIELDS])


def write(folder: Folder, passages: Iterable[corpus_passages.Passage], place: Folder, bar=None) -> int:
    """Writes passages into a segment's folder.

    Args:
      folder: of the segment, on this machine.
      passages: any number, read once.
      place: the store, for messages.
      bar: a progress bar to advance.

    Returns:
      Their number.

    Raises:
      StoreError: none at all, a docid twice, an empty docid or text, text that is no Unicode.
    """
    seen: set[str] = set()
    stops, hashes = [0], store_arrays.ArrayWriter(folder / 'docids', np.uint64)
    with open(folder.local / FILE, 'wb') as file:
        with pa.ipc.new_file(file, _SCHEMA) as writer:
            iterator = iter(passages)
            while batch := list(itertools.islice(iterator, BATCH_ROWS)):
                for passage in batch:
                    _check(passage, seen, place)
                columns = [pa.array([getattr(passage, name) for passage in batch], pa.string()) for name in _FIELDS]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
                stops.append(file.tell())
                hashes.append(np.array([_hash(passage.docid) for passage in batch], np.uint64))
                if bar is not None:
                    bar.update(len(batch))
        stops.append(file.tell())
        file.flush()
        os.fsync(file.fileno())
    if not seen:
        raise errors.StoreError(f'{place}: there are no passages to store; give at least one')
    hashes.finish()
    bounds = np.array(stops, np.int64)
    store_arrays.write(folder / 'block_bounds', bounds)
    with open(folder.local / FILE, 'rb') as file:
        crcs = [zlib.crc32(file.read(size)) for size in np.diff(bounds).tolist()]
    store_arrays.write(folder / 'block_crc32', np.array(crcs, np.uint32))
    return len(seen)


def _check(passage: corpus_passages.Passage, seen: set[str], place: Folder) -> None:
    if not isinstance(passage, corpus_passages.Passage):
        raise errors.StoreError(f'{place}: expected passages, found {type(passage).__name__}; make them with '
                                'split_passages(read_documents(path))')
    for name in _FIELDS:
        value = getattr(passage, name)
        if not isinstance(value, str):
            raise errors.StoreError(f'{place}: passage {passage.docid!r}: {name} is {type(value).__name__}; it must be text')
        if not value.strip() and name in ('docid', 'text'):
            raise errors.StoreError(f'{place}: passage {passage.docid!r}: {name} is empty; leave the passage out')
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise errors.StoreError(f'{place}: passage {passage.docid!r}: {name} is not valid Unicode ({error.reason}, character '
                                    f'{error.start}); mend the document') from error
    if passage.docid in seen:
        raise errors.StoreError(f'{place}: docid "{passage.docid}" occurs twice; give each passage its own')
    seen.add(passage.docid)


def _hash(docid: str) -> int:
    return int.from_bytes(hashlib.blake2b(docid.encode('utf-8', 'surrogatepass'), digest_size=8).digest(), 'little')


class TextReader:
    """The passages of one segment."""

    def __init__(self, folder: Folder, rows: int, sha256: str = ''):
        """Maps the file and reads its table of contents; no passage is read.

        `sha256` of the text file names its copy on this machine where the store is in a bucket. Raises StoreError: something is damaged.
        """
        self._path, self.rows = folder.mapped(FILE, sha256), rows
        self._bounds = store_arrays.ArrayReader(folder / 'block_bounds').read()
        self._crcs = store_arrays.ArrayReader(folder / 'block_crc32').read()
        self._hashes = store_arrays.ArrayReader(folder / 'docids')
        try:
            with open(self._path, 'rb') as file:
                # A map holds a file descriptor: a store of a thousand small segments would run out of them.
                small = os.fstat(file.fileno()).st_size < _MAPPED_BYTES
                self._bytes = memoryview(file.read() if small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise self._damaged(str(error.strerror)) from error
        batches = -(-rows // BATCH_ROWS)
        if not len(self._bounds) - 1 == len(self._crcs) == batches + 1 or self._bounds[-1] != len(self._bytes) or len(self._hashes) != rows:
            raise self._damaged('its parts do not fit together')
        self._checked: set[int] = set()
        # The first block begins with the schema; the last one is the footer.
        self._check_block(0)
        self._check_block(batches)
        self._reader = pa.ipc.open_file(pa.py_buffer(self._bytes))
        if not self._reader.schema.equals(_SCHEMA) or self._reader.num_record_batches != batches:
            raise self._damaged('another layout than expected')
        self.batch = functools.lru_cache(maxsize=64)(self._batch)
        self._docids = functools.lru_cache(maxsize=64)(lambda number: self.batch(number).column(0).to_pylist())

    def passage(self, row: int) -> corpus_passages.Passage:
        """The passage of a row. Raises StoreError: its part of the file is damaged."""
        number, position = divmod(row, BATCH_ROWS)
        return corpus_passages.Passage(*(column[position].as_py() for column in self.batch(number).columns))

    def docid(self, row: int) -> str:
        """The docid of a row; quick where neighbouring rows were asked for before. Raises as `passage`."""
        number, position = divmod(row, BATCH_ROWS)
        return self._docids(number)[position]

    def hashes(self) -> np.ndarray:
        """[rows] uint64, a hash of each docid. Raises StoreError: damaged."""
        return self._hashes.read()

    def _batch(self, number: int) -> pa.RecordBatch:
        self._check_block(number)
        return self._reader.get_batch(number)

    def _check_block(self, number: int) -> None:
        if number not in self._checked:
            start, stop = self._bounds[number:number + 2]
            if zlib.crc32(self._bytes[start:stop]) != self._crcs[number]:
                raise self._damaged(f'bytes {start} to {stop - 1} differ from those written')
            self._checked.add(number)

    def _damaged(self, why: str) -> errors.StoreError:
        return errors.StoreError(f'{self._path}: damaged ({why}); {store_arrays.REMEDY}')


def of_segment(store: Folder, name: str, rows: int, files: Mapping[str, tuple[int, str]]) -> TextReader:
    """The passages of a store's segment; `files` as in the manifest. Raises StoreError: damaged."""
    return TextReader(store / name, rows, files[FILE][1])


class DocidTable:
    """Finds rows by the hashes of their docids; a loop over rows would take minutes where there are millions."""

    def __init__(self, readers: Iterable[TextReader], docid):
        """`docid` gives the docid of a row of the whole store, to tell apart docids of the same hash."""
        hashes = np.concatenate([reader.hashes() for reader in readers])  # [rows]
        self._rows = np.argsort(hashes, kind='stable')
        self._hashes, self._docid = hashes[self._rows], docid

    def last_row(self, docid: str) -> int | None:
        """The last row with this docid; None where there is none."""
        wanted = np.uint64(_hash(docid))
        first, stop = np.searchsorted(self._hashes, wanted, 'left'), np.searchsorted(self._hashes, wanted, 'right')
        return next((int(row) for row in self._rows[first:stop][::-1] if self._docid(int(row)) == docid), None)

    def superseded(self) -> np.ndarray:
        """[rows] bool: True where a later row has the same docid."""
        alike = self._hashes[1:] == self._hashes[:-1]
        rows = np.sort(self._rows[np.concatenate([alike, [False]]) | np.concatenate([[False], alike])])
        last = {self._docid(row): row for row in rows.tolist()}  # only rows whose hash occurs twice
        mask = np.zeros(len(self._rows), bool)
        mask[np.setdiff1d(rows, np.fromiter(last.values(), np.int64, len(last)))] = True
        return mask
