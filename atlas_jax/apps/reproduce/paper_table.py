"""The table of a run, with the paper's figures and ours: as text, as JSON and as an HTML page."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.apps.reproduce import published_files
from atlas_jax.apps.reproduce.recipes import SIZES, UNSAID, Figure
from atlas_jax.apps.reproduce.run_steps import Reproduction
from atlas_jax.evaluation import figures, overview
from atlas_jax.evaluation.results import Row
from atlas_jax.io import atomic
from atlas_jax.report import html, text_table

REPORT, PAGE = 'report.json', 'report.html'
HEADER = ('figure', 'paper', 'ours', '95 % interval', 'questions')
# Figures that are not shares. All others are given in per cent, as in the paper.
_NO_SHARE = ('perplexity', 'eval_loss')


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper, and ours.

    Attributes:
      figure: The metric, and the questions it is measured on.
      paper: The paper's figure by size; '' if the paper states no size.
      ours: Our figure; None if the questions have no such metric.
      interval: The bootstrap interval of 95 %; () for a single question.
      questions: The number of questions.
      remark: A remark on the comparison.
    """

    figure: str
    paper: Mapping[str, float]
    ours: float | None
    interval: tuple[float, ...]
    questions: int
    remark: str = ''

    def cells(self, size: str | None) -> list[str]:
        """Returns the cells of a table's row; `size` selects the paper's figure, None all sizes."""
        shown = [
            f'{value}' if name == UNSAID else f'{name} {value}'
            for name, value in self.paper.items()
            if size in (None, name) or name == UNSAID]
        ours = '-' if self.ours is None else f'{self.ours:.1f}'
        bounds = f'{self.interval[0]:.1f} to {self.interval[1]:.1f}' if self.interval else ''
        return [self.figure, ', '.join(shown) or '-', ours, bounds, f'{self.questions:,}']


def lines_of(plan: Reproduction, files: Mapping[str, Sequence[Row]]) -> list[PaperFigure]:
    """Returns the figures that the recipe names, then the other metrics of the same questions."""
    wanted = list(plan.recipe.figures)
    first = wanted[0]
    for name in figures.metrics_of(_rows(first, files)):
        # Only for the first figure's questions: each model and index would have all metrics.
        if name not in [figure.metric for figure in wanted]:
            wanted.append(dataclasses.replace(first, metric=name, paper={}, remark=''))
    return [_line(figure, _rows(figure, files)) for figure in wanted]


def _rows(figure: Figure, files: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Returns the rows that a figure averages. Several files, such as those of MMLU's subjects, are
    pooled.
    """
    chosen = {name: rows for name, rows in files.items()
              if not figure.results or name == f'{figure.results}.jsonl'}
    rows = overview.pooled(chosen) if len(chosen) > 1 else [
        row for rows in chosen.values() for row in rows]
    if figure.index:
        rows = [row for row in rows if row.get('index_name') == figure.index]
    if figure.label is not None:
        name, value = figure.label
        rows = [row for row in rows if str(row.get('labels', {}).get(name)) == value]
    return list(rows)


def _line(figure: Figure, rows: Sequence[Row]) -> PaperFigure:
    found: dict[str, Any] = figures.of_rows(rows) if rows else {}
    factor = 1 if figure.metric in _NO_SHARE else 100
    value = found.get(figure.metric)
    bounds = found.get(f'{figure.metric}_interval', ())
    name = f'{figure.metric}, {figure.what}' if figure.what else figure.metric
    return PaperFigure(name, dict(figure.paper), None if value is None else factor * value,
                       tuple(factor * bound for bound in bounds), len(rows), figure.remark)


def write(plan: Reproduction) -> tuple[list[PaperFigure], pathlib.Path]:
    """Reads the results, and writes report.json, report.html and the page of all figures
    (docs/evaluation.md). Returns the lines of the table and the path of the page.

    Raises InputFileError: a results file is damaged. DiskFullError.
    """
    # Read from the disk, which also has the results of earlier calls.
    files = overview.read_folder(plan.results)
    lines, settings, recipe = lines_of(plan, files), plan.settings, plan.recipe
    everything = overview.figures_of_files(files)
    overview.write(plan.results, files, everything)
    atomic.write_json(
        settings.out / REPORT, {
            'run': settings.run, 'size': settings.size, 'split': plan.split,
            'remark': recipe.remark, 'figures': [dataclasses.asdict(line) for line in lines],
            'results': {name: len(rows) for name, rows in files.items()}})
    # Tables by MMLU's subjects and groups, and by TempLAMA's years.
    tables = [
        html.section(f'{name} {index} by {label}'.replace('  ', ' '),
                     html.table(*overview.label_table(of_index['by'], label)))
        for name, of_file in everything['results'].items()
        for index, of_index in of_file.get('indexes', {'': of_file}).items()
        for label in of_index.get('by', {})]
    html.write_page(
        settings.out / PAGE, f'Reproduction of {settings.run}',
        html.paragraph('The paper\'s figures (Izacard et al. 2022) and ours, in per cent, on '
                       f'{plan.split}.'),
        html.table(HEADER, [line.cells(settings.size) for line in lines]),
        *map(html.paragraph, remarks(plan, lines)), *tables)
    return lines, settings.out / PAGE


def remarks(plan: Reproduction, lines: Sequence[PaperFigure]) -> list[str]:
    """Returns the remarks that a reader of the table needs, one sentence each."""
    # A dict drops repeated remarks: several lines may have the same one.
    found = dict.fromkeys([line.remark for line in lines] + [plan.recipe.remark])
    if not any(published_files.is_list(published) for published in plan.found):
        found[plan.recipe.without_lists] = None
    sizes = [size for size in SIZES if any(size in line.paper for line in lines)]
    if plan.settings.size and sizes and plan.settings.size not in sizes:
        known = ', '.join(sizes)
        found[f'the paper has no figure for {plan.settings.size}, only for {known}'] = None
    if plan.settings.split == 'dev':
        found['the paper\'s figures use the test questions, ours the dev questions'] = None
    if plan.settings.questions is not None:
        found[f'only the first {plan.settings.questions:,} questions of each file'] = None
    return [remark[0].upper() + remark[1:] + '.' for remark in found if remark]


def as_text(plan: Reproduction, lines: Sequence[PaperFigure]) -> str:
    """Returns the table as text."""
    cells = [list(HEADER), *(line.cells(plan.settings.size) for line in lines)]
    return '\n'.join([*text_table.aligned(cells), *remarks(plan, lines)])
