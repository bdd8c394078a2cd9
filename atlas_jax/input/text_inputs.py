"""Makes reader and retriever inputs from texts on the host.

Used for given passages, and for formats whose fields touch other text. If all fields stand between
spaces, ids and cuts equal those of nn/assembly.py, which works in the graph.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.passages import Passage, ScoredPassage
from atlas_jax.tokenizers import formats

Encode = Callable[[str], list[int]]


@dataclasses.dataclass(frozen=True)
class FormatEncoder:
    """Turns query, title and text into one input's token ids.

    Attributes:
      template: The format, with some of {query}, {title} and {text}.
      encode: Tokenises a text, without special tokens.
      max_tokens: Limit of an input, special tokens included.
      prefix_ids, suffix_ids: Special tokens before and after.
      borders: Characters that a token never crosses; see tokenizers/formats.py.

    Raises:
      ConfigError: the format without its fields exceeds the limit.
      FormatError: the format has an unknown field.
    """

    template: str
    encode: Encode
    max_tokens: int
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    borders: frozenset[str] = formats.WHITE_SPACE

    def __post_init__(self) -> None:
        # Checked here: the first example may come after a model is loaded.
        literal = len(self.ids('', '', '', cut=False))
        if literal > self.max_tokens:
            raise errors.ConfigError(
                f'the format "{self.template}" alone takes {literal} tokens, more than the limit '
                f'of {self.max_tokens}; raise text_max_tokens')

    def ids(self, query: str, title: str, text: str, *, query_max_tokens: int | None = None,
            keep_end: bool = False, cut: bool = True) -> list[int]:
        """Returns the token ids of one input, special tokens included.

        An input over the limit is cut: first the end of the text, then the title, then the query.
        Fields between spaces are cut after a token, fields that touch other text after a word.

        Args:
          query, title, text: Values of the fields.
          query_max_tokens: Limit of the query, applied first; None has no limit.
          keep_end: A query that is cut loses its beginning.
          cut: False keeps inputs over the limit.
        """
        values = {'query': query, 'title': title, 'text': text}
        # A tokenizer may join letters across the border of a field: the parts cannot be tokenised
        # separately.
        if formats.touching(self.template, self.borders):
            return self._ids_of_joined_text(values, query_max_tokens, keep_end, cut)
        pieces = {name: self.encode(value) for name, value in values.items()}
        if query_max_tokens is not None:
            over = max(0, len(pieces['query']) - query_max_tokens)
            pieces['query'] = (pieces['query'][over:] if keep_end
                               else pieces['query'][:query_max_tokens])
        parts = [(self.encode(literal), field) for literal, field in formats.parse(self.template)]
        if cut:
            room = self._room - sum(len(literal) for literal, _ in parts)
            for name in ('query', 'title', 'text'):  # they claim room in this order
                if any(field == name for _, field in parts):
                    pieces[name] = pieces[name][:room]
                    room -= len(pieces[name])
        inside: list[int] = []
        for literal, field in parts:
            inside += literal
            if field:
                inside += pieces[field]
        return [*self.prefix_ids, *inside, *self.suffix_ids]

    @property
    def _room(self) -> int:
        """The limit without the special tokens."""
        return self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids)

    def _ids_of_joined_text(self, values: dict[str, str], query_max_tokens: int | None,
                            keep_end: bool, cut: bool) -> list[int]:
        """Tokenises the joined text, with as many words of the fields as fit."""
        if query_max_tokens is not None:
            query = _longest_part(values['query'], self.encode, query_max_tokens, keep_end)
            values = {**values, 'query': query}
        ids = self.encode(formats.fill(self.template, values))
        if cut:
            for name in ('text', 'title', 'query'):  # they are cut in this order
                if len(ids) <= self._room:
                    break

                def encode(words: str, name: str = name,
                           values: dict[str, str] = values) -> list[int]:
                    return self.encode(formats.fill(self.template, {**values, name: words}))

                part = _longest_part(values[name], encode, self._room, keep_end and name == 'query')
                values = {**values, name: part}
                ids = self.encode(formats.fill(self.template, values))
            ids = ids[:self._room]
        return [*self.prefix_ids, *ids, *self.suffix_ids]


@dataclasses.dataclass(frozen=True)
class PassageEncoder:
    """Turns an example's passages into the passage fields of a Batch.

    Attributes:
      reader: The reader's format, with {query}.
      retriever: The retriever's format; None if nothing embeds the passages.
      n: Passages in a row; further ones are left out.
      query_max_tokens: Limit of the query.
      gold_scores: Adds the passages' teacher scores to the row.
    """

    reader: FormatEncoder
    retriever: FormatEncoder | None
    n: int
    query_max_tokens: int
    gold_scores: bool = False

    def encode(self, query: str, passages: Sequence[Passage],
               keep_end: bool = False) -> dict[str, np.ndarray]:
        """Returns the passage fields of one row.

        These are tokens [n, max_tokens] int32 and lengths [n] int32; empty slots have length 0.
        With `keep_end`, a query that is cut loses its beginning.
        """
        # An example without passages gets an empty one, since the reader must see the query.
        passages = list(passages)[:self.n] or [Passage('', '', '', '')]
        reader = [
            self.reader.ids(query, passage.full_title, passage.text,
                            query_max_tokens=self.query_max_tokens, keep_end=keep_end)
            for passage in passages]
        row = _rows(reader, self.n, self.reader.max_tokens, 'passage')
        if self.retriever is not None:
            row |= _rows(
                [self.retriever.ids('', passage.full_title, passage.text) for passage in passages],
                self.n, self.retriever.max_tokens, 'retriever_passage')
        if self.gold_scores:
            row['passage_gold_scores'] = np.zeros(self.n, np.float32)
            scores = [passage.gold_score for passage in passages
                      if isinstance(passage, ScoredPassage)]
            row['passage_gold_scores'][:len(scores)] = scores
        return row


def _rows(ids: Sequence[Sequence[int]], n: int, width: int, name: str) -> dict[str, np.ndarray]:
    tokens, lengths = np.zeros((n, width), np.int32), np.zeros(n, np.int32)
    for number, row in enumerate(ids):
        tokens[number, :len(row)] = row
        lengths[number] = len(row)
    return {f'{name}_tokens': tokens, f'{name}_lengths': lengths}


def _longest_part(text: str, encode: Encode, room: int, keep_end: bool) -> str:
    """Returns as many words from the text's beginning, or end, as make at most `room` ids.

    Words are split at single spaces.
    """
    words = text.split(' ')

    def part(number: int) -> str:
        return ' '.join(words[len(words) - number:] if keep_end else words[:number])

    # Bisection works, since more words never make fewer tokens.
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode(part(middle))) <= room:
            low = middle
        else:
            high = middle - 1
    return part(low)
