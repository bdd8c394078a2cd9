"""KILT: its tasks in their own file format (Petroni et al. 2021, arXiv 2009.02252)."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fever, fields, qa, text_format
from atlas_jax.tasks import task as task_lib

_REMEDY = 'each row needs "input", a text, and "output", a list of objects of which some have an "answer"'


@dataclasses.dataclass(frozen=True)
class KiltTask(task_lib.PlainTask):
    """Asks `input` like a question; every answer in `output` counts as right, and the first is the target.

    In a file with "fever" in its name SUPPORTS and REFUTES become true and false. The provenance's wikipedia_ids are the gold docids.

    Attributes:
      qa_prompt_format: the query; field {question} is the row's input.
      draw_target: draws one of the answers anew in every epoch, as the original does.

    Raises FormatError: `qa_prompt_format` does not have {question} once, or has another field.
    """

    qa_prompt_format: str = qa.QA_PROMPT_FORMAT
    draw_target: bool = False

    metrics = ('accuracy', 'exact_match', 'f1', 'rouge_L', 'answer_recall')
    reads = ('id', 'input', 'output', 'passages')
    query_max_tokens, target_max_tokens = 256, 64  # dialogues of Wizard of Wikipedia; answers of its and ELI5's are sentences
    asks, label, remedy = 'input', 'output', _REMEDY

    def __post_init__(self):
        text_format.around('qa_prompt_format', self.qa_prompt_format, 'question')

    @property
    def draws(self) -> bool:
        """True if targets are drawn."""
        return self.draw_target

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields input, output, filename, passages."""
        if wrong := fields.text_problem(row, 'input', _REMEDY):
            return wrong
        # KILT's test files have no output: they are answered, not scored.
        output = row.get('output', [])
        if not isinstance(output, list) or not all(isinstance(part, dict) for part in output):
            return fields.FieldProblem('output', f'expected a list of objects, found {output!r}', _REMEDY)
        if not all(isinstance(part.get('answer', ''), str) for part in output) or ('output' in row and not _answers(row)):
            return fields.FieldProblem('output', 'has no "answer" that is a text and not blank', _REMEDY)
        return fields.optional_problem(row, ('filename',))

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task."""
        self.check(row, example_id)
        answers = _answers(row)
        # Unlabelled rows have an empty target, which no loss is taken on.
        target = ''
        if answers:
            drawn = int(task_lib.generator_for(example_id, generator).integers(len(answers))) if self.draw_target else 0
            target = text_format.fill('target_format', qa.TARGET_FORMAT, 'target', answers[drawn])
        return task_lib.TaskExample(
            query=text_format.fill('qa_prompt_format', self.qa_prompt_format, 'question', row['input']),
            target=target, answers=answers, example_id=example_id, gold_docids=_gold_docids(row), evidence=_evidence(row),
            question=row['input'],
            # The row is kept only where a target is drawn again at every epoch: it holds all answers.
            passages=fields.passages(row), row=row if self.draw_target else None)

    def answer_text(self, text: str) -> str:
        """Returns the text without sentinels."""
        return text_format.without_sentinels(text)


def _answers(row: dict[str, Any]) -> list[str]:
    """Returns the different answers that are not blank, in their order."""
    answers = fields.answers([part.get('answer', '') for part in row.get('output', ())])
    # The rows of KILT's FEVER do not say that they are claims; the file's name does.
    if 'fever' in row.get('filename', '').lower():
        answers = [fever.WORDS.get(answer, answer) for answer in answers]
    return list(dict.fromkeys(answers))  # each once, in their order


def _gold_docids(row: dict[str, Any]) -> list[str]:
    # provenance can be null in KILT's files.
    pages = [page for part in row.get('output', ()) for page in part.get('provenance') or () if isinstance(page, dict)]
    return list(dict.fromkeys(str(page['wikipedia_id']) for page in pages if page.get('wikipedia_id') is not None))


def _evidence(row: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    # An output without provenance is no evidence set; evidence without a page is part of one that is never complete.
    return tuple(tuple(str(page.get('wikipedia_id', '')).strip() for page in part['provenance'] if isinstance(page, dict))
                 for part in row.get('output', ()) if isinstance(part.get('provenance'), list))
