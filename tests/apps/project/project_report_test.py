import json

from atlas_jax.apps.project import project_report
from atlas_jax.apps.project.project_folder import Project, ProjectSettings


def row(number, right, closed=False):
    found = {'example_id': number, 'question': f'Question <{number}>?', 'answers': ['a'], 'prediction': 'a' if right else 'b',
             'exact_match': float(right), 'f1': float(right)}
    passages = [{'docid': 'd', 'title': 'T', 'text': 'Text & more.', 'score': .5, 'attention': 1.0, 'index': 'i'}]
    return found if closed else {**found, 'answer_rank': 0 if right else None, 'passages': passages}


def test_figures_wrong_answers_and_searchers(tmp_path):
    measured = {name: {'recall_at_1': first, 'recall_at_5': .9, 'mrr': .8} for name, first in (('exact', .25), ('bm25', .75))}
    project = Project(tmp_path, ProjectSettings(('docs', ), 'q'),
                      figures={'searcher': 'bm25', 'searchers': measured, 'seconds': {'index': 3.5}})
    (tmp_path / 'results').mkdir()
    for name, rows in (('test', [row(0, True), row(1, False)]), ('closed_book', [row(0, False, True), row(1, False, True)])):
        (tmp_path / 'results' / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    page = project_report.write(project).read_text()
    assert 'For 1 of 2 questions, a passage that was read' in page and 'closed book' in page and '0.750' in page and '3.5' in page
    worst, best = page.split('Best answers')
    assert 'Question &lt;1&gt;?' in worst and 'Question &lt;0&gt;?' not in worst and 'Question &lt;0&gt;?' in best
    assert 'Text &amp; more.' in worst
    assert f'atlas-jax ask {tmp_path}' in page


def test_nothing_measured(tmp_path):
    assert 'No questions were given' in project_report.write(Project(tmp_path, ProjectSettings(('docs',)))).read_text()
    assert 'Fewer than five questions' in project_report.write(Project(tmp_path, ProjectSettings(('docs',), 'q'))).read_text()
