"""The token ids of many passages without padding: what crops are cut from. Of files, or of a store."""

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
from atlas_jax.tokenizers.bert import BertTokenizer

_NAMED = 9  # passages in a message
_BLOCK = 8192  # passages of a store that are tokenised between two steps of the bar


@dataclasses.dataclass(frozen=True)
class PassageTokens:
    """Passages as the retriever's token ids, title and text, no special tokens.

    ids     [tokens] uint16 or uint32, one passage after another
    starts  [passages + 1] int64, where each begins
    place   names a passage by its number, for messages
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
        """16 hexadecimal digits that change with any token; the record of a run has them."""
        # Borders and ids: two files with the same tokens cut elsewhere are other data. One type, whatever the store keeps.
        found = hashlib.sha256(self.starts.tobytes())
        found.update(self.ids.astype(np.uint32).tobytes())
        return found.hexdigest()[:16]

    def check_length(self, least: int) -> None:
        """Raises InputFileError: passages of fewer than `least` tokens; names the first of them."""
        # All at once: a user should not have to mend one line after another.
        short = np.flatnonzero(np.diff(self.starts) < least)
        if len(short):
            named = ', '.join(self.place(number) for number in short[:_NAMED].tolist()) + (', …' if len(short) > _NAMED else '')
            raise errors.InputFileError(named, f'{len(short)} passages have fewer than the {least} tokens of the shortest crop',
                                        remedy='take these lines out, or lower min_crop_tokens')


def of_files(paths: file_list.Paths, tokenizer: BertTokenizer) -> PassageTokens:
    """Tokenises the passages of JSON-lines files: `text`, and optionally `title` and `section` (docs/data.md).

    Raises InputFileError: no such file, or a line without text; names file and line.
    """
    # Places are kept beside: a message has to name the line of a passage that turns out too short.
    parts, places = [], []
    with progress.bar(None, f'tokenising {file_list.shown(paths)}', ' passages') as bar:
        for file, line, passage in read_passages(paths):
            parts.append(_encoded(passage, tokenizer))
            places.append((file, line))
            bar.update(1)
    # A list of files is long to say for every passage.
    return _joined(parts, lambda number: f'{places[number][0]}:{places[number][1]}')


def read_passages(paths: file_list.Paths) -> Iterator[tuple[pathlib.Path, int, Passage]]:
    """Yields (file, line from 1, Passage) of JSON-lines files. Raises InputFileError: see of_files."""
    for file in file_list.files_of(paths):
        for line, row in jsonl.read(file):
            yield file, line, passage_of(documents.in_our_fields(row), str(file), line)


def passage_of(row: dict[str, Any], file: str, line: int, field: str = '') -> Passage:
    """Returns the passage of a row. Raises InputFileError: no text, or a field of another type; `field` stands before its name."""
    for name in ('title', 'section', 'text'):
        if not isinstance(row.get(name, ''), str):
            raise errors.InputFileError(file, f'is {type(row[name]).__name__}', line=line, field=field + name, remedy='it must be a text')
    if not row.get('text', '').strip():
        raise errors.InputFileError(file, 'empty or missing', line=line, field=f'{field}text', remedy='give each passage a text')
    return Passage(str(row.get('id', '')), row.get('title', ''), row.get('section', ''), row['text'])


def of_store(store: PassageStore, tokenizer: BertTokenizer, rows: np.ndarray | None = None) -> PassageTokens:
    """Returns the passages of a store, those of `rows` [n] int64, ascending; tokenised anew where its ids are another tokenizer's.

    Raises StoreError: damaged, or no passage is left.
    """
    if rows is None:
        rows = np.flatnonzero(~store.superseded())  # a later row replaces one of the same docid
    if not len(rows):
        raise errors.StoreError(f'{store.path}: holds no passage; add some with `atlas-jax data passages`')

    def place(number: int) -> str:
        return f'{store.path}, passage "{store.docid(int(rows[number]))}"'

    # Most stores were made for this very retriever, and tokenising 33 million passages again takes hours.
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
    # Title before text, as the retriever's format has them.
    ids = tokenizer.encode(passage.full_title) + tokenizer.encode(passage.text)
    return np.array(ids, np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _joined(parts: Sequence[np.ndarray], place: Callable[[int], str]) -> PassageTokens:
    # One array, as a store has them: a list of arrays costs a hundred bytes a passage.
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    return PassageTokens(np.concatenate(parts), starts, place)
