"""The example encoder: turns an example's texts into one row of a Batch."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.input.text_inputs import PassageEncoder
from atlas_jax.tasks import text_format
from atlas_jax.tasks.task import Task, TaskExample, places
from atlas_jax.tokenizers import formats
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer
from atlas_jax.tokenizers.t5_tokenizer import T5Tokenizer

_NAMED = 9  # examples that a message names
# Query widths are rounded up, so that similar data sets share a compiled program.
_QUERY_WIDTH_MULTIPLE = 16


@dataclasses.dataclass
class ExampleEncoder:
    """Tokenises examples to fixed widths.

    Attributes:
      query_width, target_width: Tokens in a row.
      decoder_format, decoder_prompt_format: See models/atlas.py.
      retriever_query_format: The retriever's prompt around {query}; no word may cross its borders.
      task: Draws new examples from rows, if it draws.
      passages: Encodes given passages; None if passages are retrieved.
      kept_rows: Index rows that an example must not be given, such as the passage it was made from,
        by example_id.
      reader_room, retriever_room: Query tokens that fit into each model's input beside its format,
        whatever query_width; None has no limit.
      notes: Notes of `fit_queries` to the user, a line each.
      queries_cut: Share of the examples whose query was cut, 0 to 1.

    Raises FormatError: a format lacks its field or has another one, or text of
    retriever_query_format touches it. ConfigError: that text leaves no room for a query.
    """

    reader_tokenizer: T5Tokenizer
    retriever_tokenizer: BertTokenizer
    query_width: int
    target_width: int
    decoder_format: str = '{target}'
    decoder_prompt_format: str | None = None
    task: Task | None = None
    passages: PassageEncoder | None = None
    kept_rows: Mapping[int, Sequence[int]] | None = None
    reader_room: int | None = None
    retriever_room: int | None = None
    retriever_query_format: str = '{query}'
    notes: tuple[str, ...] = ()
    queries_cut: float = 0.0
    _max_choices: int = 0  # most choices of an example
    _choice_width: int = 0  # tokens of the longest choice

    def __post_init__(self) -> None:
        text_format.split_format(self.decoder_format, 'target', 'decoder_format')
        if self.decoder_prompt_format is not None:
            text_format.split_format(self.decoder_prompt_format, 'query', 'decoder_prompt_format')
        before, after = text_format.split_format(self.retriever_query_format, 'query',
                                                 'retriever_query_format')
        if reason := formats.touching(self.retriever_query_format, formats.PUNCTUATION):
            raise errors.FormatError(f'retriever_query_format: {reason}; end the prompt with a '
                                     'space or a punctuation mark')
        # A query is cut to the room between these ids, special tokens included.
        self._before = [self.retriever_tokenizer.cls_id, *self.retriever_tokenizer.encode(before)]
        self._after = [*self.retriever_tokenizer.encode(after), self.retriever_tokenizer.sep_id]
        if self._retriever_length('') >= self.query_limits[1] > 2:
            raise errors.ConfigError(
                f'the retriever\'s query prompt "{self.retriever_query_format}" takes '
                f'{self._retriever_length("")} tokens and leaves no room for a query; raise '
                f'query_max_tokens, which is {self.query_width}')

    def fit_queries(self, examples: Sequence[TaskExample],
                    widths: Sequence[int] = ()) -> np.ndarray:
        """Sets the query width to the longest query; returns reader lengths [n] int64 of queries.

        Options of a multiple choice may widen the rows. If the task draws, the lengths have the
        limit as one more entry. The width is the first of `widths` (ascending) that holds all
        queries, or else a multiple of 16.

        Raises ConfigError: the options of an example do not fit into the input of a model.
        """
        self.notes = ()
        self._fit_kept([example for example in examples if example.kept])
        limit, (reader_limit, retriever_limit) = self.query_width, self.query_limits
        reader = [len(self.reader_tokenizer.encode(example.query)) for example in examples]
        retriever = [self._retriever_length(example.query) for example in examples]
        cut = sum(ours > reader_limit or theirs > retriever_limit
                  for ours, theirs in zip(reader, retriever, strict=True))
        self.queries_cut = cut / max(len(examples), 1)
        if cut:
            lost = 'beginning' if examples[0].kept else 'end'
            option = 'text' if reader_limit < limit else 'query'
            self.notes += (f'{cut} of {len(examples)} queries ({self.queries_cut:.1%}) were cut '
                           f'at {min(reader_limit, retriever_limit)} tokens and lost their {lost}; '
                           f'raise {option}_max_tokens to keep them whole',)
        reader = [min(length, reader_limit) for length in reader]
        retriever = [min(length, retriever_limit) for length in retriever]
        if self.task is not None and self.task.draws:
            reader.append(limit)  # another draw may be longer
        # Fillers have [CLS], the prompt and [SEP].
        longest = max([self._retriever_length(''), *reader, *retriever])
        rounded = math.ceil(longest / _QUERY_WIDTH_MULTIPLE) * _QUERY_WIDTH_MULTIPLE
        self.query_width = min(next((width for width in widths if width >= longest), rounded),
                               limit)
        choices = [self._choice_ids(example) for example in examples if example.choices]
        self._max_choices = max((len(rows) for rows in choices), default=0)
        self._choice_width = max((len(ids) for rows in choices for ids in rows), default=0)
        return np.array(reader, np.int64)

    @property
    def query_limits(self) -> tuple[int, int]:
        """The limits of a query in reader tokens and in retriever tokens with [CLS] and [SEP]."""
        rooms = (self.reader_room, self.retriever_room)
        reader, retriever = (self.query_width if room is None else min(self.query_width, room)
                             for room in rooms)
        return reader, retriever

    def _fit_kept(self, examples: Sequence[TaskExample]) -> None:
        """Raises query_width to the longest `kept` text.

        Raises ConfigError: a `kept` text does not fit into the input of a model.
        """
        limits, rooms = self.query_limits, (self.reader_room, self.retriever_room)
        lengths = [
            (len(self.reader_tokenizer.encode(example.kept)), self._retriever_length(example.kept))
            for example in examples]
        for model, theirs, room in zip(('reader', 'retriever'), zip(*lengths, strict=True), rooms,
                                       strict=False):
            if room is not None and max(theirs) > room:
                # All lines at once, so that the user need not fix them one by one.
                too_long = [example for example, length in zip(examples, theirs, strict=True)
                            if length > room]
                raise errors.ConfigError(
                    f'{places(too_long, _NAMED)}: the options take {max(theirs)} tokens, the '
                    f'{model} has room for {room}; raise InputConfig.text_max_tokens and build the '
                    'index with it, or leave the question out')
        over = [max(each) for each in lengths if each[0] > limits[0] or each[1] > limits[1]]
        if over:
            self.notes += (f'{len(over)} of {len(examples)} queries have options of more than '
                           f'{min(limits)} tokens; query_max_tokens was raised to {max(over)}, '
                           'since options are never cut',)
            self.query_width = max(over)

    def _retriever_length(self, query: str) -> int:
        return len(self._before) + len(self.retriever_tokenizer.encode(query)) + len(self._after)

    def count_clipped_targets(self, examples: Sequence[TaskExample]) -> int:
        """Returns the number of examples with a target over the limit."""
        return sum(len(self._target_ids(example, example.target)) > self.target_width
                   for example in examples)

    def encode(self, example: TaskExample, passages: Sequence[Passage] | None = None, *,
               bare: bool = False) -> types.Batch:
        """Returns one row of a Batch, numpy arrays without the batch axis.

        Queries and targets over their limits are cut at the end. A target that is cut loses its
        eos, as in the original.

        Args:
          example: See TaskExample.
          passages: Passages to read in place of the example's own.
          bare: Leaves the passage fields out.
        """
        reader_query = self.reader_tokenizer.encode(example.query)
        retriever_query = self.retriever_tokenizer.encode(example.query)
        reader_limit, retriever_limit = self.query_limits
        room = retriever_limit - self._retriever_length('')
        # The options of a multiple choice stand at the end and must not be cut.
        if example.kept:
            reader_query = reader_query[max(0, len(reader_query) - reader_limit):]
            retriever_query = retriever_query[max(0, len(retriever_query) - room):]
        prompt = self._prompt_ids(example)
        target = self._target_ids(example, example.target)[:self.target_width]
        places = np.arange(self.target_width)
        # [target_width] bool: the prompt is given, not learnt.
        weights = (places >= len(prompt)) & (places < len(target))
        fields = self._fields(reader_query[:reader_limit], retriever_query[:room], target, weights,
                              example.example_id)
        return types.Batch(**fields, **self._optional_fields(example, prompt, passages, bare))

    def decode_answer(self, example: TaskExample, tokens: Sequence[int]) -> str:
        """Returns the text of an answer's ids, without prompt, decoder_format and sentinels."""
        text = self.reader_tokenizer.decode(tokens[len(self._prompt_ids(example)):])
        return text_format.strip(self.decoder_format, 'target', text)

    def filler(self, *, bare: bool = False) -> types.Batch:
        """Returns a row that pads the last batch; losses and metrics ignore it.

        `bare` leaves the passage fields out.
        """
        example = TaskExample('', '', [], -1)  # metrics ignore rows with this id
        fields = self._fields([], [], [], np.zeros(self.target_width, bool), example.example_id)
        return types.Batch(**fields, **self._optional_fields(example, [], None, bare))

    def _fields(self, reader_query: Sequence[int], retriever_query: Sequence[int],
                target: Sequence[int], weights: np.ndarray, example_id: int) -> dict[str, Any]:
        """Returns the fields that every row has, as numpy values: batches are placed later."""
        retriever_query = [*self._before, *retriever_query, *self._after]
        return {
            'retriever_query_tokens': _pad(retriever_query, self.query_width),
            'retriever_query_lengths': np.int32(len(retriever_query)),
            'reader_query_tokens': _pad(reader_query, self.query_width),
            'reader_query_lengths': np.int32(len(reader_query)),
            'decoder_target_tokens': _pad(target, self.target_width),
            'decoder_loss_weights': weights.astype(np.float32),
            'example_ids': np.int32(example_id)}

    def _optional_fields(self, example: TaskExample, prompt: Sequence[int],
                         passages: Sequence[Passage] | None, bare: bool) -> dict[str, Any]:
        """Returns the optional fields that this encoder fills, the same for every example."""
        fields: dict[str, Any] = {}
        if self.decoder_prompt_format is not None:
            fields |= {'decoder_prompt_tokens': _pad(prompt, self.target_width),
                       'decoder_prompt_lengths': np.int32(len(prompt))}
        if self._max_choices:
            fields |= self._choice_fields(example)
        if self.passages is not None and not bare:
            given = example.passages if passages is None else passages
            fields |= self.passages.encode(example.query, given, bool(example.kept))
        if self.kept_rows is not None:
            # As wide as the longest list of rows, so that all batches have one shape.
            width = max([1, *map(len, self.kept_rows.values())])
            excluded = list(self.kept_rows.get(example.example_id, ()))
            excluded += [-1] * (width - len(excluded))
            fields['excluded_passage_ids'] = np.array(excluded, np.int32)
        return fields

    def _prompt_ids(self, example: TaskExample) -> list[int]:
        """Returns the ids that every answer begins with; they leave room for at least one more."""
        if self.decoder_prompt_format is None:
            return []
        prompt = text_format.fill(self.decoder_prompt_format, 'query', example.query)
        return self.reader_tokenizer.encode(prompt)[:self.target_width - 1]

    def _target_ids(self, example: TaskExample, target: str) -> list[int]:
        """Returns the ids of prompt, formatted target, and eos."""
        ids = self.reader_tokenizer.encode(text_format.fill(self.decoder_format, 'target', target))
        eos = self.reader_tokenizer.eos_id
        # A format or target may end in </s> itself.
        return [*self._prompt_ids(example), *ids, *([] if ids[-1:] == [eos] else [eos])]

    def _choice_ids(self, example: TaskExample) -> list[list[int]]:
        return [self._target_ids(example, choice)[:self.target_width] for choice in example.choices]

    def _choice_fields(self, example: TaskExample) -> dict[str, np.ndarray]:
        """Returns the choices as decoder targets; common beginning and eos are not scored."""
        choices = self._choice_ids(example)
        shape = self._max_choices, self._choice_width
        tokens, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        first = _first_difference(choices)
        for number, ids in enumerate(choices):
            tokens[number] = _pad(ids, self._choice_width)
            # Score at least one token, even if the choices differ in length only.
            weights[number, first:max(len(ids) - 1, first + 1)] = 1
        return {'choice_tokens': tokens, 'choice_weights': weights}


def stack(rows: Sequence[types.Batch]) -> types.Batch:
    """Returns rows as one Batch of numpy arrays, row axis first.

    A field that is None in the first row stays None.
    """
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(types.Batch):
        values = [getattr(row, field.name) for row in rows]
        if values[0] is not None:
            columns[field.name] = np.stack(values)
    return types.Batch(**columns)


def _first_difference(sequences: Sequence[Sequence[int]]) -> int:
    """Returns the first place where sequences differ; 0 if the shortest begins all others."""
    for place, ids in enumerate(zip(*sequences, strict=False)):
        if len(set(ids)) > 1:
            return place
    return 0


def _pad(ids: Sequence[int], width: int) -> np.ndarray:
    return np.array([*ids, *[0] * (width - len(ids))], np.int32)
