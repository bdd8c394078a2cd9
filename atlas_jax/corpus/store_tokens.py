"""The token ids of a segment by one tokenizer: for each passage the title's ids, then the text's,
and their lengths.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tqdm

from atlas_jax import errors, types
from atlas_jax.corpus import store_arrays, store_text
from atlas_jax.io import arrays
from atlas_jax.io.folder import Folder

FOLDER = 'tokens'
SIDES = ('reader', 'retriever')
WIDTH_MULTIPLE = 128  # a TPU's lanes; XLA pads rows to a multiple anyway
_TABLE_ROWS = 8192  # rows of a table filled at a time; bounds the temporary arrays


class Tokenizer(Protocol):
    """A tokenizer as the store needs it."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ for tokenizers with other ids."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id is smaller."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens around it."""
        ...


def write(folder: Folder, text: store_text.TextReader, tokenizer: Tokenizer,
          bar: tqdm.tqdm | None = None) -> None:
    """Tokenises a segment's passages into `folder`, and advances the bar by passages.

    Raises:
      StoreError: the tokenizer gives an id that its vocabulary does not have.
      DiskFullError.
    """
    # T5's and BERT's ids fit into 16 bits, which halves disk and memory.
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    ids, lengths, title_lengths = _writers(folder, dtype)
    for first in range(0, text.rows, store_text.BATCH_ROWS):
        rows = range(first, min(first + store_text.BATCH_ROWS, text.rows))
        passages = [text.passage(row) for row in rows]
        titles = [tokenizer.encode(passage.full_title) for passage in passages]
        texts = [tokenizer.encode(passage.text) for passage in passages]
        passage_ids = [title + text_ids for title, text_ids in zip(titles, texts, strict=True)]
        flat = np.fromiter(itertools.chain.from_iterable(passage_ids), np.int64)
        if len(flat) and not 0 <= flat.min() <= flat.max() < tokenizer.vocab_size:
            raise errors.StoreError(f'{folder}: the tokenizer gave id {flat.max()}, its '
                                    f'vocabulary has {tokenizer.vocab_size}; '
                                    'correct the tokenizer')
        ids.append(flat)
        title_lengths.append(np.array([len(title) for title in titles]))
        lengths.append(np.array([len(each) for each in passage_ids]))
        if bar is not None:
            bar.update(len(rows))
    for writer in (ids, lengths, title_lengths):
        writer.finish()


