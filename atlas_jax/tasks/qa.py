"""Question answering: the query is a question, the target an answer."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

# The original's formats; its checkpoints were trained with them.
QA_PROMPT_FORMAT = 'question: {question} answer: <extra_id_0>'
TARGET_FORMAT = '<extra_id_0> {target}'
_REMEDY = 'each row needs a question, and "answers", a list of strings, or "target", a string'


@dataclasses.dataclass(frozen=True)
class QATask(task_lib.PlainTask):
    """Formats questions and answers. The defaults are Atlas's (arXiv 2208.03299): the answer fills in a T5 sentinel.

    Without `target` a row's target is the first of its `answers`.

    Attributes:
      qa_prompt_format: the query; field {question}.
      target_format: the target; field {target}.
      draw_target: draws one of the answers anew in every epoch, as the original does.

    Raises FormatError: `qa_prompt_format` does not have {question} once, `target_format` does not have {target} once, or there is another
    field.
    """

    qa_prompt_format: str = QA_PROMPT_FORMAT
    target_format: str = TARGET_FORMAT
    draw_target: bool = False

    metrics = ('exact_match', 'f1', 'answer_recall')
    reads = ('question', 'answers', 'target', 'gold_docids', 'passages')
    asks, label, remedy = 'question', 'answers', _REMEDY

    def __post_init__(self) -> None:
        text_format.around('qa_prompt_format', self.qa_prompt_format, 'question')
        text_format.around('target_format', self.target_format, 'target')

    @property
    def draws(self) -> bool:
        """True if targets are drawn."""
        return self.draw_target

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields question, answers or target, gold_docids, passages."""
        if wrong := fields.text_problem(row, 'question', _REMEDY):
            return wrong
        # A row may have neither: questions are answered without labels too.
        if 'answers' in row and (not fields.is_texts(row['answers']) or not row['answers']):
            return fields.FieldProblem('answers', f'expected a list of at least one string, found {row["answers"]!r}', _REMEDY)
        return fields.optional_problem(row, ('target',), ('gold_docids',))

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task; other fields of the row are ignored."""
        self.check(row, example_id)
        target = row['target'].strip() if 'target' in row else None
        given = row.get('answers', [] if target is None else [target])
        answers = fields.answers(given) or [''] * bool(given)  # blank answers alone: prepare.read_examples says where
        if target is None and answers:
            drawn = int(task_lib.generator_for(example_id, generator).integers(len(answers))) if self.draw_target else 0
            target = answers[drawn]
        return task_lib.TaskExample(
            query=text_format.fill('qa_prompt_format', self.qa_prompt_format, 'question', row['question']),
            target='' if target is None else text_format.fill('target_format', self.target_format, 'target', target),
            answers=answers, example_id=example_id, gold_docids=list(row.get('gold_docids', ())),
            question=row['question'], passages=fields.passages(row), row=row if self.draw_target else None)

    def answer_text(self, text: str) -> str:
        """Returns the plain answer: without the target format's own words, sentinels and outer blanks."""
        return text_format.strip('target_format', self.target_format, 'target', text)
