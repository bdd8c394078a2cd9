import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.project import project_folder
from atlas_jax.apps.project.project_folder import Project, ProjectSettings


def test_a_project_comes_back_as_it_was_written(tmp_path):
    settings = ProjectSettings(('a', 'b'), 'q.csv', reader='r', retriever='s')
    project = Project(tmp_path / 'p', settings, {'models': 'k'}, {'index': 'l'}, {'searcher': 'bm25'})
    assert not project_folder.exists(project.path)
    project.write()
    assert project_folder.exists(project.path) and project_folder.open_project(project.path) == project
    assert project.searcher == 'bm25' and project.model == tmp_path / 'p' / 'run'
    assert Project(tmp_path, ProjectSettings(('a', ))).model == tmp_path / 'model' and Project(tmp_path, ProjectSettings(
        ('a', ))).searcher == 'exact'


def test_steps_and_what_is_missing(tmp_path):
    asked, unasked = Project(tmp_path, ProjectSettings(('a',), 'q')), Project(tmp_path, ProjectSettings(('a',)))
    assert unasked.steps() == ('models', 'passages', 'index', 'searcher') and asked.steps() == project_folder.STEPS
    with pytest.raises(errors.ConfigError, match=f'{tmp_path}: half made ."models" is not done.; run `atlas-jax new {tmp_path}` to go on'):
        asked.require()
    asked.done = {'models': 'k', 'passages': 'k'}
    asked.require('models', 'passages')
    with pytest.raises(errors.ConfigError, match='"index" is not done'):
        asked.require('index', 'training')


def test_paths_are_those_of_where_the_folder_lies(tmp_path):
    macros = Project(tmp_path, ProjectSettings(('a',), 'q')).macros
    assert macros('index')['STORE_DIR'] == str(tmp_path / 'store') and macros('train')['MODEL_DIR'] == str(tmp_path / 'model')
    assert macros('evaluate')['MODEL_DIR'] == macros('train')['RUN_DIR'] and macros('evaluate')['READER_DIR'] is None
    assert macros('closed_book')['INDEX_DIR'] is None and macros('closed_book')['RESULTS_FILE'] != macros('evaluate')['RESULTS_FILE']


GOOD = {'version': 1, 'settings': {'documents': ['a'], 'questions': None, 'model': None, 'reader': None, 'retriever': None}, 'begun': {},
        'done': {}, 'figures': {}}


@pytest.mark.parametrize(('body', 'message'), [
    ('{', 'project.json: damaged'),
    ('[]', 'project.json: damaged'),
    (json.dumps({**GOOD, 'version': 7}), 'project format 7, this version of atlas_jax reads 1; install'),
    (json.dumps({**GOOD, 'done': {'index': 3}}), 'project.json: damaged ..done'),
    (json.dumps({**GOOD, 'settings': {'documents': ['a']}}), 'project.json: damaged'),
    (json.dumps({**GOOD, 'settings': {**GOOD['settings'], 'documents': [3]}}), 'damaged ..settings.documents'),
    (json.dumps({key: value for key, value in GOOD.items() if key != 'figures'}), 'project.json: damaged'),
])
def test_faulty_records(tmp_path, body, message):
    (tmp_path / project_folder.FILE).write_text(body)
    with pytest.raises(errors.ConfigError, match=message) as caught:
        project_folder.open_project(tmp_path)
    assert '\n' not in str(caught.value)


def test_no_project(tmp_path):
    with pytest.raises(errors.ConfigError, match='x: no such folder; make one with `atlas-jax new'):
        project_folder.open_project(tmp_path / 'x')
    with pytest.raises(errors.ConfigError, match='no project .project.json is missing'):
        project_folder.open_project(tmp_path)
