"""Any task from text to text: a row has query and target as the models see them."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

_REMEDY = 'each row needs "query" and "target", strings'


@dataclasses.dataclass(frozen=True)
class BaseTask(task_lib.PlainTask):
    """Takes the row's query and target word for word; `answers` are needed if more than the target counts as right."""

    metrics = ('exact_match', 'f1', 'perplexity', 'answer_recall')
    reads = ('query', 'target', 'answers', 'gold_docids', 'passages')
    query_max_tokens, target_max_tokens = 192, 64
    asks, label, remedy = 'query', 'target', _REMEDY

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields query, target, answers, gold_docids, passages."""
        return fields.text_problem(row, 'query', _REMEDY) or fields.optional_problem(row, ('target',), ('answers', 'gold_docids'))

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task."""
        self.check(row, example_id)
        # Without a target the row is a plain question, whatever else it has.
        answers: list[str] = []
        if 'target' in row:
            answers = fields.answers(row.get('answers', ())) or [self.answer_text(row['target'])]
        return task_lib.TaskExample(query=row['query'], target=row.get('target', ''), answers=answers, example_id=example_id,
                                    gold_docids=list(row.get('gold_docids', ())), question=row['query'], passages=fields.passages(row))

    def answer_text(self, text: str) -> str:
        """Returns the text without sentinels."""
        return text_format.without_sentinels(text)
