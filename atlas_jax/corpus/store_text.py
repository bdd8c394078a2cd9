"""The text of a segment: an Arrow file that is mapped into memory, a crc32 for each record batch,
and a hash of each docid.
"""

import functools
import hashlib
import itertools
import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa
import tqdm

from atlas_jax import errors
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_arrays
from atlas_jax.io import atomic
from atlas_jax.io.folder import Folder

BATCH_ROWS = 1024  # passages in a record batch; reading one of them checks the batch's crc32
_MAPPED_BYTES = 1 << 20
FILE = 'passages.arrow'
_FIELDS = ('docid', 'title', 'section', 'text')
_SCHEMA = pa.schema([(name, pa.string()) for name in _FIELDS])


def write(folder: Folder, passages: Iterable[corpus_passages.Passage], place: Folder,
          bar: tqdm.tqdm | None = None) -> int:
    """Writes passages into a segment's folder and returns their number.

    Args:
      folder: the segment's folder, on this machine.
      passages: any number of passages, read once.
      place: the store, for messages.
      bar: a progress bar to advance.

    Raises:
      StoreError: no passages, a docid twice, an empty docid or text, or text that is not valid
        Unicode.
    """
    assert folder.local is not None  # Folder.making gives folders of this machine
    path = folder.local / FILE
    seen: set[str] = set()
    stops, hashes = [0], store_arrays.ArrayWriter(folder / 'docids', np.uint64)
    with open(path, 'wb') as file:
        with pa.ipc.new_file(file, _SCHEMA) as writer:
            iterator = iter(passages)
            while batch := list(itertools.islice(iterator, BATCH_ROWS)):
                for passage in batch:
                    _check(passage, place)
                    if passage.docid in seen:
                        raise errors.StoreError(f'{place}: docid "{passage.docid}" occurs twice; '
                                                'give each passage its own')
                    seen.add(passage.docid)
                columns = [
                    pa.array([getattr(passage, name)
                              for passage in batch], pa.string())
                    for name in _FIELDS]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
                stops.append(file.tell())
                hashes.append(np.array([_hash(passage.docid) for passage in batch], np.uint64))
                if bar is not None:
                    bar.update(len(batch))
        stops.append(file.tell())  # after the footer, the last block
        file.flush()
        os.fsync(file.fileno())
    if not seen:
        raise errors.StoreError(f'{place}: there are no passages to store; give at least one')
    hashes.finish()
    # Blocks end where record batches end, so that reading a passage checks one block.
    bounds = np.array(stops, np.int64)
    store_arrays.write(folder / 'block_bounds', bounds)
    with open(path, 'rb') as file:
        crcs = [zlib.crc32(file.read(size)) for size in np.diff(bounds).tolist()]
    store_arrays.write(folder / 'block_crc32', np.array(crcs, np.uint32))
    return len(seen)


def _check(passage: object, place: Folder) -> None:
    """Raises StoreError if an object cannot be stored as a passage."""
    if not isinstance(passage, corpus_passages.Passage):
        raise errors.StoreError(f'{place}: expected passages, found {type(passage).__name__}; '
                                'make them with '
                                'split_passages(read_documents(path))')
    for name in _FIELDS:
        value = getattr(passage, name)
        if not isinstance(value, str):
            raise errors.StoreError(f'{place}: passage {passage.docid!r}: {name} is '
                                    f'{type(value).__name__}; it must be text')
        if not value.strip() and name in ('docid', 'text'):
            raise errors.StoreError(f'{place}: passage {passage.docid!r}: {name} is empty; leave '
                                    'the passage out')
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise errors.StoreError(f'{place}: passage {passage.docid!r}: {name} is not valid '
                                    f'Unicode ({error.reason}, character '
                                    f'{error.start}); correct the document') from error


def _hash(docid: str) -> int:
    # A wanted docid may hold half of a surrogate pair. It gets a hash, and is not found.
    return int.from_bytes(
        hashlib.blake2b(docid.encode('utf-8', 'surrogatepass'), digest_size=8).digest(), 'little')


