"""The manifest of a store folder: what the store is, written last, so that a folder is always the old version or the new one.

    manifest.json                      this file; names everything below
    segment-00000/                     passages of one build or append
      passages.arrow                   text; block_bounds/ and block_crc32/ guard it, docids/ finds rows (store_text.py)
      tokens/{reader,retriever}/       token ids (store_tokens.py), where the store is tokenised
    lock                               held while somebody writes (io/lock.py)

Nothing that the manifest names is changed in place. Segments that it does not name, `tokens` of a store that has none, and hidden
temporary folders are what a killed writer left; the next writer removes them.
"""

import dataclasses
import functools
import itertools

from atlas_jax import errors
from atlas_jax.corpus import store_damage, store_tokens
from atlas_jax.io import lock
from atlas_jax.io import manifest as io_manifest
from atlas_jax.io.folder import Folder

KIND = io_manifest.Kind('a passage store', 'atlas_jax passage store', (1,), 'atlas-jax data passages', errors.StoreError)
_REMEDY = 'restore it or build the store anew'


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment: its folder's name, its number of passages, and {file below it: (size in bytes, SHA-256)}."""

    name: str
    rows: int
    files: dict[str, tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One version of a store. The tokenizers' fingerprints are '' where it has no token ids."""

    segments: tuple[Segment, ...]
    reader_tokenizer: str = ''
    retriever_tokenizer: str = ''

    @property
    def tokenizers(self) -> tuple[str, str]:
        """Fingerprints of the reader's and the retriever's tokenizer."""
        return self.reader_tokenizer, self.retriever_tokenizer

    @property
    def has_tokens(self) -> bool:
        """Whether the passages are tokenised."""
        return bool(self.reader_tokenizer)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the passages, their order and their tokenizers."""
        return _fingerprint(self, self.segments)

    def fingerprint_of(self, rows: int) -> str:
        """The fingerprint that the store had when it ended after `rows` passages; '' if it never did."""
        stops = list(itertools.accumulate(segment.rows for segment in self.segments))
        return _fingerprint(self, self.segments[:stops.index(rows) + 1]) if rows in stops else ''


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file that is not as it was written: what is wrong, and the store's rows [first_row, stop_row) it hits."""

    path: str
    what: str
    first_row: int
    stop_row: int


def exists(folder: Folder) -> bool:
    """Whether the folder holds a finished store, or what was one."""
    return io_manifest.exists(folder)


def describe_files(folder: Folder) -> dict[str, tuple[int, str]]:
    """{file below `folder`, which is on a disk: (size in bytes, SHA-256)}."""
    return {file: (size, folder.sha256(file)) for file, size in folder.sizes().items()}


def write(folder: Folder, manifest: Manifest) -> None:
    """Commits `manifest`: from here on the folder is this version. Raises DiskFullError; it is then still the version before."""
    io_manifest.write(folder, KIND, dataclasses.asdict(manifest))


def read(folder: Folder) -> Manifest:
    """Reads the manifest of a store folder.

    Raises StoreError: no store there, one not finished, of another format version, or a damaged manifest.
    """
    body = io_manifest.read(folder, KIND, lock.FILE)
    segments = tuple(Segment(entry['name'], entry['rows'], {file: tuple(facts) for file, facts in entry['files'].items()})
                     for entry in body['segments'])
    return Manifest(segments, body['reader_tokenizer'], body['retriever_tokenizer'])


def check_files(folder: Folder, manifest: Manifest) -> None:
    """Looks whether each segment has the files it was written with, in full length.

    Raises StoreError naming the first one that is missing, cut or does not belong there.
    """
    for problem in problems(folder, manifest, contents=False):
        raise errors.StoreError(f'{problem.path}: {problem.what}; {_REMEDY}')


def problems(folder: Folder, manifest: Manifest, *, contents: bool) -> list[Problem]:
    """Every file of the store that is missing, cut or does not belong there; with `contents` also those that have changed."""
    found, stop = [], 0
    for segment in manifest.segments:
        first, stop = stop, stop + segment.rows
        base = folder / segment.name
        there = base.sizes()
        for name, (size, sha256) in segment.files.items():
            if name not in there:
                what = 'missing'
            elif there[name] not in (size, None):
                what = f'{there[name]} bytes long instead of {size}'
            elif contents and base.sha256(name) != sha256:
                what = 'damaged (contents differ from those written)'
            else:
                continue
            low, high = store_damage.rows_hit(base, name, segment.rows) if contents else (0, segment.rows)
            found.append(Problem(f'{base}/{name}', what, first + low, first + high))
        for name in sorted(there.keys() - segment.files.keys()):
            if manifest.has_tokens or not name.startswith(f'{store_tokens.FOLDER}/'):
                found.append(Problem(f'{base}/{name}', 'does not belong to this store', first, stop))
    return found


def _fingerprint(manifest: Manifest, segments: tuple[Segment, ...]) -> str:
    return io_manifest.digest([manifest.tokenizers, [sorted(segment.files.items()) for segment in segments]])[:16]