class TokenReader:
    """Reads one segment's ids of one tokenizer.

    lengths        [rows] int32  title and text together
    title_lengths  [rows] int32
    dtype          type of the ids, uint16 or uint32
    """

    def __init__(self, folder: Folder, rows: int):
        """Reads the lengths. Raises StoreError: a file is missing or damaged."""
        self._ids = store_arrays.ArrayReader(folder / 'ids')
        self.dtype = self._ids.dtype
        self.lengths = store_arrays.ArrayReader(folder / 'lengths').read()
        self.title_lengths = store_arrays.ArrayReader(folder / 'title_lengths').read()
        # [rows + 1] int64, because a large store has more ids than int32 can count.
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        if not len(self.lengths) == len(self.title_lengths) == rows or self._starts[-1] != len(
                self._ids):
            raise errors.StoreError(f'{folder}: damaged (its parts do not fit together); '
                                    f'{store_arrays.REMEDY}')

    def fill(self, tokens: np.ndarray, lengths: np.ndarray, first_row: int = 0) -> None:
        """Writes the first lengths[i] ids of row `first_row` + i into `tokens` [n, width]; lengths
        [n] int.
        """
        columns = np.arange(tokens.shape[1])
        # In pieces, because `real` and `positions` take nine bytes for each slot of the table.
        for start in range(0, len(tokens), _TABLE_ROWS):
            stop = min(start + _TABLE_ROWS, len(tokens))
            starts = self._starts[first_row + start:first_row + stop + 1]
            ids = self._ids.read(starts[0], starts[-1])
            real = columns < lengths[start:stop, None]  # [rows, width]
            positions = (starts[:-1] - starts[0])[:, None] + columns  # [rows, width], of `ids`
            tokens[start:stop][real] = ids[positions[real]]

    def ids_of(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the first lengths[i] ids of each of the `rows` [n] int, ascending, in one array.

        Raises StoreError: the store is damaged.
        """
        return self._ids.ranges(self._starts[rows], self._starts[rows] + lengths)

    def kept(self, keep: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (ids, lengths, title lengths) of the rows where `keep` [rows] bool is true, a few
        thousand rows at a time.
        """
        for start in range(0, len(keep), _TABLE_ROWS):
            rows = slice(start, min(start + _TABLE_ROWS, len(keep)))
            chosen, lengths = keep[rows], self.lengths[rows]
            ids = self._ids.read(self._starts[rows.start], self._starts[rows.stop])
            yield ids[np.repeat(chosen, lengths)], lengths[chosen], self.title_lengths[rows][chosen]


def copy(readers: Sequence[TokenReader], keep: np.ndarray, folder: Folder) -> None:
    """Writes the rows where `keep` [rows] bool is true into `folder`; rows count over all segments.

    Raises StoreError, DiskFullError.
    """
    writers = _writers(folder, readers[0].dtype)
    first = 0
    for reader in readers:
        for part in reader.kept(keep[first:first + len(reader.lengths)]):
            for writer, values in zip(writers, part, strict=True):
                writer.append(values)
        first += len(reader.lengths)
    for writer in writers:
        writer.finish()


def table(readers: Sequence[TokenReader], width: int | None, max_tokens: int | None,
          rows: tuple[int, int] | None = None) -> types.TokenTable:
    """Returns the segments' passages `rows` (first, after the last) as one padded table.

    Raises:
      StoreError: the store is damaged.
      ConfigError: max_tokens is below 1, or width is invalid; see PassageStore.reader_table.
    """
    lengths = np.concatenate([reader.lengths for reader in readers])
    title_lengths = np.concatenate([reader.title_lengths for reader in readers])
    if max_tokens is not None:
        if max_tokens < 1:
            raise errors.ConfigError(f'max_tokens is {max_tokens}; it must be at least 1')
        lengths, title_lengths = np.minimum(lengths,
                                            max_tokens), np.minimum(title_lengths, max_tokens)
    longest = int(lengths.max())
    if width is None:
        width = max(1, math.ceil(longest / WIDTH_MULTIPLE)) * WIDTH_MULTIPLE
    elif width % WIDTH_MULTIPLE or width < longest:
        raise errors.ConfigError(f'width is {width}; it must be a multiple of {WIDTH_MULTIPLE} '
                                 f'and hold {longest} tokens, '
                                 'else set max_tokens')
    start, stop = (0, len(lengths)) if rows is None else rows
    # Aligned, so that jax does not copy this largest array on a CPU.
    tokens = arrays.aligned((stop - start, width), max(reader.dtype for reader in readers))
    first = 0
    for reader in readers:
        begin, end = max(start, first), min(stop, first + len(reader.lengths))
        if begin < end:
            reader.fill(tokens[begin - start:end - start], lengths[begin:end], begin - first)
        first += len(reader.lengths)
    beyond = max(0, stop - max(start, len(lengths)))  # empty rows past the store's end
    # Any, because types.Array is jax's and these are numpy arrays.
    columns: dict[str, Any] = {
        'tokens': tokens, 'title_lengths': np.pad(title_lengths[start:stop], (0, beyond)),
        'lengths': np.pad(lengths[start:stop], (0, beyond))}
    return types.TokenTable(**columns)


def rows_of(readers: Sequence[TokenReader], rows: np.ndarray, width: int,
            max_tokens: int) -> types.TokenTable:
    """Returns the segments' passages `rows` [n] int64, ascending, cut at `max_tokens`, as a padded
    table of numpy arrays.

    Raises StoreError: the store is damaged.
    """
    tokens = np.zeros((len(rows), width), max(reader.dtype for reader in readers))
    lengths, title_lengths = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
    first = 0
    for reader in readers:
        # Ascending rows of one segment follow one another.
        begin, end = np.searchsorted(rows, [first, first + len(reader.lengths)])
        own, here = rows[begin:end] - first, slice(begin, end)
        lengths[here] = np.minimum(reader.lengths[own], max_tokens)
        title_lengths[here] = np.minimum(reader.title_lengths[own], max_tokens)
        tokens[here][np.arange(width) < lengths[here, None]] = reader.ids_of(own, lengths[here])
        first += len(reader.lengths)
    # Any, because types.Array is jax's and these are numpy arrays.
    columns: dict[str, Any] = {'tokens': tokens, 'title_lengths': title_lengths, 'lengths': lengths}
    return types.TokenTable(**columns)


def flat(readers: Sequence[TokenReader], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of the `rows` [n] int64, ascending, without padding, and their lengths [n]
    int32. Raises StoreError: the store is damaged.
    """
    # A padded table would be mostly zeros if the store has one long passage.
    ids, lengths, first = [], [], 0
    for reader in readers:
        # Ascending rows of one segment follow one another.
        begin, end = np.searchsorted(rows, [first, first + len(reader.lengths)])
        own = rows[begin:end] - first
        lengths.append(reader.lengths[own])
        ids.append(reader.ids_of(own, lengths[-1]))
        first += len(reader.lengths)
    return np.concatenate(ids), np.concatenate(lengths)


def _writers(
    folder: Folder, dtype: np.dtype | type
) -> tuple[store_arrays.ArrayWriter, store_arrays.ArrayWriter, store_arrays.ArrayWriter]:
    """Returns the writers of ids, lengths and title lengths."""
    return (store_arrays.ArrayWriter(folder / 'ids', dtype),
            store_arrays.ArrayWriter(folder / 'lengths', np.int32),
            store_arrays.ArrayWriter(folder / 'title_lengths', np.int32))
