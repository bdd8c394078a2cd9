"""FEVER: is a claim true, false, or left open by the evidence?

Source: Thorne et al. 2018, arXiv 1803.05355.
"""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, qa, text_format
from atlas_jax.tasks import task as task_lib

WORDS = {'SUPPORTS': 'true', 'REFUTES': 'false', 'NOT ENOUGH INFO': 'maybe'}


@dataclasses.dataclass(frozen=True)
class FeverTask(task_lib.PlainTask):
    """Asks a claim like a question; its label becomes true, false or maybe.

    Any other label has an empty target, as in the original.

    Attributes:
      qa_prompt_format: Format of the query; its field {question} is the claim.
    """

    qa_prompt_format: str = text_format.format_option(qa.QA_PROMPT_FORMAT, 'question')

    metrics = ('accuracy',)
    reads = ('claim', 'label', 'gold_docids', 'passages')
    query_max_tokens = 128
    asks, label = 'claim', 'label'
    remedy = f'each row needs a "claim" and a "label": {", ".join(WORDS)}'

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields claim, label, gold_docids, passages."""
        return fields.text_problem(row, 'claim', self.remedy) or fields.optional_problem(
            row, ('label',), ('gold_docids',))

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task."""
        self.check(row, example_id)
        # As in the original, rows with another label stay, with an empty answer.
        word = WORDS.get(row.get('label', '').strip(), '')
        return task_lib.TaskExample(
            query=text_format.fill(self.qa_prompt_format, 'question', row['claim']),
            target=text_format.fill(qa.TARGET_FORMAT, 'target', word),
            answers=[word] if 'label' in row else [], example_id=example_id,
            gold_docids=list(row.get('gold_docids', ())), question=row['claim'],
            passages=fields.passages(row))
