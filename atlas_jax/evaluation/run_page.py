"""The page of a run: how it learns, and its last evaluation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from atlas_jax.evaluation import figures, parts
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

FILE = 'report.html'


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The part of an evaluation that the page shows: a run need not keep all rows with their passages until the next one.

    Attributes:
      figures: of `figures.complete`.
      examples: the worst and the best answers.
      warning: the guard's line, if it has one.
    """

    figures: dict[str, Any]
    examples: tuple[list[Row], list[Row]]
    warning: str = ''

    @classmethod
    def of(cls, rows: Sequence[Row], warning: str = '') -> 'Evaluated':
        """Makes it of rows of results."""
        return cls(figures.complete(rows, ()), parts.extremes(rows), warning)


def page(name: str, history: Sequence[Row], last: Evaluated | None = None, peak_bytes: int | None = None) -> html.Report:
    """Returns the page.

    Args:
      name: of the run.
      history: its rows of metrics, a row a step.
      last: the last evaluation while training; None where there was none in this process.
      peak_bytes: peak of this process's resident memory.
    """
    made = html.Report(f'Run {name}')
    made.section('Learning')
    parts.curves(made, {'': history})
    measured = [row for row in history if any(column.startswith('eval_') for column in row)]
    made.section('Retrieval, first and last evaluation')
    parts.recall(made, {f'step {row["step"]}': {column.removeprefix('eval_'): value for column, value in row.items()}
                        for row in [*measured[:1], *measured[1:][-1:]]})
    if last is not None:
        made.section(f'Last evaluation, step {measured[-1]["step"]}')
        if last.warning:
            made.paragraph(f'{last.warning[0].upper()}{last.warning[1:]}.')
        parts.means(made, last.figures)
        parts.examples(made, last.examples, level=3)
    made.section('Seconds and memory')
    parts.steps(made, history)
    parts.resources(made, {}, peak_bytes)
    return made
