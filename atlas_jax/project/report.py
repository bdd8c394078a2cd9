"""The page of a project: what was made, how well it answers the questions that were held out, and how to go on."""

import pathlib
from typing import Any

from atlas_jax.evaluation import figures as figures_lib
from atlas_jax.evaluation import parts, results
from atlas_jax.project.folder import Project
from atlas_jax.report import html

FILE = 'report.html'
_MOST_CARDS = 5
_FILES = {'with passages': 'test.jsonl', 'closed book': 'closed_book.jsonl'}


def write(project: Project) -> pathlib.Path:
    """Writes PROJECT/report.html and returns its path. Raises DiskFullError; InputFileError: a results file is broken."""
    page, path = html.Report(f'Project {project.path.name}'), project.path / FILE
    page.paragraph(f'Documents: {", ".join(project.settings.documents)}. Ask with: atlas-jax ask {project.path}')
    found = {name: results.read(file) for name, each in _FILES.items() if (file := project.path / 'results' / each).is_file()}
    if found:
        _figures(page, found)
    elif project.trains:
        page.paragraph('Fewer than five questions: none was held out, so nothing was measured.')
    else:
        page.paragraph('No questions were given: the models answer as they come, and nothing was measured.')
    _searchers(page, project)
    page.section('Seconds')
    parts.resources(page, project.figures.get('seconds', {}))
    page.write(path)
    return path


def _figures(page: html.Report, found: dict[str, list[results.Row]]) -> None:
    page.section('Held-out questions')
    page.paragraph('Nothing was trained on these. "Closed book" is the same reader without passages.')
    # Other tasks than questions and answers have other metrics.
    names = [name for name in ('exact_match', 'f1') if all(name in row for rows in found.values() for row in rows)]
    page.table(['', 'questions', *names], [[which, len(rows), *(figures_lib.shown([row[name] for row in rows]) for name in names)]
                                           for which, rows in found.items()])
    rows = found.get('with passages', [])
    ranks = [row.get('answer_rank') for row in rows]
    if rows:
        stood = sum(rank is not None for rank in ranks)
        page.paragraph(f'An answer stood in a passage that was read for {stood} of {len(rows)} questions.')
    figures = {which: figures_lib.complete(rows, ()) for which, rows in found.items()}
    parts.retrieval_and_trust(page, figures)
    parts.examples(page, parts.extremes(rows, _MOST_CARDS))


def _searchers(page: html.Report, project: Project) -> None:
    figures: dict[str, Any] = project.figures
    page.section('Searcher')
    page.paragraph(f'{figures.get("searcher")}: {figures.get("why") or "the best of those measured on the training questions"}.')
    if figures.get('searchers'):
        keys = ('recall_at_1', 'recall_at_5', 'mrr')
        page.table(['searcher', 'found first', 'among five', 'MRR'],
                   [[name, *(float(row[key]) for key in keys)] for name, row in figures['searchers'].items()])
