"""Any text-to-text task: a row holds query and target as the models see them."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields
from atlas_jax.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class BaseTask(task_lib.PlainTask):
    """Takes query and target as they stand in the row.

    A row needs `answers` only if other texts than the target are right too.
    """

    metrics = ('exact_match', 'f1', 'perplexity', 'answer_recall')
    reads = ('query', 'target', 'answers', 'gold_docids', 'passages')
    query_max_tokens, target_max_tokens = 192, 64
    asks, label, remedy = 'query', 'target', 'each row needs "query" and "target", strings'

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields query, target, answers, gold_docids, passages."""
        return fields.text_problem(row, 'query', self.remedy) or fields.optional_problem(
            row, ('target',), ('answers', 'gold_docids'))

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task."""
        self.check(row, example_id)
        # A row without a target is a plain question, even if it has answers.
        answers: list[str] = []
        if 'target' in row:
            answers = fields.answers(row.get('answers', ())) or [self.answer_text(row['target'])]
        return task_lib.TaskExample(query=row['query'], target=row.get('target', ''),
                                    answers=answers, example_id=example_id,
                                    gold_docids=list(row.get('gold_docids', ())),
                                    question=row['query'], passages=fields.passages(row))
