"""Language modelling: the query is the beginning of a text, the target the rest."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax import errors, options
from atlas_jax.tasks import fields
from atlas_jax.tasks import task as task_lib


class TextTask(task_lib.PlainTask):
    """The base of the tasks that make examples of raw texts."""

    metrics = ('accuracy', 'f1', 'rouge_1', 'rouge_2', 'rouge_L', 'perplexity')
    reads: tuple[str, ...] = ('id', 'text', 'passages')
    query_max_tokens, target_max_tokens = 192, 64
    asks = label = 'text'
    remedy = 'each row needs "text", and "id" where the text is a passage of the index'

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields id, text, passages."""
        return fields.string_problem(row, 'text', self.remedy) or fields.id_problem(
            row, self.remedy) or fields.optional_problem(row)


@dataclasses.dataclass(frozen=True)
class LMTask(TextTask):
    """Splits a text between two words; the passage itself is not retrieved.

    The query's share of words is drawn again in every epoch. Query and target have at least one
    word each; texts of one word are left out.

    Attributes:
      min_context_ratio, max_context_ratio: Bounds of the query's share of words, 0 to 1.
      min_words: Shorter texts are left out.

    Raises ConfigError: a ratio is not between 0 and 1, or the first is above the second.
    """

    min_context_ratio: float = options.option(0.5)
    max_context_ratio: float = options.option(0.5)
    min_words: int = 0

    def __post_init__(self):
        super().__post_init__()
        # 0 or 1 would leave the query or the target empty.
        if not 0 < self.min_context_ratio <= self.max_context_ratio < 1:
            raise errors.ConfigError(
                f'LMTask.min_context_ratio is {self.min_context_ratio} and max_context_ratio '
                f'{self.max_context_ratio}; they must be above 0 and below 1, the first not the '
                'larger one')

    @property
    def draws(self) -> bool:
        """True if the place of the split is drawn."""
        return self.min_context_ratio < self.max_context_ratio

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # Split by words, so that no token is cut in two.
        words = row['text'].split()
        if len(words) < max(self.min_words, 2):
            return None
        ratio = self.min_context_ratio
        if self.draws:
            ratio = task_lib.generator_for(example_id, generator).uniform(
                self.min_context_ratio, self.max_context_ratio)
        first = min(max(int(ratio * len(words)), 1), len(words) - 1)
        query, target = ' '.join(words[:first]), ' '.join(words[first:])
        return task_lib.TaskExample(query=query, target=target, answers=[target],
                                    example_id=example_id, question=query,
                                    passages=fields.passages(row), own_docid=fields.own_docid(row),
                                    row=row if self.draws else None)
