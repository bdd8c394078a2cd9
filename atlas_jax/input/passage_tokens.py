"""The token ids of many passages without padding, from files or a store; crops are cut from them.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.io import file_list, jsonl
from atlas_jax.runtime import progress
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer

_NAMED = 9  # passages in a message
_BLOCK = 8192  # passages between two updates of the progress bar


@dataclasses.dataclass(frozen=True)
class PassageTokens:
    """Passages as the retriever's token ids of title and text, without special tokens.

    Attributes:
      ids: All passages, one after another, [tokens] uint16 or uint32.
      starts: Start of each passage in `ids`, and the end, [passages + 1] int64.
      place: Returns the place of the passage with this number, for messages.
    """

    ids: np.ndarray
    starts: np.ndarray
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        return self.ids[self.starts[number]:self.starts[number + 1]]

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the data for a run's record, 16 hexadecimal digits."""
        # The starts too, since the same tokens cut elsewhere are other data. One dtype, since
        # stores may differ in theirs.
        found = hashlib.sha256(self.starts.tobytes())
        found.update(self.ids.astype(np.uint32).tobytes())
        return found.hexdigest()[:16]

    def check_length(self, least: int) -> None:
        """Raises InputFileError: names the first passages of fewer than `least` tokens."""
        short = np.flatnonzero(np.diff(self.starts) < least)
        if len(short):
            named = ', '.join(map(self.place, short[:_NAMED].tolist()))
            raise errors.InputFileError(
                named + (', …' if len(short) > _NAMED else ''),
                f'{len(short)} passages have fewer than the {least} tokens of the shortest crop',
                remedy='take these lines out, or lower min_crop_tokens')


def tokens_of_files(paths: file_list.Paths, tokenizer: BertTokenizer) -> PassageTokens:
    """Tokenises the passages of JSON-lines files.

    A line has `text`, and optionally `title` and `section` (docs/data.md).

    Raises InputFileError: no such file, or a line without text; names file and line.
    """
    parts, places = [], []
    with progress.bar(None, f'tokenising {file_list.summary(paths)}', ' passages') as bar:
        for file, line, passage in read_passages(paths):
            parts.append(_encoded(passage, tokenizer))
            places.append((file, line))
            bar.update(1)
    return _joined(parts, lambda number: f'{places[number][0]}:{places[number][1]}')


def read_passages(paths: file_list.Paths) -> Iterator[tuple[pathlib.Path, int, Passage]]:
    """Yields (file, line from 1, Passage) of JSON-lines files.

    Raises InputFileError: see tokens_of_files.
    """
    for file in file_list.files_of(paths):
        for line, row in jsonl.read(file):
            yield file, line, passage_of(documents.in_our_fields(row), str(file), line)


def passage_of(row: dict[str, Any], file: str, line: int, field: str = '') -> Passage:
    """Returns the passage of a row.

    Raises InputFileError: no text, or a field of another type. `field` is a prefix to its name.
    """
    for name in ('title', 'section', 'text'):
        if not isinstance(row.get(name, ''), str):
            raise errors.InputFileError(file, f'is {type(row[name]).__name__}', line=line,
                                        field=field + name, remedy='it must be a text')
    if not row.get('text', '').strip():
        raise errors.InputFileError(file, 'empty or missing', line=line, field=f'{field}text',
                                    remedy='give each passage a text')
    return Passage(str(row.get('id', '')), row.get('title', ''), row.get('section', ''),
                   row['text'])


def tokens_of_store(store: PassageStore, tokenizer: BertTokenizer,
                    rows: np.ndarray | None = None) -> PassageTokens:
    """Returns the passages of a store, tokenised again if its ids are another tokenizer's.

    Args:
      store: The store.
      tokenizer: The retriever's tokenizer.
      rows: Rows to take, ascending, [n] int64; None takes all that no later row replaces.

    Raises StoreError: the store is damaged, or has no passage.
    """
    if rows is None:
        rows = np.flatnonzero(~store.superseded())
    if not len(rows):
        raise errors.StoreError(f'{store.path}: holds no passage; add some with `atlas-jax data '
                                'passages`')

    def place(number: int) -> str:
        return f'{store.path}, passage "{store.docid(int(rows[number]))}"'

    # Most stores hold this retriever's ids, and tokenising 33 million passages takes hours.
    if store.retriever_tokenizer == tokenizer.fingerprint:
        ids, lengths = store.retriever_ids(rows)
        return PassageTokens(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), place)
    parts = []
    with progress.bar(len(rows), f'tokenising {store.path}', ' passages') as bar:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start:start + _BLOCK].tolist()
            parts += [_encoded(store[row], tokenizer) for row in block]
            bar.update(len(block))
    return _joined(parts, place)


def _encoded(passage: Passage, tokenizer: BertTokenizer) -> np.ndarray:
    # Title before text, as in the retriever's format.
    ids = tokenizer.encode(passage.full_title) + tokenizer.encode(passage.text)
    return np.array(ids, np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _joined(parts: Sequence[np.ndarray], place: Callable[[int], str]) -> PassageTokens:
    # One array: a list of arrays costs a hundred bytes a passage.
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    return PassageTokens(np.concatenate(parts), starts, place)
