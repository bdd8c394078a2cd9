"""`atlas-jax ask`: a conversation with a project, in a terminal or over a pipe."""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.apps.project.conversation import Conversation, Turn

_PROMPT, _HISTORY, _MOST_KEPT = '> ', 'history', 1000
_BOLD, _PLAIN = '\033[1m', '\033[0m'
_HELP = """\
:without N       ask the last question again without passage N
:edit N TEXT     ask the last question again with another text of passage N; the index stays
:add FILE        add documents to the index; one with a known id replaces it
:delete DOCID    take a passage out of the index
:index [DIR]     search another index, or show which one is searched
:history         the questions so far
:export FILE     write all answers to a .jsonl file
:help, :quit"""


def add_commands(commands) -> None:
    """Adds `ask`."""
    parser = cli_options.command(commands, 'ask', _ask,
                                 'Ask a project questions; in a pipe, one a line.',
                                 'atlas-jax ask my-project')
    parser.add_argument('project', metavar='PROJECT', help='folder that `atlas-jax new` wrote')
    arguments.folder(parser, '--index', 'another index than the project\'s')
    cli_options.add_n_context(parser)
    arguments.switch(parser, '--no_closed_book', 'do not also answer without passages')
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)


class MistakeInPipeError(errors.UserError):
    """Lines of a pipe were wrong. Each was reported as it was read."""


def _ask(options: argparse.Namespace) -> None:
    from atlas_jax.apps.project import project_folder
    project = project_folder.open_project(options.project)
    project.require(*project_folder.ANSWERING)
    file_checks.check_model_folder(str(project.model))
    file_checks.check_index(options.index or str(project.index))
    # Wrong folders are reported first: jax and the model take seconds to load.
    cli_options.keep_programs(options)
    from atlas_jax.answering import api
    from atlas_jax.apps.project import conversation
    talk = conversation.Conversation(api.Atlas.load(project.model),
                                     api.Index.open(options.index or project.index),
                                     project.searcher, options.n_context,
                                     closed_book=not options.no_closed_book)
    # Both must be terminals: a file needs no prompt, and a pipe no escape codes.
    if sys.stdin.isatty() and sys.stdout.isatty():
        print(f'{talk.description()}; :help shows what else can be typed')
        answer_lines(talk, _typed(str(project.path / _HISTORY)), _bold, _prefilled)
    elif wrong := answer_lines(talk, _piped(), _starred):
        raise MistakeInPipeError(f'{wrong} of the lines could not be answered; see above')


def answer_lines(talk: 'Conversation', lines: Iterator[str], mark: Callable[[str], str],
                 edit: Callable[[str], str] | None = None) -> int:
    """Answers lines until they end or one of them is :quit. Returns the number of wrong lines;
    each gets a message on stderr.

    Args:
      talk: the conversation that answers.
      lines: questions and commands.
      mark: marks the words of a passage that hold the answer.
      edit: lets the user change a text; None without a terminal.
    """
    wrong = 0
    for line in lines:
        if line.strip() in (':quit', ':q'):
            break
        try:
            print(_reply(talk, line.strip(), mark, edit), flush=True)
        except errors.UserError as error:  # a mistake must not end the conversation
            wrong += 1
            print(f'atlas-jax: {" ".join(str(error).split())}', file=sys.stderr, flush=True)
    return wrong


def _reply(talk: 'Conversation', line: str, mark: Callable[[str], str],
           edit: Callable[[str], str] | None) -> str:
    from atlas_jax.apps.project import questions
    if not line.startswith(':'):
        questions.check(line)
        return _shown(talk.ask(line), mark)
    name, _, rest = line[1:].partition(' ')
    rest = rest.strip()
    if name == 'help':
        return _HELP
    if name == 'history':
        return '\n'.join(f'{number}. {turn.answer.question}  →  {turn.answer.text}'
                         for number, turn in enumerate(talk.turns, start=1))
    if name == 'index' and not rest:
        return talk.description()
    if name == 'without':
        return _shown(talk.without(_number(rest)), mark)
    if name == 'edit':
        digits, _, text = rest.partition(' ')
        number, read = _number(digits), talk.turns[-1].read if talk.turns else ()
        if not text and edit is not None and 1 <= number <= len(read):
            text = edit(read[number - 1].text)
        return _shown(talk.edit(number, text), mark)
    # These take the rest of the line as one name, because names of folders may have spaces.
    commands = {'add': talk.add, 'delete': talk.delete, 'index': talk.use_index,
                'export': talk.export}
    if name not in commands:
        raise errors.ConfigError(f'there is no :{name}; :help shows what can be typed')
    if not rest:
        raise errors.ConfigError(f':{name} needs a name after it; :help shows what can be typed')
    return commands[name](rest)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise errors.ConfigError(f'expected the number of a passage, found "{text[:40]}"; such as '
                                 ':without 1')
    return int(text)


def _shown(turn: 'Turn', mark: Callable[[str], str]) -> str:
    from atlas_jax.apps.project import conversation
    return conversation.as_text(turn, mark)


def _piped() -> Iterator[str]:
    # In every locale, bytes that are not UTF-8 are replaced and do not end the conversation.
    if hasattr(sys.stdin, 'reconfigure'):
        sys.stdin.reconfigure(encoding='utf-8', errors='replace')
    yield from sys.stdin


def _typed(history: str) -> Iterator[str]:
    """Yields typed lines. The arrow keys bring back the questions of earlier conversations."""
    import contextlib
    import readline  # importing it gives input() its keys
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    try:
        while True:
            try:
                line = input(_PROMPT)
            except KeyboardInterrupt:  # drops the line, as shells do
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
    """Lets the user edit a text in the terminal, and returns it."""
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
