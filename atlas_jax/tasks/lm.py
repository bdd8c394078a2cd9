"""Language modelling: the query is the beginning of a text, the target the rest."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

_REMEDY = 'each row needs "text", and "id" where the text is a passage of the index'


@dataclasses.dataclass(frozen=True)
class LMTask(task_lib.PlainTask):
    """Splits a text between two words; the passage itself is not retrieved.

    The query's share of words is drawn anew in every epoch; both parts have at least one word. Texts of one word are left out.

    Attributes:
      min_context_ratio, max_context_ratio: bounds of the query's share of words, 0 to 1.
      min_words: shorter texts are left out.

    Raises ConfigError: a ratio outside 0 to 1, or the first above the second.
    """

    min_context_ratio: float = 0.5
    max_context_ratio: float = 0.5
    min_words: int = 0

    metrics = ('accuracy', 'f1', 'rouge_1', 'rouge_2', 'rouge_L', 'perplexity')
    reads = ('id', 'text', 'passages')
    query_max_tokens, target_max_tokens = 192, 64
    asks, label, remedy = 'text', 'text', _REMEDY

    def __post_init__(self):
        if not 0 < self.min_context_ratio <= self.max_context_ratio < 1:
            # 0 or 1 would leave the query or the target empty.
            raise errors.ConfigError(f'LMTask.min_context_ratio is {self.min_context_ratio} and max_context_ratio '
                                     f'{self.max_context_ratio}; they must be above 0 and below 1, the first not the larger one')

    @property
    def draws(self) -> bool:
        """True if the place of the split is drawn."""
        return self.min_context_ratio < self.max_context_ratio

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields id, text, passages."""
        return fields.string_problem(row, 'text', _REMEDY) or fields.id_problem(row, _REMEDY) or fields.optional_problem(row)

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # By words, so that no token is cut in two between query and target.
        words = row['text'].split()
        if len(words) < max(self.min_words, 2):
            return None
        # Equal ratios split every text alike, so nothing is drawn and evaluation repeats.
        ratio = self.min_context_ratio
        if self.draws:
            ratio = task_lib.generator_for(example_id, generator).uniform(self.min_context_ratio, self.max_context_ratio)
        # At least one word on either side.
        first = min(max(int(ratio * len(words)), 1), len(words) - 1)
        query, target = ' '.join(words[:first]), ' '.join(words[first:])
        return task_lib.TaskExample(query=query, target=target, answers=[target], example_id=example_id, question=query,
                                    passages=fields.passages(row), own_docid=fields.own_docid(row), row=row if self.draws else None)

    def answer_text(self, text: str) -> str:
        """Returns the text with one space between words."""
        return text_format.without_sentinels(text)
