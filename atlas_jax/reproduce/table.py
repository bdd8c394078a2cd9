"""The table of a run: the paper's figures beside ours, printed, as JSON and as a page."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.evaluation import figures, overview
from atlas_jax.evaluation.results import Row
from atlas_jax.io import atomic
from atlas_jax.report import html
from atlas_jax.reproduce import inputs
from atlas_jax.reproduce.plan import Plan
from atlas_jax.reproduce.recipes import SIZES, UNSAID, Figure

REPORT, PAGE = 'report.json', 'report.html'
HEADER = ('figure', 'paper', 'ours', '95 % interval', 'questions')
_NO_SHARE = ('perplexity', 'eval_loss')  # figures that are no share of anything; all others are given in per cent, as in the paper


@dataclasses.dataclass(frozen=True)
class Line:
    """A figure of the paper, and ours.

    Attributes:
      figure: the metric and what it is measured on.
      paper: by size; '' where the paper's size is not known.
      ours: None where the questions have no such metric.
      interval: bootstrap interval of 95 %; () for a single question.
      questions: number of questions.
      remark: on the comparison.
    """

    figure: str
    paper: Mapping[str, float]
    ours: float | None
    interval: tuple[float, ...]
    questions: int
    remark: str = ''

    def cells(self, size: str | None) -> list[str]:
        """The line as people read it; `size` picks the paper's figure."""
        shown = [f'{value}' if name == UNSAID else f'{name} {value}' for name, value in self.paper.items() if size in (None, name)
                 or name == UNSAID]
        ours = '-' if self.ours is None else f'{self.ours:.1f}'
        bounds = f'{self.interval[0]:.1f} to {self.interval[1]:.1f}' if self.interval else ''
        return [self.figure, ', '.join(shown) or '-', ours, bounds, f'{self.questions:,}']


def lines_of(plan: Plan, files: Mapping[str, Sequence[Row]]) -> list[Line]:
    """Returns the figures that the recipe names, then the other metrics of the same questions."""
    wanted = list(plan.recipe.figures)
    first = wanted[0]
    for name in figures.metrics_of(_rows(first, files)):
        # Of the first figure's questions: several models and indexes would each have all metrics.
        if name not in [figure.metric for figure in wanted]:
            wanted.append(dataclasses.replace(first, metric=name, paper={}, remark=''))
    return [_line(figure, _rows(figure, files)) for figure in wanted]


def _rows(figure: Figure, files: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Returns the rows that a figure is a mean of; those of several files are one evaluation, such as of all subjects."""
    chosen = files if not figure.results else {name: rows for name, rows in files.items() if name == f'{figure.results}.jsonl'}
    rows = overview.pooled(chosen) if len(chosen) > 1 else [row for rows in chosen.values() for row in rows]
    return [row for row in rows if (not figure.index or row.get('index_name') == figure.index)
            and (figure.label is None or str(row.get('labels', {}).get(figure.label[0])) == figure.label[1])]


def _line(figure: Figure, rows: Sequence[Row]) -> Line:
    found: dict[str, Any] = figures.of_rows(rows) if rows else {}
    factor = 1 if figure.metric in _NO_SHARE else 100
    value = found.get(figure.metric)
    bounds = found.get(f'{figure.metric}_interval', ())
    name = f'{figure.metric}, {figure.what}' if figure.what else figure.metric
    return Line(name, dict(figure.paper), None if value is None else factor * value, tuple(factor * bound for bound in bounds), len(rows),
                figure.remark)


def write(plan: Plan) -> tuple[list[Line], pathlib.Path]:
    """Reads the results, and writes report.json, report.html and the page of all figures (docs/evaluation.md). Returns lines and page.

    Raises InputFileError: a results file is damaged. DiskFullError.
    """
    # Read again from the disk: results of earlier calls count as those of this one.
    files = overview.read_folder(plan.results)
    lines, settings, recipe = lines_of(plan, files), plan.settings, plan.recipe
    everything = overview.of_files(files)
    overview.write(plan.results, files, everything)
    atomic.write_json(settings.out / REPORT, {
        'run': settings.run, 'size': settings.size, 'split': plan.split, 'remark': recipe.remark,
        'figures': [dataclasses.asdict(line) for line in lines], 'results': {name: len(rows) for name, rows in files.items()}})
    page = html.Report(f'Reproduction of {settings.run}')
    page.paragraph(f'The paper\'s figures (Izacard et al. 2022) and ours, in per cent, on {plan.split}.')
    page.table(HEADER, [line.cells(settings.size) for line in lines])
    for remark in remarks(plan, lines):
        page.paragraph(remark)
    for name, found in everything['results'].items():
        # MMLU's subjects and groups, TempLAMA's years: the rows of larger tables.
        for index, each in found.get('indexes', {'': found}).items():
            for label in each.get('by', {}):
                page.section(f'{name} {index} by {label}'.replace('  ', ' '))
                page.table(*overview.label_table(each['by'], label))
    page.write(settings.out / PAGE)
    return lines, settings.out / PAGE


def remarks(plan: Plan, lines: Sequence[Line]) -> list[str]:
    """Returns what must be known to compare the figures, a sentence each."""
    # Each once: several lines may have the same.
    found = dict.fromkeys([line.remark for line in lines] + [plan.recipe.remark])
    if not any(inputs.is_list(published) for published in plan.found):
        found[plan.recipe.without_lists] = None
    sizes = [size for size in SIZES if any(size in line.paper for line in lines)]
    if plan.settings.size and sizes and plan.settings.size not in sizes:
        found[f'the paper has no figure for {plan.settings.size}, only for {", ".join(sizes)}'] = None
    if plan.settings.split == 'dev':
        found['the paper\'s figures are of the test questions, ours of the dev questions'] = None
    if plan.settings.questions is not None:
        found[f'the first {plan.settings.questions:,} questions of each file alone'] = None
    return [remark[0].upper() + remark[1:] + '.' for remark in found if remark]


def as_text(plan: Plan, lines: Sequence[Line]) -> str:
    """Returns the table as text."""
    cells = [list(HEADER), *(line.cells(plan.settings.size) for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    table = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return '\n'.join([*table, *remarks(plan, lines)])
