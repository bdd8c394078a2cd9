"""Plain flags for what people set most: each sets one macro of the command's gin files. --project
sets everything that a project knows.

The flags are no second configuration: `resolve` turns them into `--gin.MACRO=value` before anything
else reads the command line.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atlas_jax import errors
from atlas_jax.apps.cli import arguments
from atlas_jax.apps.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.apps.gin_files.preview import Preview
    from atlas_jax.apps.project.project_folder import Project


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag that sets a gin macro.

    Attributes:
      macro: name of the macro.
      help: help text, without the macro.
      kind: turns the flag's text into the macro's value.
      metavar: placeholder of the value in the help.
      several: takes several values; a single one is not made a list.
      switch: takes no value and sets True.
    """

    macro: str
    help: str
    kind: Callable[[str], Any] = str
    metavar: str = 'DIR'
    several: bool = False
    switch: bool = False


_FOLDERS = _MODEL, _READER, _RETRIEVER = ('model', 'reader', 'retriever')
FLAGS = {
    'run': Flag('RUN_DIR', 'folder for checkpoints, metrics and the configuration as used'),
    'train_file': Flag('TRAIN_FILE', 'questions with answers, as JSON lines', metavar='FILE',
                       several=True),
    'questions': Flag('EXAMPLES_FILE', 'questions with answers, as JSON lines', metavar='FILE',
                      several=True),
    'results': Flag('RESULTS_FILE', 'file for every answer with its passages; a killed evaluation '
                    'continues from it', metavar='FILE'),
    'index': Flag('INDEX_DIR', cli_options.INDEX),
    'store': Flag('STORE_DIR', 'passage store, from `atlas-jax data passages`'),
    'out': Flag('INDEX_DIR', 'folder to write, on a disk or gs://…', metavar='INDEX'),
    'dtype': Flag('DTYPE', 'dtype of the embeddings'),
    'examples': Flag('EXAMPLES', 'the first N lines of the files only', arguments.positive, 'N'),
    'n_context': Flag('N_CONTEXT', 'passages to read', arguments.count, 'N'),
    'batch_size': Flag('BATCH_SIZE', 'questions at a time', arguments.positive, 'N'),
    'steps': Flag('TOTAL_STEPS', 'number of updates', arguments.positive, 'N'),
    'learning_rate': Flag('LEARNING_RATE', 'learning rate of the reader', float, 'RATE'),
    'num_beams': Flag('NUM_BEAMS', 'beams of the search for an answer', arguments.positive, 'N'),
    'quote': Flag('QUOTE', 'prefer the beam whose answer appears word for word in a passage',
                  switch=True),
    'searcher': Flag('SEARCHER', 'search method, see docs/search.md', metavar='NAME'),
    _MODEL: Flag('MODEL_DIR', 'folder to start from'),
    _READER: Flag('READER_DIR', 'folder of a T5'),
    _RETRIEVER: Flag('RETRIEVER_DIR', 'folder of a BERT, Contriever or sentence transformer')}
# Other ways of `evaluate`, which read no gin files.
_OTHER_WAYS = ('task', 'all', 'compare')


