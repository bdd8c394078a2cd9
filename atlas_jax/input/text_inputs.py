"""Reader and retriever inputs put together from texts on the host: given passages, and formats whose fields touch other text.

Where a format's fields stand between spaces, the ids are those that nn/assembly.py makes in the graph, cut alike.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.passages import Passage
from atlas_jax.tokenizers import formats

Encode = Callable[[str], list[int]]


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """A format, the tokenizer that reads it, special tokens around it, and the most tokens an input may have; borders as in formats.

    Raises ConfigError where the format alone is longer than the limit, FormatError where it is none.
    """

    template: str
    encode: Encode
    max_tokens: int
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    borders: frozenset[str] = formats.WHITE_SPACE

    def __post_init__(self):
        literal = len(self.ids('', '', '', cut=False))
        if literal > self.max_tokens:
            raise errors.ConfigError(f'the format "{self.template}" alone takes {literal} tokens, more than the limit of '
                                     f'{self.max_tokens}; raise text_max_tokens')

    def ids(self, query: str, title: str, text: str, *, query_max_tokens: int | None = None, cut: bool = True) -> list[int]:
        """Token ids of one input, special tokens included.

        What is too long is cut: the text first, from its end; if that is not enough the title, then the query. Between spaces each is cut
        after a token; where fields touch other text, after a word.
        """
        values = {'query': query, 'title': title, 'text': text}
        if formats.touching(self.template, self.borders):
            return self._whole(values, query_max_tokens, cut)
        pieces = {name: self.encode(value) for name, value in values.items()}
        pieces['query'] = pieces['query'][:query_max_tokens]
        parts = [(self.encode(literal), field) for literal, field in formats.parse(self.template)]
        if cut:
            room = self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids) - sum(len(literal) for literal, _ in parts)
            for name in ('query', 'title', 'text'):  # the order in which they may claim room
                if any(field == name for _, field in parts):
                    pieces[name] = pieces[name][:room]
                    room -= len(pieces[name])
        inside = [token for literal, field in parts for token in (*literal, *(pieces[field] if field else ()))]
        return [*self.prefix_ids, *inside, *self.suffix_ids]

    def _whole(self, values: dict[str, str], query_max_tokens: int | None, cut: bool) -> list[int]:
        """Tokenises the joined text, with as many words of its fields as there is room for."""
        words = {name: value.split(' ') for name, value in values.items()}
        if query_max_tokens is not None and (kept := _most(len(words['query']), lambda n: self.encode(' '.join(words['query'][:n])),
                                                           query_max_tokens)) < len(words['query']):
            values = {**values, 'query': ' '.join(words['query'][:kept])}
            words['query'] = words['query'][:kept]
        ids = self.encode(formats.fill(self.template, values))
        room = self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids)
        for name in ('text', 'title', 'query') if cut else ():
            if len(ids) <= room:
                break
            def encode(count: int, name=name, values=values) -> list[int]:
                return self.encode(formats.fill(self.template, {**values, name: ' '.join(words[name][:count])}))
            kept = _most(len(words[name]), encode, room)
            values = {**values, name: ' '.join(words[name][:kept])}
            ids = encode(kept)
        return [*self.prefix_ids, *(ids[:room] if cut else ids), *self.suffix_ids]


@dataclasses.dataclass(frozen=True)
class PassageEncoder:
    """Turns an example's passages into rows of a Batch.

    Attributes:
      reader: the reader's format, with {query}.
      retriever: the retriever's format; None where nothing embeds the passages.
      n: passages an example has room for; further ones are left out.
      query_max_tokens: a longer query is cut there.
    """

    reader: TextFormat
    retriever: TextFormat | None
    n: int
    query_max_tokens: int

    def encode(self, query: str, passages: Sequence[Passage]) -> dict[str, np.ndarray]:
        """The passage fields of one row of a Batch; an example without passages reads its query with an empty one."""
        passages = list(passages)[:self.n] or [Passage('', '', '', '')]
        reader = [self.reader.ids(query, passage.full_title, passage.text, query_max_tokens=self.query_max_tokens) for passage in passages]
        row = _rows(reader, self.n, self.reader.max_tokens, 'passage')
        if self.retriever is not None:
            row |= _rows([self.retriever.ids('', passage.full_title, passage.text) for passage in passages], self.n,
                         self.retriever.max_tokens, 'retriever_passage')
        return row


def _rows(ids: Sequence[Sequence[int]], n: int, width: int, name: str) -> dict[str, np.ndarray]:
    tokens, lengths = np.zeros((n, width), np.int32), np.zeros(n, np.int32)
    for number, row in enumerate(ids):
        tokens[number, :len(row)], lengths[number] = row, len(row)
    return {f'{name}_tokens': tokens, f'{name}_lengths': lengths}


def _most(count: int, encode: Callable[[int], list[int]], room: int) -> int:
    """The greatest number up to `count` whose ids fit the room; 0 where none does. Bisection: more words are never fewer tokens."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(encode(middle)) <= room else (low, middle - 1)
    return low
