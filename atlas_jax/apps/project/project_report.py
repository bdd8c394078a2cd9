"""The page of a project: its documents, its scores on held-out questions, its searcher, and the
seconds of each step.
"""

import pathlib
from typing import Any

from atlas_jax.apps.project.project_folder import Project
from atlas_jax.evaluation import figures as figures_lib
from atlas_jax.evaluation import parts, results
from atlas_jax.report import html

FILE = 'report.html'
_MOST_CARDS = 5
_FILES = {'with passages': 'test.jsonl', 'closed book': 'closed_book.jsonl'}


def write(project: Project) -> pathlib.Path:
    """Writes PROJECT/report.html and returns its path.

    Raises DiskFullError; InputFileError: a results file is broken.
    """
    path = project.path / FILE
    found = {name: results.read(file) for name, each in _FILES.items()
             if (file := project.path / 'results' / each).is_file()}
    if found:
        measured = _measured(found)
    elif project.trains:
        measured = html.paragraph('Fewer than five questions: none was held out, so nothing was '
                                  'measured.')
    else:
        measured = html.paragraph('No questions were given: the models answer as they come, and '
                                  'nothing was measured.')
    html.write_page(
        path, f'Project {project.path.name}',
        html.paragraph(f'Documents: {", ".join(project.settings.documents)}. Ask with: atlas-jax '
                       f'ask {project.path}'),
        measured, _searchers(project.figures),
        html.section('Seconds', parts.resources(project.figures.get('seconds', {}))))
    return path


def _measured(found: dict[str, list[results.Row]]) -> html.Part:
    # Other tasks than questions and answers have other metrics.
    names = [name for name in ('exact_match', 'f1')
             if all(name in row for rows in found.values() for row in rows)]
    rows = found.get('with passages', [])
    hits = sum(row.get('answer_rank') is not None for row in rows)
    return html.group(
        html.section(
            'Held-out questions',
            html.paragraph('Nothing was trained on these. "Closed book" is the same reader without '
                           'passages.'),
            html.table(['', 'questions', *names], [
                [which, len(part),
                 *(figures_lib.mean_text([row[name] for row in part]) for name in names)]
                for which, part in found.items()]),
            html.paragraph(f'For {hits} of {len(rows)} questions, a passage that was read holds an '
                           'answer.') if rows else html.Part('')),
        parts.retrieval_and_trust(
            {which: figures_lib.complete(part, ()) for which, part in found.items()}),
        parts.examples(parts.extremes(rows, _MOST_CARDS)))


def _searchers(figures: dict[str, Any]) -> html.Part:
    why = figures.get('why') or 'the best of those measured on the training questions'
    keys, measured = ('recall_at_1', 'recall_at_5', 'mrr'), figures.get('searchers')
    return html.section(
        'Searcher', html.paragraph(f'{figures.get("searcher")}: {why}.'),
        html.table(['searcher', 'found first', 'among five', 'MRR'],
                   [[name, *(float(row[key]) for key in keys)] for name, row in measured.items()])
        if measured else html.Part(''))
