"""From an example's texts to one row of a Batch."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from atlas_jax import types
from atlas_jax.corpus.passages import Passage
from atlas_jax.input.text_inputs import PassageEncoder
from atlas_jax.tasks import text_format
from atlas_jax.tasks.task import Task, TaskExample
from atlas_jax.tokenizers.bert import BertTokenizer
from atlas_jax.tokenizers.t5 import T5Tokenizer

_ROUND_TOKENS = 16


@dataclasses.dataclass
class ExampleEncoder:
    """Tokenises examples to fixed widths.

    Attributes:
      query_width, target_width: of the rows.
      decoder_format, decoder_prompt_format: see models/atlas.py.
      task: what draws an example anew, where it does.
      passages: where passages are given rather than retrieved: how they are read.
      own_rows: index rows of the passages that an example's own docid stands for; the search leaves them out.
      clipped_queries, clipped_targets: examples of which something was cut so far.
    """

    reader_tokenizer: T5Tokenizer
    retriever_tokenizer: BertTokenizer
    query_width: int
    target_width: int
    decoder_format: str = '{target}'
    decoder_prompt_format: str | None = None
    task: Task | None = None
    passages: PassageEncoder | None = None
    own_rows: Mapping[str, Sequence[int]] | None = None
    clipped_queries: int = 0
    clipped_targets: int = 0
    _choices: tuple[int, int] = (0, 0)  # choices an example has at most, and tokens a choice has at most

    def __post_init__(self):
        text_format.around('decoder_format', self.decoder_format, 'target')
        if self.decoder_prompt_format is not None:
            text_format.around('decoder_prompt_format', self.decoder_prompt_format, 'query')

    def fit_queries(self, examples: Sequence[TaskExample]) -> np.ndarray:
        """Narrows the rows to what `examples` need; returns reader lengths of queries [n] int, which no query exceeds."""
        limit = self.query_width
        reader = [min(len(self.reader_tokenizer.encode(example.query)), limit) for example in examples]
        retriever = [min(len(self.retriever_tokenizer.encode(example.query)) + 2, limit) for example in examples]
        if self._draws:
            reader.append(limit)  # another draw may be longer
        longest = max([2, *reader, *retriever])
        self.query_width = min(-(-longest // _ROUND_TOKENS) * _ROUND_TOKENS, limit)
        choices = [self._choice_ids(example) for example in examples if example.choices]
        self._choices = (max((len(rows) for rows in choices), default=0), max((len(row) for rows in choices for row in rows), default=0))
        return np.array(reader, np.int64)

    def count_clipped_targets(self, examples: Sequence[TaskExample]) -> int:
        """How many examples have a target over the limit."""
        return sum(len(self._target(example)[0]) > self.target_width for example in examples)

    def encode(self, example: TaskExample, passages: Sequence[Passage] | None = None, *, bare: bool = False) -> types.Batch:
        """One row of a Batch, without its batch axis; queries and targets over their limits are cut at the end and counted.

        A target that is cut loses its eos, as in the original. `passages` are read in place of the example's own; a bare row has no
        passage fields at all.
        """
        reader_query = self.reader_tokenizer.encode(example.query)
        retriever_query = self.retriever_tokenizer.encode(example.query)
        self.clipped_queries += max(len(reader_query), len(retriever_query) + 2) > self.query_width
        if example.cut_front:
            reader_query, retriever_query = reader_query[-self.query_width:], retriever_query[-(self.query_width - 2):]
        retriever_query = [self.retriever_tokenizer.cls_id, *retriever_query[:self.query_width - 2], self.retriever_tokenizer.sep_id]
        reader_query = reader_query[:self.query_width]
        target, prompt_length = self._target(example)
        self.clipped_targets += len(target) > self.target_width
        target = target[:self.target_width]
        places = np.arange(self.target_width)
        row = types.Batch(
            retriever_query_tokens=_pad(retriever_query, self.query_width), retriever_query_lengths=np.int32(len(retriever_query)),
            reader_query_tokens=_pad(reader_query, self.query_width), reader_query_lengths=np.int32(len(reader_query)),
            decoder_target_tokens=_pad(target, self.target_width),
            decoder_loss_weights=((places >= prompt_length) & (places < len(target))).astype(np.float32),
            example_ids=np.int32(example.example_id))
        return self._with_options(row, example, target[:prompt_length], passages, bare)

    def written(self, example: TaskExample, tokens: Sequence[int]) -> str:
        """What the reader wrote of its own: without prompt, decoder_format and sentinels."""
        text = self.reader_tokenizer.decode(tokens[len(self._prompt_ids(example)):])
        return text_format.strip('decoder_format', self.decoder_format, 'target', text)

    def filler(self, *, bare: bool = False) -> types.Batch:
        """The row that fills up a last batch: it counts in no loss and no metric."""
        cls, sep = self.retriever_tokenizer.cls_id, self.retriever_tokenizer.sep_id
        row = types.Batch(
            retriever_query_tokens=_pad([cls, sep], self.query_width), retriever_query_lengths=np.int32(2),
            reader_query_tokens=_pad([], self.query_width), reader_query_lengths=np.int32(0),
            decoder_target_tokens=_pad([], self.target_width), decoder_loss_weights=np.zeros(self.target_width, np.float32),
            example_ids=np.int32(-1))
        return self._with_options(row, TaskExample('', '', [], -1), [], None, bare)

    @property
    def _draws(self) -> bool:
        return self.task is not None and self.task.draws

    def _with_options(self, row: types.Batch, example: TaskExample, prompt: Sequence[int],
                      passages: Sequence[Passage] | None, bare: bool) -> types.Batch:
        """The row with those of the optional fields that this encoder fills: the same ones for every example."""
        changes = {}
        if self.decoder_prompt_format is not None:
            changes |= {'decoder_prompt_tokens': _pad(prompt, self.target_width), 'decoder_prompt_lengths': np.int32(len(prompt))}
        if self._choices[0]:
            changes |= self._choice_rows(example)
        if self.passages is not None and not bare:
            changes |= self.passages.encode(example.query, example.passages if passages is None else passages)
        if self.own_rows is not None:
            width = max([1, *map(len, self.own_rows.values())])
            own = list(self.own_rows.get(example.own_docid, ()))
            changes['excluded_passage_ids'] = np.array([*own, *[-1] * (width - len(own))], np.int32)
        return row.replace(**changes)

    def _prompt_ids(self, example: TaskExample) -> list[int]:
        """What every answer begins with; one token at least is left for the answer."""
        if self.decoder_prompt_format is None:
            return []
        prompt = text_format.fill('decoder_prompt_format', self.decoder_prompt_format, 'query', example.query)
        return self.reader_tokenizer.encode(prompt)[:self.target_width - 1]

    def _target_ids(self, example: TaskExample, target: str) -> list[int]:
        """Prompt, target in its format, eos."""
        ids = self.reader_tokenizer.encode(text_format.fill('decoder_format', self.decoder_format, 'target', target))
        eos = self.reader_tokenizer.eos_id
        return [*self._prompt_ids(example), *ids, *([] if ids[-1:] == [eos] else [eos])]

    def _target(self, example: TaskExample) -> tuple[list[int], int]:
        """(all of the target's ids, how many of them are the prompt)."""
        return self._target_ids(example, example.target), len(self._prompt_ids(example))

    def _choice_ids(self, example: TaskExample) -> list[list[int]]:
        return [self._target_ids(example, choice)[:self.target_width] for choice in example.choices]

    def _choice_rows(self, example: TaskExample) -> dict[str, np.ndarray]:
        """Choices as decoder targets; what they begin with alike, and the eos, is not scored."""
        choices, width = self._choice_ids(example), self._choices[1]
        tokens, weights = np.zeros(self._choices, np.int32), np.zeros(self._choices, np.float32)
        alike = next((place for place, ids in enumerate(zip(*choices, strict=False)) if len(set(ids)) > 1), 0)
        for number, ids in enumerate(choices):
            tokens[number] = _pad(ids, width)
            weights[number, alike:max(len(ids) - 1, alike + 1)] = 1
        return {'choice_tokens': tokens, 'choice_weights': weights}


def stack(rows: Sequence[types.Batch]) -> types.Batch:
    """Rows to a Batch of numpy arrays, row axis first; a field that is None in the first row is None in all."""
    fields = [field.name for field in dataclasses.fields(types.Batch)]
    columns = {name: [getattr(row, name) for row in rows] for name in fields}
    return types.Batch(**{name: np.stack(column) for name, column in columns.items() if column[0] is not None})


def _pad(ids: Sequence[int], width: int) -> np.ndarray:
    return np.array([*ids, *[0] * (width - len(ids))], np.int32)