class TextReader:
    """Reads the passages of one segment."""

    def __init__(self, folder: Folder, rows: int, sha256: str = ''):
        """Maps the file and reads its table of contents, but no passage.

        `sha256` is that of the text file; it names the local copy of a file in a bucket. Raises
        StoreError: the segment is damaged.
        """
        self._path, self.rows = folder.mapped(FILE, sha256), rows
        self._bounds = store_arrays.ArrayReader(folder / 'block_bounds').read()
        self._crcs = store_arrays.ArrayReader(folder / 'block_crc32').read()
        # Read when a docid is looked up.
        self._hashes = store_arrays.ArrayReader(folder / 'docids')
        try:
            with open(self._path, 'rb') as file:
                # A map holds a file descriptor; a store of a thousand small segments would run out
                # of them.
                small = os.fstat(file.fileno()).st_size < _MAPPED_BYTES
                self._bytes = memoryview(
                    file.read() if small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise atomic.user_error(self._path, error) or self._damaged(str(
                error.strerror)) from error
        batches = math.ceil(rows / BATCH_ROWS)
        if not len(self._bounds) - 1 == len(self._crcs) == batches + 1 or self._bounds[-1] != len(
                self._bytes) or len(self._hashes) != rows:
            raise self._damaged('its parts do not fit together')
        self._checked: set[int] = set()
        # The first block begins with the schema; the last one is the footer.
        self._check_block(0)
        self._check_block(batches)
        self._reader = pa.ipc.open_file(pa.py_buffer(self._bytes))
        if not self._reader.schema.equals(_SCHEMA) or self._reader.num_record_batches != batches:
            raise self._damaged('another layout than expected')
        # Searches read neighbouring rows repeatedly. The caches belong to the object: a cache of
        # the class would keep closed stores alive.
        self._batch = functools.lru_cache(maxsize=64)(self._checked_batch)
        self._docids = functools.lru_cache(maxsize=64)(self._read_docids)

    def passage(self, row: int) -> corpus_passages.Passage:
        """Returns the passage of a row. Raises StoreError: its part of the file is damaged."""
        number, position = divmod(row, BATCH_ROWS)
        return corpus_passages.Passage(*(column[position].as_py()
                                         for column in self._batch(number).columns))

    def docid(self, row: int) -> str:
        """Returns the docid of a row; caches those of neighbouring rows. Raises the same errors as
        `passage`.
        """
        number, position = divmod(row, BATCH_ROWS)
        return self._docids(number)[position]

    def hashes(self) -> np.ndarray:
        """Returns a hash of each docid, [rows] uint64. Raises StoreError: the file is damaged."""
        return self._hashes.read()

    def _checked_batch(self, number: int) -> pa.RecordBatch:
        self._check_block(number)
        return self._reader.get_batch(number)

    def _read_docids(self, number: int) -> list[str]:
        return self._batch(number).column(0).to_pylist()

    def _check_block(self, number: int) -> None:
        if number not in self._checked:  # checked once, because a check reads the whole block
            start, stop = self._bounds[number:number + 2]
            if zlib.crc32(self._bytes[start:stop]) != self._crcs[number]:
                raise self._damaged(f'bytes {start} to {stop - 1} differ from those written')
            self._checked.add(number)

    def _damaged(self, why: str) -> errors.StoreError:
        return errors.StoreError(f'{self._path}: damaged ({why}); {store_arrays.REMEDY}')


def of_segment(store: Folder, name: str, rows: int,
               files: Mapping[str, tuple[int, str]]) -> TextReader:
    """Opens the passages of a store's segment; the arguments are the fields of StoreSegment.

    Raises StoreError: the segment is damaged.
    """
    return TextReader(store / name, rows, files[FILE][1])


class DocidTable:
    """Finds rows by hashes of docids, because a loop over millions of rows would take minutes."""

    def __init__(self, readers: Iterable[TextReader], docid: Callable[[int], str]):
        """Reads the hashes. `docid` returns the docid of a row of the store; it tells docids with
        the same hash apart.
        """
        hashes = np.concatenate([reader.hashes() for reader in readers])  # [rows]
        # A stable sort keeps the rows of one docid in order.
        self._rows = np.argsort(hashes, kind='stable')
        self._hashes, self._docid = hashes[self._rows], docid

    def last_row(self, docid: str) -> int | None:
        """Returns the last row with this docid, or None."""
        wanted = np.uint64(_hash(docid))
        first, stop = np.searchsorted(self._hashes, wanted,
                                      'left'), np.searchsorted(self._hashes, wanted, 'right')
        for row in reversed(self._rows[first:stop].tolist()):
            if self._docid(row) == docid:
                return row
        return None

    def superseded(self) -> np.ndarray:
        """Returns [rows] bool: True if a later row has the same docid."""
        # Reads only the docids whose hash occurs twice.
        alike = self._hashes[1:] == self._hashes[:-1]
        rows = np.sort(
            self._rows[np.concatenate([alike, [False]]) | np.concatenate([[False], alike])])
        last = {self._docid(row): row for row in rows.tolist()}
        mask = np.zeros(len(self._rows), bool)
        mask[np.setdiff1d(rows, np.fromiter(last.values(), np.int64, len(last)))] = True
        return mask
