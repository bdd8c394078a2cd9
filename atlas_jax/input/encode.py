"""From an example's texts to one row of a Batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atlas_jax import types
from atlas_jax.tasks.qa import TaskExample
from atlas_jax.tokenizers.bert import BertTokenizer
from atlas_jax.tokenizers.t5 import T5Tokenizer

_ROUND_TOKENS = 16


@dataclasses.dataclass
class ExampleEncoder:
    """Tokenises examples to fixed widths.

    `query_width` and `target_width` are the widths of the rows; `clipped_queries` and `clipped_targets` count what was cut.
    """

    reader_tokenizer: T5Tokenizer
    retriever_tokenizer: BertTokenizer
    query_width: int
    target_width: int
    clipped_queries: int = 0
    clipped_targets: int = 0

    def fit_queries(self, examples: Sequence[TaskExample]) -> np.ndarray:
        """Narrows `query_width` to the longest query of `examples`; returns their reader lengths [n] int."""
        limit = self.query_width
        reader = np.array([min(len(self.reader_tokenizer.encode(example.query)), limit) for example in examples], np.int64)
        retriever = [min(len(self.retriever_tokenizer.encode(example.query)) + 2, limit) for example in examples]
        longest = max([2, *reader, *retriever])
        self.query_width = min(-(-longest // _ROUND_TOKENS) * _ROUND_TOKENS, limit)
        return reader

    def encode(self, example: TaskExample) -> types.Batch:
        """One row of a Batch, without its batch axis; queries and targets over their limits are cut at the end and counted."""
        reader_query = self.reader_tokenizer.encode(example.query)
        retriever_query = self.retriever_tokenizer.encode(example.query)
        self.clipped_queries += max(len(reader_query), len(retriever_query) + 2) > self.query_width
        reader_query = reader_query[:self.query_width]
        retriever_query = [self.retriever_tokenizer.cls_id, *retriever_query[:self.query_width - 2], self.retriever_tokenizer.sep_id]
        target = [*self.reader_tokenizer.encode(example.target), self.reader_tokenizer.eos_id]
        self.clipped_targets += len(target) > self.target_width
        target = target[:self.target_width]
        return types.Batch(
            retriever_query_tokens=_pad(retriever_query, self.query_width), retriever_query_lengths=np.int32(len(retriever_query)),
            reader_query_tokens=_pad(reader_query, self.query_width), reader_query_lengths=np.int32(len(reader_query)),
            decoder_target_tokens=_pad(target, self.target_width),
            decoder_loss_weights=(np.arange(self.target_width) < len(target)).astype(np.float32),
            example_ids=np.int32(example.example_id))

    def filler(self) -> types.Batch:
        """The row that fills up a last batch: it counts in no loss and no metric."""
        cls, sep = self.retriever_tokenizer.cls_id, self.retriever_tokenizer.sep_id
        return types.Batch(
            retriever_query_tokens=_pad([cls, sep], self.query_width), retriever_query_lengths=np.int32(2),
            reader_query_tokens=_pad([], self.query_width), reader_query_lengths=np.int32(0),
            decoder_target_tokens=_pad([], self.target_width), decoder_loss_weights=np.zeros(self.target_width, np.float32),
            example_ids=np.int32(-1))


def stack(rows: Sequence[types.Batch]) -> types.Batch:
    """Rows to a Batch of numpy arrays, row axis first; a field that is None in the first row is None in all."""
    fields = [field.name for field in dataclasses.fields(types.Batch)]
    columns = {name: [getattr(row, name) for row in rows] for name in fields}
    return types.Batch(**{name: np.stack(column) for name, column in columns.items() if column[0] is not None})


def _pad(ids: Sequence[int], width: int) -> np.ndarray:
    return np.array([*ids, *[0] * (width - len(ids))], np.int32)
