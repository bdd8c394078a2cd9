"""`atlas-jax convert`: what it says, and the one line of a mistake."""

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.conversion import hf, loading
from tests.testing import tiny_checkpoints


def test_converts_and_says_what(tmp_path, capsys):
    hf.write(tmp_path / 'hf', tiny_checkpoints.model(tiny_checkpoints.V11))
    assert cli.main(['convert', str(tmp_path / 'hf'), '--to', 't5x', '--scan', '--out', str(tmp_path / 'x')]) == 0
    assert capsys.readouterr().out == f'{tmp_path / "x"}: reader with 61 parameters\n'
    tiny_checkpoints.assert_equal(loading.open_model(tmp_path / 'x').part('reader'), tiny_checkpoints.model(tiny_checkpoints.V11))


@pytest.mark.parametrize(('arguments', 'part'), [
    (['nowhere', '--to', 'hf'], 'nowhere: no such file'), (['.', '--to', 'hf', '--scan'], '--scan'),
    (['x', '--to', 'onnx'], 'choose from')])
def test_mistakes_are_one_line(arguments, part, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(['convert', *arguments, '--out', 'y'])
    except SystemExit as stop:
        code = stop.code
    message = capsys.readouterr().err
    assert code == 2 and part in message and message.count('\n') == 1 and not list(tmp_path.iterdir())
