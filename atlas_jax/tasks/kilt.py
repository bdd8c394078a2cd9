"""KILT's tasks, in KILT's own file format (Petroni et al. 2021, arXiv 2009.02252)."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fever, fields, qa, text_format
from atlas_jax.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class KiltTask(task_lib.PlainTask):
    """Asks `input` like a question; all answers in `output` are right, the first is the target.

    In a file with "fever" in its name, SUPPORTS and REFUTES become true and false. The provenance's
    wikipedia_ids are the gold docids.

    Attributes:
      qa_prompt_format: Format of the query; its field {question} is the row's input.
      draw_target: Draws one of the answers as target in every epoch, as the original does.

    Raises FormatError: `qa_prompt_format` does not have {question} once, or has another field.
    """

    qa_prompt_format: str = text_format.format_option(qa.QA_PROMPT_FORMAT, 'question')
    draw_target: bool = False

    metrics = ('accuracy', 'exact_match', 'f1', 'rouge_L', 'answer_recall')
    reads = ('id', 'input', 'output', 'passages')
    # Wizard of Wikipedia asks dialogues; it and ELI5 answer in sentences.
    query_max_tokens, target_max_tokens = 256, 64
    asks, label = 'input', 'output'
    remedy = ('each row needs "input", a text, and "output", a list of objects of which some have '
              'an "answer"')

    @property
    def draws(self) -> bool:
        """True if targets are drawn."""
        return self.draw_target

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields input, output, filename, passages."""
        if wrong := fields.text_problem(row, 'input', self.remedy):
            return wrong
        # KILT's test files have no output: they are answered, not scored.
        output = row.get('output', [])
        if not isinstance(output, list) or not all(isinstance(part, dict) for part in output):
            return fields.FieldProblem('output', f'expected a list of objects, found {output!r}',
                                       self.remedy)
        texts = all(isinstance(part.get('answer', ''), str) for part in output)
        if not texts or 'output' in row and not _answers(row):
            return fields.FieldProblem('output', 'has no "answer" that is a text and not blank',
                                       self.remedy)
        return fields.optional_problem(row, ('filename',))

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task."""
        self.check(row, example_id)
        answers = _answers(row)
        # Unlabelled rows have an empty target, which has no loss.
        target = text_format.fill(
            qa.TARGET_FORMAT, 'target',
            qa.target_of(answers, example_id, generator, self.draw_target)) if answers else ''
        return task_lib.TaskExample(
            query=text_format.fill(self.qa_prompt_format, 'question', row['input']),
            target=target, answers=answers, example_id=example_id, gold_docids=_gold_docids(row),
            evidence=_evidence(row), question=row['input'], passages=fields.passages(row),
            row=row if self.draw_target else None)


def _answers(row: dict[str, Any]) -> list[str]:
    """Returns the distinct answers that are not blank, in their order."""
    answers = fields.answers([part.get('answer', '') for part in row.get('output', ())])
    # The rows of KILT's FEVER do not say that they are claims; the file's name does.
    if 'fever' in row.get('filename', '').lower():
        answers = [fever.WORDS.get(answer, answer) for answer in answers]
    return list(dict.fromkeys(answers))


def _gold_docids(row: dict[str, Any]) -> list[str]:
    # KILT's files have provenances of null.
    pages = [page for part in row.get('output', ()) for page in part.get('provenance') or ()
             if isinstance(page, dict)]
    return list(dict.fromkeys(
        str(page['wikipedia_id']) for page in pages if page.get('wikipedia_id') is not None))


def _evidence(row: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    # An output without provenance is no evidence set. A page without an id becomes '', which no
    # retrieved page matches: its set is never complete.
    return tuple(
        tuple(str(page.get('wikipedia_id', '')).strip() for page in part['provenance']
              if isinstance(page, dict))
        for part in row.get('output', ()) if isinstance(part.get('provenance'), list))
