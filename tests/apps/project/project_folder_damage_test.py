"""Damage in a project's own files: one line that names the file and what to do, and no silence."""

import json
import shutil

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.project import making, project_folder, project_steps
from atlas_jax.apps.project.project_folder import Project, ProjectSettings
from tests.testing import damage


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A project whose questions were split."""
    folder = tmp_path_factory.mktemp('projects')
    rows = [{'question': f'What is {number}?', 'answers': [f'{number}']} for number in range(30)]
    (folder / 'q.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    project = Project(folder / 'p', ProjectSettings(('d.txt',), str(folder / 'q.jsonl')))
    project.figures |= project_steps.split_questions(project)
    project.done['questions'] = 'key'
    project.write()
    return project


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole.path, tmp_path / 'p')


@pytest.mark.parametrize('seed', range(3))
def test_every_damage_is_one_line(whole, copied, seed, capsys):
    expected = project_folder.open_project(whole.path)
    for what, path in damage.every_damage(copied, seed):
        try:
            opened = project_folder.open_project(copied)
        except errors.ConfigError as error:
            assert '\n' not in str(error) and path.name in str(error) and 'atlas-jax new' in str(error), (what, error)
            if what != 'deleted' or path.name != project_folder.FILE:
                assert cli.main(['verify', str(copied)]) == 2 and f'{path}: ' in capsys.readouterr().out, (what, path)
        else:  # white space of the record
            assert path.name == project_folder.FILE and (opened.done, opened.files) == (expected.done, expected.files)
    assert cli.main(['verify', str(copied)]) == 0
    assert capsys.readouterr().out == f'{copied}: project, every file is as it was written\n'


def test_new_writes_damaged_questions_again(whole, copied):
    path = copied / 'questions' / 'test.jsonl'
    before = path.read_bytes()
    path.write_bytes(before[:-9])
    project = project_folder.open_project(copied, check_questions=False)
    assert [problem.path for problem in project.damage()] == [str(path)]
    maker = making.Maker(project, lambda arguments: None)
    assert not maker._is_done('questions', 'key')
    project_steps.split_questions(project)
    assert path.read_bytes() == before and maker._is_done('questions', 'key')


def test_a_project_without_checksums_still_opens(whole, copied, capsys):
    path = copied / project_folder.FILE
    body = json.loads(path.read_text())
    del body['files'], body['sha256']
    path.write_text(json.dumps(body))
    (copied / 'questions' / 'test.jsonl').write_text('{}')
    opened = project_folder.open_project(copied)
    assert opened.files == {} and opened.done == whole.done
    assert cli.main(['verify', str(copied)]) == 2 and 'nothing in it has checksums' in capsys.readouterr().err
