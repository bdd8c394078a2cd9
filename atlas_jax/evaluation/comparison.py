"""The page of two results over the same questions: differences with their significance, and the answers that differ most."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.evaluation import figures, overview, parts
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

_MOST_CARDS = 5  # of either kind


def write(path: str | os.PathLike, names: tuple[str, str], before: Sequence[Row], after: Sequence[Row],
          compared: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the page.

    Args:
      path: where to.
      names: of the two results, such as their files.
      before, after: their rows.
      compared: what `figures.compared` returned of these.

    Raises DiskFullError.
    """
    page, runs = html.Report('Comparison'), {'before': before, 'after': after}
    page.table(['', 'results', 'questions'], [[run, name, len(rows)] for (run, rows), name in zip(runs.items(), names, strict=True)])
    page.section('Differences')
    page.paragraph('After minus before, question by question. p is the two-sided p-value of a randomization test; none is corrected '
                   'for the number of comparisons.')
    page.table(*overview.comparison_table(compared))
    found = {run: figures.complete(rows, ()) for run, rows in runs.items()}
    parts.retrieval_and_trust(page, found)
    main = next(name for name in figures.metrics_of(before) if name in figures.metrics_of(after))
    # The largest difference first.
    pairs = sorted(figures.matched(before, after), key=lambda pair: (-abs(pair[1][main] - pair[0][main]), parts.spread(pair[0])))
    for title, sign in (('Better after', 1), ('Worse after', -1)):
        page.section(f'{title}, by {main.replace("_", " ")}')
        for pair in [pair for pair in pairs if sign * (pair[1][main] - pair[0][main]) > 0][:_MOST_CARDS]:
            parts.card(page, dict(zip(runs, pair, strict=True)))
    page.write(path)
