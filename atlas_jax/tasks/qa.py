"""Question answering: the query is a question, the target an answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

# The original's formats; its checkpoints were trained with them.
QA_PROMPT_FORMAT = 'question: {question} answer: <extra_id_0>'
TARGET_FORMAT = '<extra_id_0> {target}'


@dataclasses.dataclass(frozen=True)
class QATask(task_lib.PlainTask):
    """Asks questions. By default the answer fills in a T5 sentinel, as in Atlas (arXiv 2208.03299).

    The target is the row's `target`, or else the first of its `answers`.

    Attributes:
      qa_prompt_format: Format of the query, with the field {question}.
      target_format: Format of the target, with the field {target}.
      draw_target: Draws one of the answers as target in every epoch, as the original does.

    Raises FormatError: a format does not have its field once, or has another one.
    """

    qa_prompt_format: str = text_format.format_option(QA_PROMPT_FORMAT, 'question')
    target_format: str = text_format.format_option(TARGET_FORMAT, 'target')
    draw_target: bool = False

    metrics = ('exact_match', 'f1', 'answer_recall')
    reads = ('question', 'answers', 'target', 'gold_docids', 'passages')
    asks, label = 'question', 'answers'
    remedy = 'each row needs a question, and "answers", a list of strings, or "target", a string'

    @property
    def draws(self) -> bool:
        """True if targets are drawn."""
        return self.draw_target

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields question, answers or target, gold_docids, passages."""
        if wrong := fields.text_problem(row, 'question', self.remedy):
            return wrong
        # A row may have neither: questions without labels are answered too.
        if 'answers' in row and (not fields.is_texts(row['answers']) or not row['answers']):
            return fields.FieldProblem('answers', 'expected a list of at least one string, found '
                                       f'{row["answers"]!r}', self.remedy)
        return fields.optional_problem(row, ('target',), ('gold_docids',))

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task; other fields of the row are ignored."""
        self.check(row, example_id)
        target = row['target'].strip() if 'target' in row else None
        given = row.get('answers', [] if target is None else [target])
        # A row whose answers are all blank keeps one: it is labelled.
        answers = fields.answers(given) or [''] * bool(given)
        if target is None and answers:
            target = target_of(answers, example_id, generator, self.draw_target)
        return task_lib.TaskExample(
            query=text_format.fill(self.qa_prompt_format, 'question', row['question']),
            target='' if target is None else text_format.fill(self.target_format, 'target',
                                                              target),
            answers=answers, example_id=example_id, gold_docids=list(row.get('gold_docids', ())),
            question=row['question'], passages=fields.passages(row),
            row=row if self.draw_target else None)

    def answer_text(self, text: str) -> str:
        """Returns the plain answer: without the target format's words, sentinels and blanks."""
        return text_format.strip(self.target_format, 'target', text)


def target_of(answers: Sequence[str], example_id: int, generator: np.random.Generator | None,
              draws: bool) -> str:
    """Returns the answer to train on: the first, or a random one if `draws`."""
    if not draws:
        return answers[0]
    return answers[int(task_lib.generator_for(example_id, generator).integers(len(answers)))]
