"""The page that compares two results over the same questions.

It shows the differences with their significance, and the answers that differ most.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.evaluation import figures, overview, parts
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

_MOST_CARDS = 5  # improved answers, and as many that got worse


def write(path: str | os.PathLike, names: tuple[str, str], before: Sequence[Row],
          after: Sequence[Row], compared: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the page.

    Args:
      path: The file to write.
      names: Names of the two results, such as their files.
      before, after: Their rows.
      compared: The result of `figures.compared` for these rows.

    Raises DiskFullError.
    """
    runs = {'before': before, 'after': after}
    main = next(name for name in figures.metrics_of(before) if name in figures.metrics_of(after))
    # The largest difference first.
    pairs = sorted(figures.matched(before, after), key=lambda pair:
                   (-abs(pair[1][main] - pair[0][main]), parts.pseudo_random(pair[0])))

    def cards(title: str, sign: int) -> html.Part:
        chosen = [pair for pair in pairs if sign * (pair[1][main] - pair[0][main]) > 0]
        return html.section(
            f'{title}, by {main.replace("_", " ")}',
            *(parts.card(dict(zip(runs, pair, strict=True))) for pair in chosen[:_MOST_CARDS]))

    html.write_page(
        path, 'Comparison',
        html.table(['', 'results', 'questions'],
                   [[run, name, len(rows)]
                    for (run, rows), name in zip(runs.items(), names, strict=True)]),
        overview.comparison_section(html.table(*overview.comparison_table(compared))),
        parts.retrieval_and_trust({run: figures.complete(rows, ()) for run, rows in runs.items()}),
        cards('Better after', 1), cards('Worse after', -1))
