import json

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.project import making, project_folder
from tests.testing import office_files


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The projects that would be made; the folder has documents and questions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'd.txt').write_text('A text.')
    (tmp_path / 'q.csv').write_text('question,answers\na,b\nc,d\n')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').write_text('')
    (tmp_path / 'empty').mkdir()
    office_files.write_pdf(tmp_path / 'scan.pdf', ['', ''])
    (tmp_path / 'old').mkdir()
    (tmp_path / 'old' / 'project.json').write_text('{"version": 0}')
    (tmp_path / 'unlabelled.jsonl').write_text('{"question": "a"}')
    found = []
    monkeypatch.setattr(making.Maker, 'run', lambda self, say: found.append(self._project) or self._project.write())
    return found


def test_settings_are_kept_and_what_is_given_later_is_added(made, capsys):
    assert cli.main(['new', 'p', '--documents', 'd.txt']) == 0
    assert made[0].settings == project_folder.ProjectSettings(('d.txt',)) and 'ask with `atlas-jax ask p`' in capsys.readouterr().out
    assert cli.main(['new', 'p', '--questions', 'q.csv']) == 0
    assert made[1].settings == project_folder.ProjectSettings(('d.txt',), 'q.csv')
    assert cli.main(['new', 'p']) == 0 and made[2].settings == made[1].settings


@pytest.mark.parametrize(('arguments', 'message'), [
    (['p'], 'p is no project yet: give its documents, --documents PATH'),
    (['p', '--documents', 'nowhere'], 'nowhere: no such file or folder'),
    (['p', '--documents', 'empty'], 'empty: no documents in this folder'),
    (['p', '--documents', 'scan.pdf'], 'scan.pdf: no text in this file; a PDF without text holds pictures'),
    (['p', '--documents', 'd.txt', '--questions', 'nowhere.csv'], 'nowhere.csv: no such file'),
    (['p', '--documents', 'd.txt', '--questions', 'unlabelled.jsonl'], 'unlabelled.jsonl:1, field "answers": no answer'),
    (['p', '--documents', 'd.txt', '--reader', 'x'], 'give either --model, or both --reader and --retriever'),
    (['p', '--documents', 'd.txt', '--model', 'nowhere'], 'nowhere: no such file or folder'),
    (['full', '--documents', 'd.txt'], 'full: holds something else'),
    (['old'], 'project format 0, this version of atlas_jax reads 1'),
])
def test_mistakes_come_before_anything_is_written(made, tmp_path, capsys, arguments, message):
    before = sorted(tmp_path.rglob('*'))
    assert cli.main(['new', *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1 and made == [] and sorted(tmp_path.rglob('*')) == before


def test_half_made_projects_are_not_asked(made, capsys):
    cli.main(['new', 'p', '--documents', 'd.txt'])
    assert cli.main(['ask', 'p']) == 2
    assert 'p: half made ("models" is not done); run `atlas-jax new p` to go on' in capsys.readouterr().err
    assert json.loads(open('p/project.json').read())['version'] == 1
