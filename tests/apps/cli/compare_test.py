"""`atlas-jax compare`: the command line becomes models, inputs and settings; mistakes are one line before anything is loaded."""

import argparse

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import compare as cli_compare
from atlas_jax.apps.cli import file_checks as cli_inputs
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.compare import comparison
from atlas_jax.apps.compare import text as compare_text

COMMAND = ['compare', '--reader', 'r', '--retriever', 'q', '--out', 'ours.npz']


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """Comparisons that are noted down and not run, in a folder with all that they name."""
    calls = []
    monkeypatch.chdir(tmp_path)
    for folder in ('r', 'q', 'm'):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(comparison, 'compare', lambda *arguments: calls.append(arguments) or {'figures': 1})
    monkeypatch.setattr(comparison, 'save', lambda path, figures: calls.append((path, figures)))
    monkeypatch.setattr(comparison, 'raise_unless_agrees', lambda figures: None)
    return calls


def test_options_become_settings(compared):
    assert cli.main([*COMMAND, '--random', '4x10x162', '--batches', '3', '--grads', '--rtol', '0.5', '--against', 'theirs.npz',
                     '--json', 'f', '--report', 'p.html']) == 0
    (models, inputs, out, settings, against, report), saved = compared
    assert models == comparison.Models('r', 'q') and inputs == comparison.Random(4, 10, 162, 3) and saved == ('f', {'figures': 1})
    assert settings == comparison.ComparisonOptions(grads=True, rtol=0.5) and (out, against, report) == ('ours.npz', 'theirs.npz', 'p.html')


def test_questions_get_their_passages_from_the_index(compared, monkeypatch):
    monkeypatch.setattr(compare_text, 'from_text', lambda *arguments: arguments)
    # The files are checked before anything is loaded; tests/apps/cli/file_checks_test.py tests the checks.
    looked_at = []
    monkeypatch.setattr(cli_inputs, 'check_index', lambda *arguments: looked_at.append(arguments))
    monkeypatch.setattr(cli_inputs, 'check_examples', lambda *arguments: looked_at.append(arguments))
    assert cli.main([*COMMAND, '--data', 'd.jsonl', '--index', 'i', '--n_context', '7']) == 0
    assert compared[0][1][:3] == ('d.jsonl', 'i', None) and 7 in compared[0][1]
    assert looked_at[0] == ('i', None) and looked_at[1][0] == 'd.jsonl'


@pytest.mark.parametrize(('arguments', 'part'), [
    ([], 'give one of --inputs'), (['--inputs', 'a.npz', '--random', '1x1x1'], 'give one of --inputs'),
    (['--data', 'd'], '--data needs --index'),
    (['--random', '1x1x1', '--variant', 'tunde'], 'tunde'), (['--random', '1x1x1', '--model', 'm'], 'give --model DIR'),
])
def test_mistakes_are_one_line(arguments, part, capsys, compared):
    assert cli.main([*COMMAND, *arguments]) == 2
    message = capsys.readouterr().err
    assert part in message and message.count('\n') == 1 and not compared


def test_sizes():
    assert cli_compare._size('4x10x162') == (4, 10, 162)
    for text in ('4x10', '0x1x2', 'axbxc', '4x10x162x3', ''):
        with pytest.raises(argparse.ArgumentTypeError, match='is not a size; give batch x passages x tokens'):
            cli_compare._size(text)


def test_a_difference_has_its_exit_code(monkeypatch, compared, capsys):
    def differs(figures):
        raise errors.DifferenceError('they differ')

    monkeypatch.setattr(comparison, 'raise_unless_agrees', differs)
    assert cli.main([*COMMAND, '--random', '1x1x1']) == 1 and 'they differ' in capsys.readouterr().err
