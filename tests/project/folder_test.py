import json

import pytest

from atlas_jax import errors
from atlas_jax.project import folder
from atlas_jax.project.folder import Project, Settings


def test_a_project_comes_back_as_it_was_written(tmp_path):
    settings = Settings(('a', 'b'), 'q.csv', reader='r', retriever='s')
    project = Project(tmp_path / 'p', settings, {'models': 'k'}, {'index': 'l'}, {'searcher': 'bm25'})
    assert not folder.exists(project.path)
    project.write()
    assert folder.exists(project.path) and folder.open_project(project.path) == project
    assert project.searcher == 'bm25' and project.model == tmp_path / 'p' / 'run'
    assert Project(tmp_path, Settings(('a',))).model == tmp_path / 'model' and Project(tmp_path, Settings(('a',))).searcher == 'exact'


def test_steps_and_what_is_missing(tmp_path):
    asked, unasked = Project(tmp_path, Settings(('a',), 'q')), Project(tmp_path, Settings(('a',)))
    assert unasked.steps() == ('models', 'passages', 'index', 'searcher') and asked.steps() == folder.STEPS
    with pytest.raises(errors.ConfigError, match=f'{tmp_path}: half made ."models" is not done.; run `atlas-jax new {tmp_path}` to go on'):
        asked.require()
    asked.done = {'models': 'k', 'passages': 'k'}
    asked.require('models', 'passages')
    with pytest.raises(errors.ConfigError, match='"index" is not done'):
        asked.require('index', 'training')


def test_paths_are_those_of_where_the_folder_lies(tmp_path):
    macros = Project(tmp_path, Settings(('a',), 'q')).macros
    assert macros('index')['STORE_DIR'] == str(tmp_path / 'store') and macros('train')['MODEL_DIR'] == str(tmp_path / 'model')
    assert macros('evaluate')['MODEL_DIR'] == macros('train')['RUN_DIR'] and macros('evaluate')['READER_DIR'] is None
    assert macros('closed_book')['INDEX_DIR'] is None and macros('closed_book')['RESULTS_FILE'] != macros('evaluate')['RESULTS_FILE']


GOOD = {'version': 1, 'settings': {'documents': ['a'], 'questions': None, 'model': None, 'reader': None, 'retriever': None}, 'begun': {},
        'done': {}, 'figures': {}}


@pytest.mark.parametrize(('body', 'message'), [
    ('{', 'project.json: broken'),
    ('[]', 'project.json: broken'),
    (json.dumps({**GOOD, 'version': 7}), 'a project of version 7, this version of atlas_jax reads 1; make it again'),
    (json.dumps({**GOOD, 'done': {'index': 3}}), 'project.json: broken .field "done"'),
    (json.dumps({**GOOD, 'settings': {'documents': ['a']}}), 'project.json: broken'),
    (json.dumps({**GOOD, 'settings': {**GOOD['settings'], 'documents': [3]}}), 'broken .field "documents"'),
    (json.dumps({key: value for key, value in GOOD.items() if key != 'figures'}), 'project.json: broken'),
])
def test_faulty_records(tmp_path, body, message):
    (tmp_path / folder.FILE).write_text(body)
    with pytest.raises(errors.ConfigError, match=message) as caught:
        folder.open_project(tmp_path)
    assert '\n' not in str(caught.value)


def test_no_project(tmp_path):
    with pytest.raises(errors.ConfigError, match='x: no such folder; make one with `atlas-jax new'):
        folder.open_project(tmp_path / 'x')
    with pytest.raises(errors.ConfigError, match='no project .project.json is missing'):
        folder.open_project(tmp_path)
