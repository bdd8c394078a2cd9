"""The command line: bad input gets exit code 2 and one line, before anything long starts."""

import argparse
import errno
import os
import subprocess
import sys

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli


def run(capsys, *arguments) -> tuple[int, str]:
    """(exit code, standard error) of a command in this process."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def leaves(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()):
    """(words, parser) of every command that runs something."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in nested:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))
    if not nested:
        yield words, parser


def stop_with(monkeypatch, error: BaseException):
    """Makes `index info` raise."""
    def raise_it(options):
        raise error
    monkeypatch.setattr(cli.cli_index, '_info', raise_it)
    return 'index', 'info', '--index', 'x'


def test_every_command_shows_an_example_that_parses():
    commands = dict(leaves(cli.parser()))
    assert {words[0] for words in commands} == {'demo', 'new', 'ask', 'data', 'index', 'train', 'evaluate', 'calibrate', 'reproduce',
                                                 'answer', 'compare', 'convert', 'plan', 'serve', 'verify'}
    for words, parser in commands.items():
        assert f'example:\n  atlas-jax {" ".join(words)}' in parser.format_help()


@pytest.mark.parametrize(('arguments', 'parts'), [
    ([], ['COMMAND']),
    (['trian'], ['trian', 'choose from']),
    (['demo', '--questions', '0'], ['--questions', 'at least 1']),
    (['demo', '--questions', 'many'], ['--questions', '"many" is not a whole number']),
    (['demo', '--gin.X=1'], ['--gin.X=1', 'reads no gin files']),
    (['answer', '--model', 'x'], ['QUESTION']),
    (['train'], ['--gin_file']),
    (['index', 'build'], ['--store', '--gin_file']),
    (['index', 'delete', '--index', 'x'], ['--docid']),
    (['data', 'passages', 'x', '--out', 'y'], ['--model', '--reader', '--retriever']),
    (['data', 'passages', 'x', '--out', 'y', '--reader', 'z'], ['--model', '--reader', '--retriever']),
    (['train', '--gin_file', 'runs/few_sht.gin'], ['runs/few_sht.gin', 'did you mean "runs/few_shot.gin"?']),
    (['train', '--gin_file', 'runs/few_shot.gin'], ['give --run, --train_file, --index, --model (or --reader and --retriever)']),
    (['train', '--run', 'r', '--gin.RUN_DIR="s"'], ['--run r and --gin.RUN_DIR="s" contradict each other']),
    (['index', 'search', 'x', '--model', 'm'], ['give --index DIR, or --project DIR']),
    (['answer', 'x', '--project', 'nowhere'], ['nowhere: no such folder', 'atlas-jax new nowhere']),
    (['answer', ' ', '--model', 'm'], ['the question is empty']),
    (['answer', 'x' * 100_000, '--model', 'm'], ['the question has 100,000 characters, at most 10,000']),
    (['evaluate', '--gin_file', 'runs/evaluate.gin', '--gin.MODEL_DRI="x"'], ['--gin.MODEL_DRI', 'did you mean "MODEL_DIR"?']),
    (['index', 'info', '--index', 'nowhere'], ['nowhere']),
    (['index', 'search', 'x', '--index', 'nowhere', '--model', 'm'], ['nowhere']),
    (['answer', 'x', '--model', 'nowhere'], ['nowhere']),
    (['answer', 'x', '--reader', 'nowhere'], ['reader']),
])
def test_mistakes_get_exit_code_2_and_one_line(arguments, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = run(capsys, *arguments)
    assert code == 2
    assert message.startswith('atlas-jax: ') and message.count('\n') == 1, message
    assert all(part in message for part in parts), message
    assert not list(tmp_path.iterdir())


def test_user_error_is_one_line_and_its_traceback_is_for_verbose_only(capsys, monkeypatch):
    arguments = stop_with(monkeypatch, errors.InputFileError('a.jsonl', 'broken\nJSON', line=3))
    assert run(capsys, *arguments) == (2, 'atlas-jax: a.jsonl:3: broken JSON\n')
    code, message = run(capsys, *arguments, '--verbose')
    assert code == 2 and 'Traceback' in message and message.endswith('atlas-jax: a.jsonl:3: broken JSON\n')


@pytest.mark.parametrize(('number', 'part'), [(errno.ENOSPC, 'free some space'), (errno.EACCES, 'that you may use'),
                                              (errno.ENOENT, 'that exists'), (errno.EIO, 'check the disk'), (errno.EMFILE, 'the disk')])
def test_system_errors_that_a_user_can_mend_are_one_line(number, part, capsys, monkeypatch):
    code, message = run(capsys, *stop_with(monkeypatch, OSError(number, os.strerror(number), 'some/file')))
    assert code == 2 and message.startswith('atlas-jax: some/file: ') and part in message and message.count('\n') == 1


def test_other_errors_keep_their_traceback(capsys, monkeypatch):
    with pytest.raises(OSError, match='strange'):
        run(capsys, *stop_with(monkeypatch, OSError(errno.EPROTO, 'strange')))
    with pytest.raises(ZeroDivisionError):
        run(capsys, *stop_with(monkeypatch, ZeroDivisionError()))


def test_interrupt_is_130(capsys, monkeypatch):
    code, message = run(capsys, *stop_with(monkeypatch, KeyboardInterrupt()))
    assert code == 130 and message.count('\n') == 1


def test_bindings_are_taken_out_of_the_command_line():
    options = cli.parse(['evaluate', '--gin.X=1', '--gin_file', 'a.gin', '--gin.a.b = "c=d"', '--gin_file=b.gin', '--json', 'f'])
    assert options.gin_bindings == ['X=1', 'a.b = "c=d"'] and options.gin_file == ['a.gin', 'b.gin'] and options.json == 'f'


def test_program_imports_nothing_heavy_for_its_help():
    code = ('import sys; from atlas_jax.apps.cli import main; main.parser(); '
            'print(*{"jax", "gin", "numpy", "tensorstore"} & sys.modules.keys())')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ''


def test_module_runs_as_the_command():
    done = subprocess.run([sys.executable, '-m', 'atlas_jax', 'trian'], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith('atlas-jax: ') and done.stderr.count('\n') == 1
