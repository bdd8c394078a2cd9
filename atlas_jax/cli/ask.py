"""`atlas-jax ask`: a conversation with a project, in a terminal or through a pipe."""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from atlas_jax import errors
from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.project.conversation import Conversation, Turn

_PROMPT, _HISTORY, _MOST_KEPT = '> ', 'history', 1000
_BOLD, _PLAIN = '\033[1m', '\033[0m'
_HELP = """\
:without N       the last question again without passage N
:edit N TEXT     the last question again with another text of passage N; the index stays
:add FILE        add documents to the index; one with a known id replaces it
:delete DOCID    take a passage out of the index
:index [DIR]     search another index, or say which one is searched
:history         the questions so far
:export FILE     write all answers to a .jsonl file
:help, :quit"""


def add_commands(commands) -> None:
    """Adds `ask`."""
    parser = cli_options.command(commands, 'ask', _ask, 'Ask a project questions; in a pipe one a line.', 'atlas-jax ask my-project')
    parser.add_argument('project', metavar='PROJECT', help='folder of `atlas-jax new`')
    parser.add_argument('--index', metavar='DIR', help='another index than the project\'s')
    parser.add_argument('--n_context', type=cli_options.positive, metavar='N', help='passages to read (default: as trained)')
    parser.add_argument('--no_closed_book', action='store_true', help='do not also answer without passages')
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)


class MistakeInPipeError(errors.UserError):
    """One of the lines of a pipe was wrong; each was named when it came."""


def _ask(options: argparse.Namespace) -> None:
    from atlas_jax.project import folder
    project = folder.open_project(options.project)
    project.require(*folder.ANSWERING)
    inputs.check_model_folder(str(project.model))
    inputs.check_index(options.index or str(project.index))
    # Only now: jax and the model take seconds, and a wrong folder is told at once.
    cli_options.keep_programs(options)
    from atlas_jax import api
    from atlas_jax.project import conversation
    cli_options.keep_programs(options)
    talk = conversation.Conversation(api.Atlas.load(project.model), api.Index.open(options.index or project.index), project.searcher,
                                     options.n_context, closed_book=not options.no_closed_book)
    # Both must be one: a prompt in a file is of no use, nor are codes in a pipe.
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    lines = _typed(str(project.path / _HISTORY)) if interactive else _piped()
    if interactive:
        print(f'{talk.described()}; :help shows what else can be typed')
    if wrong := run(talk, lines, _bold if interactive else _starred, _prefilled if interactive else None):
        raise MistakeInPipeError(f'{wrong} of the lines could not be answered; see above') if not interactive else SystemExit(0)


def run(talk: 'Conversation', lines: Iterator[str], mark: Callable[[str], str], edit: Callable[[str], str] | None = None) -> int:
    """Answers lines until they end or one of them is :quit; returns how many were wrong, each of which has its line on stderr.

    Args:
      talk: answers.
      lines: questions and commands.
      mark: shows words of a passage as those that carry the answer.
      edit: lets the user change a text; None where nobody can.
    """
    wrong = 0
    for line in lines:
        if line.strip() in (':quit', ':q'):
            break
        try:
            print(_reply(talk, line.strip(), mark, edit), flush=True)
        # One mistake must not end a conversation.
        except errors.UserError as error:
            wrong += 1
            print(f'atlas-jax: {" ".join(str(error).split())}', file=sys.stderr, flush=True)
    return wrong


def _reply(talk: 'Conversation', line: str, mark: Callable[[str], str], edit: Callable[[str], str] | None) -> str:
    from atlas_jax.project import questions
    if not line.startswith(':'):
        questions.check(line)
        return _shown(talk.ask(line), mark)
    name, _, rest = line[1:].partition(' ')
    rest = rest.strip()
    if name == 'help':
        return _HELP
    if name == 'history':
        return '\n'.join(f'{place}. {turn.answer.question}  →  {turn.answer.text}' for place, turn in enumerate(talk.turns, start=1))
    if name == 'index' and not rest:
        return talk.described()
    if name == 'without':
        return _shown(talk.without(_place(rest)), mark)
    if name == 'edit':
        place, _, text = rest.partition(' ')
        if not text and edit is not None and talk.turns and 1 <= _place(place) <= len(talk.turns[-1].read):
            text = edit(talk.turns[-1].read[_place(place) - 1].text)
        return _shown(talk.edit(_place(place), text), mark)
    # These take the rest of the line as one name: folders have spaces.
    commands = {'add': talk.add, 'delete': talk.delete, 'index': talk.use_index, 'export': talk.export}
    if name not in commands or not rest:
        problem = f'there is no :{name}' if name not in commands else f':{name} needs a name behind it'
        raise errors.ConfigError(f'{problem}; :help shows what can be typed')
    return commands[name](rest)


def _place(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise errors.ConfigError(f'expected the number of a passage, found "{text[:40]}"; such as :without 1')
    return int(text)


def _shown(turn: 'Turn', mark: Callable[[str], str]) -> str:
    from atlas_jax.project import conversation
    return conversation.as_text(turn, mark)


def _piped() -> Iterator[str]:
    # Whatever the locale: a byte that is no text is asked about as it is.
    if hasattr(sys.stdin, 'reconfigure'):
        sys.stdin.reconfigure(encoding='utf-8', errors='replace')
    yield from sys.stdin


def _typed(history: str) -> Iterator[str]:
    """Yields what is typed, with the questions of earlier conversations behind the arrow keys."""
    import contextlib
    import readline  # importing it gives input() its keys
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    try:
        while True:
            try:
                line = input(_PROMPT)
            except KeyboardInterrupt:  # leaves the line, as shells do
                print()
                continue
            if line.strip():
                yield line
    except EOFError:
        print()
    finally:
        readline.set_history_length(_MOST_KEPT)
        with contextlib.suppress(OSError):
            readline.write_history_file(history)


def _prefilled(text: str) -> str:
    """Returns the text as the user leaves it."""
    import readline
    readline.set_startup_hook(lambda: readline.insert_text(' '.join(text.split())))
    try:
        return input('edit: ')
    except (EOFError, KeyboardInterrupt) as error:
        raise errors.ConfigError('nothing was changed') from error
    finally:
        readline.set_startup_hook()


def _bold(words: str) -> str:
    return f'{_BOLD}{words}{_PLAIN}'


def _starred(words: str) -> str:
    return f'*{words}*'
