"""`atlas-jax serve`: its mistakes before anything is loaded, and a small project that is served."""

import json
import sys

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main, serve
from atlas_jax.apps.project import project_folder
from atlas_jax.apps.serving import server
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    path = tmp_path_factory.mktemp('served') / 'my-project'
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    project_folder.Project(path, project_folder.ProjectSettings(('d',)), done=dict.fromkeys(project_folder.ANSWERING, 'x')).write()
    return path


@pytest.fixture
def served(monkeypatch):
    """The service that would have been served, the names of the server, and what it said."""
    found = []

    def run(service, bound, hosts, said):
        said(f'http://{bound.getsockname()[0]}')
        found.append((service, hosts))

    monkeypatch.setattr(server, 'run', run)
    return found


def test_a_project_is_served(project, served, capsys, monkeypatch):
    monkeypatch.delenv('ATLAS_JAX_TOKEN', raising=False)
    assert main.main(['serve', str(project), '--port', '0', '--model', f'again={project / "model"}',
                      '--index', f'old={project / "index"}', '--batch_size', '4', '--allowed_host', 'me.example', '--n_context', '3']) == 0
    [(service, hosts)] = served
    assert list(service.holdings.models) == ['project', 'again'] and list(service.holdings.indexes) == ['project', 'old']
    assert service.limits.together == 4 and 'me.example' in hosts and service.holdings.passages_read('again') == 3
    out = capsys.readouterr().out
    assert out == f'{project}: http://127.0.0.1\ntoken for changes: {service.token}\n' and len(service.token) > 20


def test_questions_to_propose(project, tmp_path):
    fresh = project_folder.Project(tmp_path, project_folder.ProjectSettings(('d',)))
    assert serve.proposed_questions(fresh) == ()
    (tmp_path / 'questions').mkdir()
    for name, questions in (('test', ['Held out?', 3, 'x' * 999]), ('train', ['Trained on?', 'Second?', 'Third?', 'Fourth?'])):
        (tmp_path / 'questions' / f'{name}.jsonl').write_text(''.join(json.dumps({'question': each}) + '\n' for each in questions))
    assert serve.proposed_questions(fresh) == ('Held out?', 'Trained on?', 'Second?')
    (tmp_path / 'questions' / 'test.jsonl').write_text('damaged\n')
    assert serve.proposed_questions(fresh) == ('Trained on?', 'Second?', 'Third?')


@pytest.mark.parametrize(('given', 'environment'), [(['--token', 'mine'], 'theirs'), ([], 'mine')])
def test_a_token_that_is_given_is_not_printed(project, served, capsys, monkeypatch, given, environment):
    monkeypatch.setenv('ATLAS_JAX_TOKEN', environment)
    assert main.main(['serve', str(project), '--port', '0', '--host', '0.0.0.0', *given]) == 0
    assert served[0][0].token == 'mine'
    out, err = capsys.readouterr()
    assert 'token' not in out and '0.0.0.0 is reached from other machines' in err


def changed(project, tmp_path, **fields):
    """A copy of a project's record with other fields."""
    (tmp_path / 'p').mkdir()
    (tmp_path / 'p' / 'project.json').write_text(json.dumps({**json.loads((project / 'project.json').read_text()), **fields}))
    return tmp_path / 'p'


@pytest.mark.parametrize(('options', 'message'), [
    (['--token', ' '], 'the token is empty'), (['--model', 'x'], '--model x: give NAME=DIR'),
    (['--index', 'project=x'], 'the name project is taken'), (['--batch_size', '65'], 'at most 64 questions are computed together'),
    (['--model', 'a=nowhere'], 'nowhere: no such file or folder'), (['--index', 'a=nowhere'], 'nowhere'),
    (['--port', '65536'], 'a port is from 0 to 65535'),
])
def test_mistakes_are_told_before_anything_is_loaded(project, served, monkeypatch, options, message):
    monkeypatch.setattr(serve, '_service', lambda *arguments: pytest.fail('models were loaded'))
    with pytest.raises(errors.UserError, match=message):
        serve._serve(main.parse(['serve', str(project), *options]))


def test_other_folders_and_a_port_in_use(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serve, '_service', lambda *arguments: pytest.fail('models were loaded'))
    with server.bind('127.0.0.1', 0) as taken:
        assert main.main(['serve', str(project), '--port', str(taken.getsockname()[1])]) == 2
    assert 'another program uses this port' in capsys.readouterr().err
    assert main.main(['serve', str(changed(project, tmp_path, version=7))]) == 2
    assert 'project format 7' in capsys.readouterr().err
    assert main.main(['serve', str(tmp_path / 'none')]) == 2
    assert 'no such folder' in capsys.readouterr().err


def test_without_the_extra(project, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith('atlas_jax.apps.serving')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules['atlas_jax.apps'], 'serving')
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert main.main(['serve', str(project)]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'pip install "atlas-jax[serve]"' in err
