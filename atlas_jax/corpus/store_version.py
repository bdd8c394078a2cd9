"""One version of a store: which segments and files it has. Written last, so that a folder is always the old version or the new one.

    manifest.json                      a StoreVersion; names everything below
    segment-00000/                     passages of one build or append
      passages.arrow                   text; block_bounds/ and block_crc32/ guard it, docids/ finds rows (store_text.py)
      tokens/{reader,retriever}/       token ids (store_tokens.py), where the store is tokenised
    lock                               held by a writer (io/lock.py)

Nothing that manifest.json names is changed in place. Segments that it does not name, `tokens` of a store without token ids, and hidden
temporary folders are leftovers of a killed writer; the next writer removes them.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
import zlib

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import store_arrays, store_text, store_tokens
from atlas_jax.io import lock, manifest, schema
from atlas_jax.io.folder import Folder

_SEGMENT = schema.Record({'name': schema.Text(r'segment-\d{5,18}', 'the name of a segment'), 'rows': schema.Integer(1),
                          'files': schema.FILES})
_FIELDS = schema.Record({'segments': schema.Array(_SEGMENT, least=1), 'reader_tokenizer': schema.LINE, 'retriever_tokenizer': schema.LINE})
KIND = manifest.Kind('a passage store', 'atlas_jax passage store', {1: _FIELDS}, 'atlas-jax data passages', errors.StoreError)
_CHUNK = re.compile(r'(.+)/c/(\d+)')  # where zarr3 keeps a flat array's chunks


@dataclasses.dataclass(frozen=True)
class StoreSegment:
    """The passages of one build or append: their folder's name, their number, and {file below it: (size in bytes, SHA-256)}."""

    name: str
    rows: int
    files: dict[str, tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class StoreVersion:
    """One version of a store. The tokenizers' fingerprints are '' in a store without token ids."""

    segments: tuple[StoreSegment, ...]
    reader_tokenizer: str = ''
    retriever_tokenizer: str = ''

    @property
    def tokenizers(self) -> tuple[str, str]:
        """The fingerprints of the reader's and the retriever's tokenizer."""
        return self.reader_tokenizer, self.retriever_tokenizer

    @property
    def has_tokens(self) -> bool:
        """True if the passages are tokenised."""
        return bool(self.reader_tokenizer)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the passages, their order and their tokenizers."""
        return _fingerprint(self, self.segments)

    def fingerprint_of(self, rows: int) -> str:
        """Returns the fingerprint that the store had when it ended after `rows` passages; '' if it never did."""
        # Commits add whole segments, so an earlier version is the first segments of this one.
        stops = list(itertools.accumulate(segment.rows for segment in self.segments))
        return _fingerprint(self, self.segments[:stops.index(rows) + 1]) if rows in stops else ''


@dataclasses.dataclass(frozen=True)
class DamagedFile:
    """A file that is not as it was written: what is wrong with it, and the store's rows [first_row, stop_row) that it affects."""

    path: str
    what: str
    first_row: int
    stop_row: int


def exists(folder: Folder) -> bool:
    """Returns whether the folder holds a finished store, intact or damaged."""
    return manifest.exists(folder)


def describe_files(folder: Folder) -> dict[str, tuple[int, str]]:
    """Returns {file below `folder`, which is on a disk: (size in bytes, SHA-256)}."""
    # Only a bucket's files have no size (None).
    return {file: (size, folder.sha256(file)) for file, size in folder.sizes().items() if size is not None}


def write(folder: Folder, version: StoreVersion) -> None:
    """Commits `version`: from here on the folder is this version. Raises DiskFullError, and the folder stays the version before."""
    manifest.write(folder, KIND, dataclasses.asdict(version))


def read(folder: Folder) -> StoreVersion:
    """Reads the version that a store folder is.

    Raises StoreError: no store there, an unfinished one, another format version, or a damaged manifest.
    """
    body = manifest.read(folder, KIND, lock.FILE)
    segments = tuple(StoreSegment(entry['name'], entry['rows'], {file: (size, sha256) for file, (size, sha256) in entry['files'].items()})
                     for entry in body['segments'])
    if len({segment.name for segment in segments}) < len(segments) or any(store_text.FILE not in segment.files for segment in segments):
        raise manifest.damaged(folder, KIND, f'a segment twice, or without {store_text.FILE}')
    return StoreVersion(segments, body['reader_tokenizer'], body['retriever_tokenizer'])


def check_files(folder: Folder, version: StoreVersion) -> None:
    """Checks that each segment has the files it was written with, in full length; their contents are not read.

    Raises StoreError naming the first file that is missing, cut or foreign.
    """
    for damage in damaged_files(folder, version, contents=False):
        raise errors.StoreError(f'{damage.path}: {damage.what}; {store_arrays.REMEDY}')


def damaged_files(folder: Folder, version: StoreVersion, *, contents: bool) -> list[DamagedFile]:
    """Returns every file of the store that is missing, cut or foreign; with `contents` also those whose contents have changed."""
    found, stop = [], 0
    for segment in version.segments:
        first, stop = stop, stop + segment.rows
        base = folder / segment.name
        sizes = base.sizes()
        for name, (size, sha256) in segment.files.items():
            if name not in sizes:
                what = 'missing'
            elif sizes[name] not in (size, None):  # None: a bucket tells no sizes
                what = f'{sizes[name]} bytes long instead of {size}'
            elif contents and (difference := base.differs(name, sha256)):
                what = f'damaged ({difference})'
            else:
                continue
            low, high = _affected_rows(base, name, segment.rows) if contents else (0, segment.rows)
            found.append(DamagedFile(f'{base}/{name}', what, first + low, first + high))
        for name in sorted(sizes.keys() - segment.files.keys()):
            # Token ids that a killed writer of them left do no harm.
            if version.has_tokens or not name.startswith(f'{store_tokens.FOLDER}/'):
                found.append(DamagedFile(f'{base}/{name}', 'does not belong to this store', first, stop))
    return found


def _affected_rows(folder: Folder, name: str, rows: int) -> tuple[int, int]:
    """Returns the rows [first, stop) of a segment that a damaged file affects; all rows if that cannot be told.

    Args:
      folder: the segment.
      name: the damaged file, relative to it.
      rows: the segment's number of passages.
    """
    # Other files may be damaged too, those that are read here among them.
    with contextlib.suppress(errors.StoreError, OSError, ValueError):
        if name == store_text.FILE:
            return _affected_rows_of_text(folder, rows)
        if match := _CHUNK.fullmatch(name):
            return _affected_rows_of_chunk(folder, match[1], int(match[2]), rows)
    return 0, rows


def _affected_rows_of_text(folder: Folder, rows: int) -> tuple[int, int]:
    bounds, crcs = (store_arrays.ArrayReader(folder / name).read() for name in ('block_bounds', 'block_crc32'))
    content = folder.read(store_text.FILE)
    differs = [zlib.crc32(content[start:stop]) != crc for start, stop, crc in zip(bounds[:-1], bounds[1:], crcs, strict=True)]
    blocks = np.flatnonzero(differs)
    if not len(blocks) or blocks[-1] == len(crcs) - 1:  # the footer: nothing can be found without it
        return 0, rows
    return int(blocks[0]) * store_text.BATCH_ROWS, min(rows, (int(blocks[-1]) + 1) * store_text.BATCH_ROWS)


def _affected_rows_of_chunk(folder: Folder, array: str, chunk: int, rows: int) -> tuple[int, int]:
    values = store_arrays.ArrayReader(folder / array).chunk_values
    first, stop = chunk * values, (chunk + 1) * values
    if array.endswith('/ids'):
        lengths = store_arrays.ArrayReader(folder / array.replace('/ids', '/lengths')).read()
        stops = np.cumsum(lengths, dtype=np.int64)
        # The passages with an id among the values first to stop - 1.
        return int(np.searchsorted(stops, first, 'right')), min(rows, int(np.searchsorted(stops, stop, 'left')) + 1)
    has_a_value_a_row = array == 'docids' or array.endswith(('/lengths', '/title_lengths'))
    return (first, min(rows, stop)) if has_a_value_a_row else (0, rows)


def _fingerprint(version: StoreVersion, segments: tuple[StoreSegment, ...]) -> str:
    # Segments' names do not count: equal passages give equal fingerprints.
    return manifest.digest([version.tokenizers, [sorted(segment.files.items()) for segment in segments]])[:16]
