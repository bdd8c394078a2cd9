"""The page of a run: its learning curves and its last evaluation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from atlas_jax.evaluation import figures, parts
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

FILE = 'report.html'


@dataclasses.dataclass(frozen=True)
class EvaluationPoint:
    """An evaluation as the page shows it, so that a run need not keep all rows and passages.

    Attributes:
      figures: Figures of `figures.complete`.
      examples: The worst and the best answers.
      warning: The guard's warning, or ''.
    """

    figures: dict[str, Any]
    examples: tuple[list[Row], list[Row]]
    warning: str = ''

    @classmethod
    def from_rows(cls, rows: Sequence[Row], warning: str = '') -> 'EvaluationPoint':
        """Makes the point from rows of results."""
        return cls(figures.complete(rows, ()), parts.extremes(rows), warning)


def page(name: str, history: Sequence[Row], last: EvaluationPoint | None = None,
         peak_bytes: int | None = None) -> str:
    """Returns the page.

    Args:
      name: Name of the run.
      history: Its metrics, a row a step.
      last: The last evaluation during training; None if this process made none.
      peak_bytes: Peak resident memory of this process.
    """
    measured = [row for row in history if any(column.startswith('eval_') for column in row)]
    recalls = {
        f'step {row["step"]}': {column.removeprefix('eval_'): value
                                for column, value in row.items()}
        for row in [*measured[:1], *measured[1:][-1:]]}
    return html.page(
        f'Run {name}',
        html.section('Learning', parts.curves({'': history})),
        html.section('Retrieval, first and last evaluation', parts.recall(recalls)),
        html.Part('') if last is None else html.section(
            f'Last evaluation, step {measured[-1]["step"]}',
            *([html.paragraph(f'{last.warning[0].upper()}{last.warning[1:]}.')]
              if last.warning else []),
            parts.means(last.figures), parts.examples(last.examples, level=3)),
        html.section('Seconds and memory', parts.steps(history), parts.resources({}, peak_bytes)))
