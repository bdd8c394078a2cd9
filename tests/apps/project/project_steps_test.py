import json
import types

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import api, prepare
from atlas_jax.apps.project import project_steps
from atlas_jax.apps.project.project_folder import Project, ProjectSettings
from atlas_jax.evaluation import searcher_comparison


def figures(name, first, mrr):
    return {'searcher': name, 'recall_at_1': first, 'recall_at_5': first, 'mrr': mrr}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(api.Atlas, 'load', lambda path: 'atlas')
    monkeypatch.setattr(api.Index, 'open', lambda path: 'index')
    monkeypatch.setattr(prepare, 'read_examples', lambda atlas, path, max_rows: [path])
    return Project(tmp_path, ProjectSettings(('d',), 'q'), figures={'train_questions': 64})


@pytest.mark.parametrize(('rows', 'chosen'), [
    ([('exact', .7, .8), ('bm25', .9, .91), ('hybrid, fitted', .8, .9)], 'bm25'),
    ([('exact', .7, .8), ('bm25', .7, .8), ('hybrid, fitted', .8, .85)], 'hybrid'),
    ([('exact', .8, .9), ('bm25', .7, .8), ('hybrid, fitted', .8, .9)], 'exact'),  # the simplest of equal ones
    ([('exact', .8, .9), ('bm25', .8, .92), ('hybrid, fitted', .8, .91)], 'bm25'),
])
def test_the_searcher_that_finds_most_passages_first(project, monkeypatch, rows, chosen):
    asked = []

    def compare(atlas, index, examples, names, top_k, fit):
        asked.append((atlas, index, examples, names, fit))
        measured = [types.SimpleNamespace(figures=lambda best, top_k, row=row: figures(*row)) for row in rows]
        return types.SimpleNamespace(measured=measured, best=None, top_k=top_k, relevant='a passage with an answer in its text')

    monkeypatch.setattr(searcher_comparison, 'compare', compare)
    made = project_steps.choose_searcher(project)
    assert made['searcher'] == chosen and set(made['searchers']) == {'exact', 'bm25', 'hybrid'}
    assert asked == [('atlas', 'index', [str(project.path / 'questions' / 'train.jsonl')], ('exact', 'bm25'), True)]
    for name in ('train', 'evaluate'):
        assert f'SEARCHER = {chosen!r}' in project.gin_file(name).read_text()
    assert 'TOTAL_STEPS = 32' in project.gin_file('train').read_text() and 'INDEX_DIR = None' in project.gin_file('closed_book').read_text()


def test_questions_of_other_documents_leave_the_default(project, monkeypatch):
    def compare(*arguments, **options):
        raise errors.ConfigError('has none of the passages')

    monkeypatch.setattr(searcher_comparison, 'compare', compare)
    made = project_steps.choose_searcher(project)
    assert made['searcher'] == 'hybrid' and made['why'] == 'has none of the passages'


def test_questions_are_split_into_two_files(tmp_path):
    rows = [{'question': f'Question {number}?', 'answers': ['a']} for number in range(20)]
    (tmp_path / 'q.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    project = Project(tmp_path / 'p', ProjectSettings(('d',), str(tmp_path / 'q.jsonl')))
    made = project_steps.split_questions(project)
    files = {name: (project.path / 'questions' / f'{name}.jsonl').read_text().splitlines() for name in ('train', 'test')}
    assert {f'{name}_questions': len(lines) for name, lines in files.items()} == made and made['test_questions'] > 0
    # Questions that were held out and are gone leave no old file behind.
    (tmp_path / 'q.jsonl').write_text(json.dumps(rows[0]))
    assert project_steps.split_questions(project) == {'train_questions': 1, 'test_questions': 0}
    assert not (project.path / 'questions' / 'test.jsonl').exists()


def test_a_model_is_written_with_the_formats_of_training(tmp_path, monkeypatch):
    saved, loaded = [], []

    class Fake:
        params = {'reader': {'encoder': np.zeros(7), 'decoder': np.zeros((2, 3))}, 'retriever': {'a': np.zeros(50)}}
        config = types.SimpleNamespace(retriever=types.SimpleNamespace(vocab_size=6, emb_dim=5))

        def save(self, path):
            saved.append(path)
            (path / 'model.json').write_text('{}')

    monkeypatch.setattr(api.ModelSource, 'load', lambda self, kind: loaded.append(self) or Fake())
    project = Project(tmp_path / 'p', ProjectSettings(('d',), reader='r', retriever='s'))
    assert project_steps.make_model(project) == {'parameters': {'encoder': 7, 'decoder': 6, 'retriever': 20}}
    assert (project.path / 'model' / 'model.json').is_file() and project.gin_file('index').is_file()
    assert sorted(path.name for path in project.path.iterdir()) == ['gin', 'model']
    assert (loaded[0].reader_dir, loaded[0].task.qa_prompt_format, loaded[0].inputs.text_max_tokens) == ('r', '{question}', 256)
    project_steps.make_model(Project(tmp_path / 'q', ProjectSettings(('d',), model='m')))
    assert loaded[1].model_dir == 'm' and loaded[1].task is None and loaded[1].inputs is None
