"""One version of a store: which segments and files it has.

    manifest.json                      a StoreVersion; names everything below
    segment-00000/                     passages of one build or append
      passages.arrow                   text; block_bounds/ and block_crc32/ guard it, and docids/
                                       finds rows (store_text.py)
      tokens/{reader,retriever}/       token ids (store_tokens.py), if the store is tokenised
    lock                               held by a writer (io/lock.py)

Leftovers of a killed writer are segments that the manifest does not name, `tokens` of a store
without token ids, and hidden temporary folders. The next writer removes them.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
import zlib
from typing import Annotated

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import store_arrays, store_text, store_tokens
from atlas_jax.io import checksum, schema, versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage

SEGMENT = re.compile(r'segment-(\d{5,18})')  # five digits sort by name; more still work
# `.lock` is in a temporary folder, and for a moment in the folder that has become of it.
_TEMPORARY = r'\.(lock|(segment-\d+|tokens|manifest\.json)\.tmp\d+)'
_CHUNK = re.compile(r'(.+)/c/(\d+)')  # where zarr3 keeps a flat array's chunks


@dataclasses.dataclass(frozen=True)
class StoreSegment:
    """The passages of one build or append.

    name   the folder
    rows   number of passages
    files  {file below the folder: (bytes, SHA-256)}
    """

    name: Annotated[str, schema.Text(SEGMENT.pattern, 'the name of a segment')]
    rows: schema.Positive
    files: schema.Files


@dataclasses.dataclass(frozen=True)
class StoreVersion:
    """One version of a store. The tokenizers' fingerprints are '' in a store without token ids."""

    segments: Annotated[tuple[StoreSegment, ...], schema.Items(1)]
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
        """Returns the fingerprint that the store had when it ended after `rows` passages; '' if it
        never did.
        """
        # Commits add whole segments, so an earlier version is the first segments of this one.
        stops = list(itertools.accumulate(segment.rows for segment in self.segments))
        return _fingerprint(self, self.segments[:stops.index(rows) + 1]) if rows in stops else ''


def leftovers(folder: Folder, version: StoreVersion) -> list[str]:
    """Returns the files and folders that killed writers and older versions left."""
    named = {segment.name for segment in version.segments}
    found = [
        name for name in folder.children()
        if _is_temporary(name) or SEGMENT.fullmatch(name) and name not in named]
    for segment in named:
        tokens = f'{segment}/{store_tokens.FOLDER}'
        found += [
            f'{segment}/{name}' for name in (folder / segment).children()
            if _is_temporary(name) or name == store_tokens.FOLDER and not version.has_tokens]
        found += [
            f'{tokens}/{name}' for name in (folder / tokens).children()
            if _is_temporary(name) and version.has_tokens]
    return sorted(found)


def _contradiction(version: StoreVersion) -> str:
    names = {segment.name for segment in version.segments}
    if len(names) == len(version.segments) and all(store_text.FILE in segment.files
                                                   for segment in version.segments):
        return ''
    return f'a segment twice, or without {store_text.FILE}'


KIND = versioned_folder.FolderKind[StoreVersion](
    'a passage store', StoreVersion, errors.StoreError, 'atlas-jax data passages',
    'atlas_jax passage store', ours=f'{_TEMPORARY}|{SEGMENT.pattern}', leftovers=leftovers,
    contradiction=_contradiction)
exists, read, write = KIND.exists, KIND.read, KIND.write


def check_files(folder: Folder, version: StoreVersion) -> None:
    """Checks that every segment has the files it was written with, in full length. No file is read.

    Raises StoreError naming the first file that is missing, cut or foreign.
    """
    for damage in damaged_files(folder, version, contents=False):
        raise errors.StoreError(f'{damage.path}: {damage.what}; {store_arrays.REMEDY}')


def damaged_files(folder: Folder, version: StoreVersion, *, contents: bool) -> list[Damage]:
    """Returns every file of the store that is missing, cut or foreign; with `contents` also those
    whose contents have changed.
    """
    found, first = [], 0
    for segment in version.segments:
        base = folder / segment.name
        there = base.sizes()
        # Token ids that a killed writer left in a store without token ids do no harm.
        if not version.has_tokens:
            there = {
                name: size
                for name, size in there.items()
                if name in segment.files or not name.startswith(f'{store_tokens.FOLDER}/')}
        for damage in versioned_folder.damaged_files(base, segment.files, contents=contents,
                                                     there=there, owner='store'):
            name = damage.path.removeprefix(f'{base}/')
            low, stop = 0, segment.rows
            if contents and name in segment.files:
                low, stop = _affected_rows(base, name, segment.rows)
            found.append(dataclasses.replace(damage, first_row=first + low, stop_row=first + stop))
        first += segment.rows
    return found


def _affected_rows(folder: Folder, name: str, rows: int) -> tuple[int, int]:
    """Returns the rows [first, stop) of a segment that a damaged file affects; all rows if unknown.

    Args:
      folder: the segment.
      name: the damaged file, relative to it.
      rows: the segment's number of passages.
    """
    # The files that are read here may be damaged too.
    with contextlib.suppress(errors.StoreError, OSError, ValueError):
        if name == store_text.FILE:
            return _affected_rows_of_text(folder, rows)
        if match := _CHUNK.fullmatch(name):
            return _affected_rows_of_chunk(folder, match[1], int(match[2]), rows)
    return 0, rows


def _affected_rows_of_text(folder: Folder, rows: int) -> tuple[int, int]:
    bounds, crcs = (store_arrays.ArrayReader(folder / name).read()
                    for name in ('block_bounds', 'block_crc32'))
    content = folder.read(store_text.FILE)
    differs = [
        zlib.crc32(content[start:stop]) != crc
        for start, stop, crc in zip(bounds[:-1], bounds[1:], crcs, strict=True)]
    blocks = np.flatnonzero(differs)
    # Without the footer no passage can be found.
    if not len(blocks) or blocks[-1] == len(crcs) - 1:
        return 0, rows
    return int(blocks[0]) * store_text.BATCH_ROWS, min(
        rows, (int(blocks[-1]) + 1) * store_text.BATCH_ROWS)


def _affected_rows_of_chunk(folder: Folder, array: str, chunk: int, rows: int) -> tuple[int, int]:
    values = store_arrays.ArrayReader(folder / array).chunk_values
    first, stop = chunk * values, (chunk + 1) * values
    if array.endswith('/ids'):
        lengths = store_arrays.ArrayReader(folder / array.replace('/ids', '/lengths')).read()
        stops = np.cumsum(lengths, dtype=np.int64)
        # The passages with an id among the values first to stop - 1.
        low, high = np.searchsorted(stops, first, 'right'), np.searchsorted(stops, stop, 'left')
        return int(low), min(rows, int(high) + 1)
    has_a_value_a_row = array == 'docids' or array.endswith(('/lengths', '/title_lengths'))
    return (first, min(rows, stop)) if has_a_value_a_row else (0, rows)


def _fingerprint(version: StoreVersion, segments: tuple[StoreSegment, ...]) -> str:
    # Leaves out the segments' names, so that equal passages give equal fingerprints.
    return checksum.json_sha256([
        version.tokenizers, [sorted(segment.files.items()) for segment in segments]])[:16]


def _is_temporary(name: str) -> bool:
    return bool(re.fullmatch(_TEMPORARY, name))
