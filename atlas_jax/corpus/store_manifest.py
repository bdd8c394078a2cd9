"""The manifest of a store folder: what the store is, written last, so that a folder is always the old version or the new one.

    manifest.json                      this file; names everything below
    segment-00000/                     passages of one build or append
      passages.arrow                   text; block_bounds/ and block_crc32/ guard it, docids/ finds rows (store_text.py)
      tokens/{reader,retriever}/       token ids (store_tokens.py), where the store is tokenised
    lock                               held while somebody writes (store_lock.py)

Nothing that the manifest names is changed in place. Segments that it does not name, `tokens` of a store that has none, and hidden
temporary folders are what a killed writer left; the next writer removes them.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus import store_tokens
from atlas_jax.io import atomic, checksum

FILE = 'manifest.json'
FORMAT = 'atlas_jax passage store'
VERSION = 1
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
        return _digest([self.tokenizers, [sorted(segment.files.items()) for segment in self.segments]])[:16]


def exists(folder: pathlib.Path) -> bool:
    """Whether the folder holds a finished store, or what was one."""
    return (folder / FILE).is_file()


def describe_files(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
    """{file below `folder`: (size in bytes, SHA-256)}."""
    return {file: ((folder / file).stat().st_size, checksum.sha256_file(folder / file)) for file in sorted(_files_below(folder))}


def write(folder: pathlib.Path, manifest: Manifest) -> None:
    """Commits `manifest`: from here on the folder is this version. Raises DiskFullError; it is then still the version before."""
    body = {'format': FORMAT, 'version': VERSION, **dataclasses.asdict(manifest)}
    atomic.write_json(folder / FILE, {**body, 'manifest_sha256': _digest(body)})


def read(folder: pathlib.Path) -> Manifest:
    """Reads the manifest of a store folder.

    Raises StoreError: no store there, one not finished, of another format version, or a damaged manifest.
    """
    try:
        body = json.loads((folder / FILE).read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.StoreError(_why_missing(folder)) from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    if not isinstance(body, dict) or body.get('format') != FORMAT:
        raise errors.StoreError(f'{folder / FILE}: not the manifest of a passage store; '
                                'give the folder that `atlas-jax data passages` wrote')
    if body.get('version') != VERSION:
        raise errors.StoreError(f'{folder}: store format {body.get("version")}, this version of atlas_jax reads {VERSION}; '
                                'install the version that wrote it, or build the store anew')
    if body.pop('manifest_sha256', None) != _digest(body):
        raise _damaged(folder, 'its checksum does not match')
    segments = tuple(Segment(entry['name'], entry['rows'], {file: tuple(facts) for file, facts in entry['files'].items()})
                     for entry in body['segments'])
    return Manifest(segments, body['reader_tokenizer'], body['retriever_tokenizer'])


def check_files(folder: pathlib.Path, manifest: Manifest, *, contents: bool = False) -> None:
    """Looks whether each segment has the files it was written with, in full length; with `contents` also compares SHA-256.

    Raises StoreError naming the first one that is missing, cut, changed, or does not belong there.
    """
    for segment in manifest.segments:
        base = folder / segment.name
        for name, (size, sha256) in segment.files.items():
            path = base / name
            if not path.is_file():
                raise errors.StoreError(f'{path}: missing; {_REMEDY}')
            if path.stat().st_size != size:
                raise errors.StoreError(f'{path}: {path.stat().st_size} bytes long instead of {size}; {_REMEDY}')
            if contents and checksum.sha256_file(path) != sha256:
                raise errors.StoreError(f'{path}: damaged (contents differ from those written); {_REMEDY}')
        for name in sorted(_files_below(base) - segment.files.keys()):
            if manifest.has_tokens or not name.startswith(f'{store_tokens.FOLDER}/'):
                raise errors.StoreError(f'{base / name}: does not belong to this store; remove it')


def _files_below(folder: pathlib.Path) -> set[str]:
    """Paths of the files, hidden ones and those in hidden folders apart, relative to the folder."""
    paths = (path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
    return {path.as_posix() for path in paths if not any(part.startswith('.') for part in path.parts)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _damaged(folder: pathlib.Path, why: str) -> errors.StoreError:
    return errors.StoreError(f'{folder / FILE}: damaged ({why}); build the store anew')


def _why_missing(folder: pathlib.Path) -> str:
    if not folder.exists():
        return f'{folder}: no such folder; build a store there with `atlas-jax data passages`'
    if (folder / 'lock').exists():
        return f'{folder}: this store was not finished; build it again with `atlas-jax data passages`'
    return f'{folder}: not a passage store ({FILE} is missing); give the folder that `atlas-jax data passages` wrote'
