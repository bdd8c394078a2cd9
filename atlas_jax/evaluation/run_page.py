"""The page of a run: how it learns, and its last evaluation."""

from collections.abc import Sequence

from atlas_jax.evaluation import figures, parts
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

FILE = 'report.html'


def page(name: str, history: Sequence[Row], evaluated: Sequence[Row] = (), peak_bytes: int | None = None) -> html.Report:
    """Returns the page.

    Args:
      name: of the run.
      history: its rows of metrics, a row a step.
      evaluated: rows of results of the last evaluation while training; none where there was none.
      peak_bytes: peak of this process's resident memory.
    """
    made = html.Report(f'Run {name}')
    last = figures.complete(evaluated, ()) if evaluated else {}
    made.section('Learning')
    parts.curves(made, {'': history})
    # Of the untrained model nothing is known here: the first evaluation is the earliest.
    measured = [row for row in history if any(column.startswith('eval_') for column in row)]
    made.section('Retrieval, first and last evaluation')
    parts.recall(made, {f'step {row["step"]}': {column.removeprefix('eval_'): value for column, value in row.items()}
                        for row in [*measured[:1], *measured[1:][-1:]]})
    made.section(f'Last evaluation, step {measured[-1]["step"]}' if measured else 'Last evaluation')
    parts.means(made, last)
    parts.examples(made, evaluated, level=3)
    made.section('Seconds and memory')
    parts.steps(made, history)
    parts.resources(made, {}, peak_bytes)
    return made