def add(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Adds flags of FLAGS and --project to a command. `set_macros` says which flags set macros."""
    group = parser.add_argument_group('settings', 'each sets the gin macro in parentheses')
    for name in names:
        flag = FLAGS[name]
        kind: dict[str, Any] = {'action': 'store_true', 'default': None} if flag.switch else {
            'type': flag.kind, 'metavar': flag.metavar, 'nargs': '+' if flag.several else None}
        group.add_argument(f'--{name}', dest=_attribute(name), help=f'{flag.help} ({flag.macro})',
                           **kind)
    add_project(parser)


def set_macros(parser: argparse.ArgumentParser, names: Sequence[str], default: str | None,
               project_file: str) -> None:
    """Sets which flags of a command set macros.

    Args:
      parser: the command.
      names: the flags.
      default: the gin file that is read if none is given; None reads none.
      project_file: name of the project's gin file that --project reads.
    """
    parser.set_defaults(macro_flags=tuple(names), default_gin=default, project_gin=project_file)


def add_project(parser: argparse.ArgumentParser) -> None:
    """Adds --project."""
    arguments.folder(parser, '--project',
                     'folder that `atlas-jax new` wrote; sets model, index, files and settings')
    parser.set_defaults(takes_project=True)


def add_closed_book(parser: argparse.ArgumentParser) -> None:
    """Adds --closed_book."""
    arguments.switch(parser, '--closed_book',
                     'read no passages: answer from the reader\'s memory only (INDEX_DIR)')


def run_command(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Runs another command, given as its arguments. `options` is the running command's own.

    Raises UserError.
    """
    other = parse_command(options, command)
    other.run(other)


def parse_command(options: argparse.Namespace, command: Sequence[str]) -> argparse.Namespace:
    """Returns the options of another command, resolved and with its gin files checked.

    Raises ConfigError: the same errors as `resolve`, or a gin file or binding is wrong.
    """
    other = options.parse(command)
    resolve(other)
    if getattr(other, 'gin_file', None):
        cli_options.preview_gin(other)
    return other


def resolve(options: argparse.Namespace) -> None:
    """Turns plain flags into gin bindings, and fills in what a project knows.

    Raises ConfigError: a flag and a --gin macro contradict each other, the gin files lack the macro
    of a flag, no index is given, or the project is missing, broken or half made.
    """
    project = _project_of(options)
    if getattr(options, 'macro_flags', None):
        _bind(options, project)
    elif project is not None:
        _fill(options, project)
    if getattr(options, 'searches', False):
        options.searcher = options.searcher or 'exact'
    if getattr(options, 'needs_index', False) and not options.index:
        raise errors.ConfigError('give --index DIR, or --project DIR')


def _project_of(options: argparse.Namespace) -> Project | None:
    # `new` and `ask` open their project themselves.
    if not (getattr(options, 'takes_project', False) and options.project):
        return None
    from atlas_jax.apps.project import project_folder
    return project_folder.open_project(options.project)


def _fill(options: argparse.Namespace, project: Project) -> None:
    """Sets from the project what no flag sets."""
    from atlas_jax.apps.project.project_folder import ANSWERING
    reads_model = hasattr(options, 'model')
    project.require(*(ANSWERING if reads_model else ('index',)))
    options.index = options.index or str(project.index)
    if reads_model and not cli_options.names_model(options):
        options.model = str(project.model)
    if getattr(options, 'searches', False):
        options.searcher = options.searcher or project.searcher


def _bind(options: argparse.Namespace, project: Project | None) -> None:
    given = {name: value for name in options.macro_flags
             if (value := getattr(options, _attribute(name), None)) not in (None, [])}
    closed, macros = getattr(options, 'closed_book', False), {}
    if project is not None:
        macros = _use_project(options, project, closed)
    elif (given and options.default_gin and not options.gin_file
          and not any(getattr(options, way, None) for way in _OTHER_WAYS)):
        options.gin_file = [options.default_gin]
    if not options.gin_file:
        return
    # A list of one file becomes that file, as a person would write it in gin.
    values = {FLAGS[name].macro: value[0] if isinstance(value, list) and len(value) == 1 else value
              for name, value in given.items()}
    known = cli_options.preview_gin(options, complete=False)
    _refuse(options, {FLAGS[name].macro: f'--{name}' for name in given}, values, known)
    # The flags name a whole model: macros of the other way to name one are unset.
    if chosen := [name for name in _FOLDERS if name in given]:
        others = _FOLDERS[1:] if chosen[0] == _MODEL else (_MODEL,)
        bound = {binding.partition('=')[0] for binding in options.gin_bindings}
        values |= {macro: None for macro in (FLAGS[name].macro for name in others)
                   if known.knows(macro) and macro not in bound}
    if closed:
        values['INDEX_DIR'] = None
        if options.project_gin == 'train':
            values['N_CONTEXT'] = 0
    # gin takes the last value of a macro: typed bindings win over the project's paths.
    options.gin_bindings = [*(f'{name}={value!r}' for name, value in {**macros, **values}.items()),
                            *options.gin_bindings]


def _use_project(options: argparse.Namespace, project: Project, closed_book: bool
                 ) -> dict[str, Any]:
    """Sets the project's gin file as the one to read, and returns the project's paths as macros."""
    if options.gin_file:
        raise errors.ConfigError(f'--project {options.project} has gin files of its own; leave '
                                 '--gin_file out, or --project')
    name = options.project_gin
    if name != 'index' and not project.trains:
        raise errors.ConfigError(f'{project.path}: has no questions; give some with `atlas-jax '
                                 f'new {project.path} --questions FILE`')
    needed = {'index': ('models', 'passages'), 'train': ('index', 'searcher')}
    project.require(*needed.get(name, ('training',)))
    # A closed-book evaluation has its own results file.
    name = 'closed_book' if closed_book and name == 'evaluate' else name
    options.gin_file = [str(project.gin_file(name))]
    return project.macros(name)


def _refuse(options: argparse.Namespace, flags: dict[str, str], values: dict[str, Any],
            known: Preview) -> None:
    """Raises ConfigError: the gin files lack a flag's macro, or a binding gives it another value.
    """
    for macro, flag in flags.items():
        if not known.knows(macro):
            raise errors.ConfigError(f'{flag}: {", ".join(options.gin_file)} has no macro '
                                     f'{macro}; set it with --gin.NAME=value as the file names it')
        value = values[macro]
        for binding in options.gin_bindings:
            name, _, text = binding.partition('=')
            if name.strip() == macro and _literal(text) != value:
                shown = value if isinstance(value, str | int | float) else ' '.join(value)
                raise errors.ConfigError(f'{flag} {shown} and --gin.{binding} contradict each '
                                         'other; give one of them')


def _attribute(name: str) -> str:
    # In every command's options, `run` is the function that runs the command.
    return 'run_dir' if name == 'run' else name


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def needs_gin(options: argparse.Namespace) -> None:
    """Raises ConfigError: neither gin files nor flags set what must be set. The message names the
    flags.
    """
    # Reversed, so that of two flags with one macro the first is named.
    flags = {FLAGS[name].macro: f'--{name}' for name in reversed(options.macro_flags)}
    if not options.gin_file:
        raise errors.ConfigError('give --project DIR, --gin_file FILE, or flags such as '
                                 f'{" ".join(list(flags.values())[-3:])}')
    # The check of the whole configuration names the macros without a flag.
    required = cli_options.preview_gin(options, complete=False).required_macros()
    if missing := [macro for macro in required if macro in flags]:
        folders = {FLAGS[name].macro for name in _FOLDERS}
        names = [flags[macro] for macro in missing if macro not in folders]
        names += ['--model (or --reader and --retriever)'] if folders & set(missing) else []
        raise errors.ConfigError(f'give {", ".join(names)}, or the folder of a project with '
                                 '--project')
