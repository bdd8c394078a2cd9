import builtins
import io
import sys
import types

import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.apps.cli import ask
from atlas_jax.apps.project.conversation import Turn
from atlas_jax.corpus.passages import Passage


class FakeTalk:
    """Keeps what it was told to do."""

    def __init__(self):
        self.turns, self.did = [], []

    def __getattr__(self, name):
        def did(*arguments):
            self.did.append((name, *arguments))
            if arguments == ('wrong',):
                raise errors.StoreError('no passage\n"wrong"')
            answer = api.Answer('q', 'barn', (api.AnswerPassage('d', 't', 'The barn.', .5, 1.),))
            turn = Turn(answer, read=(Passage('d', 't', '', 'The barn.'),))
            self.turns += [turn] * (name == 'ask')
            return turn if name in ('ask', 'without', 'edit') else f'{name} done'
        return did


def said(lines, capsys, edit=None, mark=ask._starred):
    talk = FakeTalk()
    wrong = ask.answer_lines(talk, iter(lines), mark, edit)
    return talk, wrong, *capsys.readouterr()


def test_a_pipe_has_a_question_a_line_and_no_codes(capsys):
    talk, wrong, out, err = said(['Where?\n', ':without 1\n', ':edit 1 new words', ':add f.txt', ':delete d', ':index other dir', ':index',
                                  ':history', ':export t.jsonl', ':help', ':quit', 'never'], capsys)
    assert talk.did == [('ask', 'Where?'), ('without', 1), ('edit', 1, 'new words'), ('add', 'f.txt'), ('delete', 'd'),
                        ('use_index', 'other dir'), ('description',), ('export', 't.jsonl')]
    assert wrong == 0 and err == '' and '\033' not in out and 'The *barn*.' in out and '1. q  →  barn' in out and ':without N' in out


def test_mistakes_are_named_and_the_next_line_is_answered(capsys):
    talk, wrong, out, err = said([':delete wrong', '', 'x' * 100_000, ':nothing', ':without one', ':add', ':edit ² x', 'Where?'], capsys)
    assert wrong == 7 and err.count('atlas-jax: ') == err.count('\n') == 7 and out.startswith('barn')
    for part in ('no passage "wrong"', 'the question is empty', '100,000 characters', 'there is no :nothing; :help', 'found "one"',
                 ':add needs a name after it', 'found "²"'):
        assert part in err


def test_a_text_is_edited_in_the_terminal(capsys, monkeypatch):
    talk, *_ = said(['Where?', ':edit 1'], capsys, edit=lambda text: f'{text} Or not.', mark=ask._bold)
    assert talk.did[-1] == ('edit', 1, 'The barn. Or not.')
    hooks = []
    readline = types.SimpleNamespace(set_startup_hook=lambda *hook: hooks.append(hook), insert_text=lambda text: hooks.append(text))
    monkeypatch.setitem(sys.modules, 'readline', readline)
    monkeypatch.setattr(builtins, 'input', lambda prompt: hooks[0][0]() or 'typed')
    assert ask._prefilled('a\n b') == 'typed' and hooks[1] == 'a b' and hooks[-1] == ()
    assert ask._bold('x') == '\033[1mx\033[0m'


def test_lines_of_a_terminal_and_its_history(tmp_path, monkeypatch, capsys):
    typed = iter(['Where?', '', KeyboardInterrupt(), ':help', EOFError()])

    def read(prompt):
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    kept = []
    readline = types.SimpleNamespace(read_history_file=lambda path: (_ for _ in ()).throw(FileNotFoundError(path)),
                                     set_history_length=kept.append, write_history_file=kept.append)
    monkeypatch.setitem(sys.modules, 'readline', readline)
    monkeypatch.setattr(builtins, 'input', read)
    assert list(ask._typed('h')) == ['Where?', ':help'] and kept == [1000, 'h']


def test_bytes_of_a_pipe_that_are_no_text(monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'a\xff\nb\n'), encoding='ascii'))
    assert list(ask._piped()) == ['a\ufffd\n', 'b\n']


def test_a_pipe_with_mistakes_ends_with_code_2():
    with pytest.raises(errors.UserError):
        raise ask.MistakeInPipeError('x')
    assert ask.MistakeInPipeError.exit_code == 2
