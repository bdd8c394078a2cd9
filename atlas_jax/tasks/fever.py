"""FEVER: is a claim true, false, or not decided by the evidence (Thorne et al. 2018, arXiv 1803.05355)."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, qa, text_format
from atlas_jax.tasks import task as task_lib

WORDS = {'SUPPORTS': 'true', 'REFUTES': 'false', 'NOT ENOUGH INFO': 'maybe'}
_REMEDY = f'each row needs a "claim" and a "label": {", ".join(WORDS)}'


@dataclasses.dataclass(frozen=True)
class FeverTask(task_lib.PlainTask):
    """Asks a claim like a question; its label becomes true, false or maybe. Any other label has an empty target, as in the original.

    Attributes:
      qa_prompt_format: the query; field {question} is the claim.
    """

    qa_prompt_format: str = qa.QA_PROMPT_FORMAT

    metrics = ('accuracy',)
    reads = ('claim', 'label', 'gold_docids', 'passages')
    query_max_tokens = 128
    asks, label, remedy = 'claim', 'label', _REMEDY

    def __post_init__(self):
        text_format.around('qa_prompt_format', self.qa_prompt_format, 'question')

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields claim, label, gold_docids, passages."""
        return fields.text_problem(row, 'claim', _REMEDY) or fields.optional_problem(row, ('label',), ('gold_docids',))

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task."""
        self.check(row, example_id)
        # Rows with another label stay, as in the original, with an empty answer.
        word = WORDS.get(row.get('label', '').strip(), '')
        return task_lib.TaskExample(
            query=text_format.fill('qa_prompt_format', self.qa_prompt_format, 'question', row['claim']),
            target=text_format.fill('target_format', qa.TARGET_FORMAT, 'target', word), answers=[word] if 'label' in row else [],
            example_id=example_id, gold_docids=list(row.get('gold_docids', ())), question=row['claim'], passages=fields.passages(row))

    def answer_text(self, text: str) -> str:
        """Returns the word alone."""
        return text_format.without_sentinels(text)
