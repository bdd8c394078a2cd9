"""Plain flags for what people set most: each sets one macro of the command's gin files. And --project, which sets all that a project knows.

The flags are no second configuration: `resolve` writes them as `--gin.MACRO=value` before anything else reads the command line.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atlas_jax import errors
from atlas_jax.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.gin_files.preview import Preview
    from atlas_jax.project.folder import Project


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
      macro: of the gin files.
      help: for a user.
      kind: turns its text into the macro's value.
      metavar: stands for the value in the help.
      several: takes more than one value; a single one is no list.
      switch: takes no value, and sets True.
    """

    macro: str
    help: str
    kind: Callable[[str], Any] = str
    metavar: str = 'DIR'
    several: bool = False
    switch: bool = False


_MODEL, _READER, _RETRIEVER = ('model', 'reader', 'retriever')
FLAGS = {
    'run': Flag('RUN_DIR', 'folder for checkpoints, metrics and the configuration as used'),
    'train_file': Flag('TRAIN_FILE', 'questions with answers, as JSON lines', metavar='FILE', several=True),
    'questions': Flag('EXAMPLES_FILE', 'questions with answers, as JSON lines', metavar='FILE', several=True),
    'results': Flag('RESULTS_FILE', 'file for every answer with its passages; with it a killed evaluation goes on', metavar='FILE'),
    'index': Flag('INDEX_DIR', 'from `atlas-jax index build`'),
    'store': Flag('STORE_DIR', 'from `atlas-jax data passages`'),
    'out': Flag('INDEX_DIR', 'folder to write, on a disk or gs://…', metavar='INDEX'),
    'dtype': Flag('DTYPE', 'of the embeddings'),
    'examples': Flag('EXAMPLES', 'the first N lines of the files only', cli_options.positive, 'N'),
    'n_context': Flag('N_CONTEXT', 'passages to read', cli_options.count, 'N'),
    'batch_size': Flag('BATCH_SIZE', 'questions at a time', cli_options.positive, 'N'),
    'steps': Flag('TOTAL_STEPS', 'updates', cli_options.positive, 'N'),
    'learning_rate': Flag('LEARNING_RATE', 'of the reader', float, 'RATE'),
    'num_beams': Flag('NUM_BEAMS', 'sequences that are followed at once', cli_options.positive, 'N'),
    'quote': Flag('QUOTE', 'of several beams prefer one that stands word for word in a passage', switch=True),
    'searcher': Flag('SEARCHER', 'search method, see docs/search.md', metavar='NAME'),
    _MODEL: Flag('MODEL_DIR', 'folder to start from'),
    _READER: Flag('READER_DIR', 'folder of a T5'),
    _RETRIEVER: Flag('RETRIEVER_DIR', 'folder of a BERT, Contriever or sentence transformer'),
}
_OTHER_WAYS = ('task', 'all', 'compare')
_FOLDERS = (_MODEL, _READER, _RETRIEVER)


def add(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Adds flags of FLAGS to a command; those that the command has already become flags of gin macros too, by `set_macros`."""
    group = parser.add_argument_group('settings', 'each sets the macro of the gin files that stands behind it')
    for name in names:
        flag = FLAGS[name]
        if flag.switch:
            group.add_argument(f'--{name}', dest=_place_of(name), action='store_true', default=None, help=f'{flag.help} ({flag.macro})')
            continue
        group.add_argument(f'--{name}', dest=_place_of(name), type=flag.kind, metavar=flag.metavar, help=f'{flag.help} ({flag.macro})',
                           nargs='+' if flag.several else None)
    add_project(parser)


def set_macros(parser: argparse.ArgumentParser, names: Sequence[str], default: str | None, project_file: str) -> None:
    """Says which flags of a command set macros, and of which gin file where none is given, alone or in a project."""
    parser.set_defaults(macro_flags=tuple(names), default_gin=default, project_gin=project_file)


def add_project(parser: argparse.ArgumentParser) -> None:
    """Adds --project."""
    parser.add_argument('--project', metavar='DIR', help='folder of `atlas-jax new`: its model, index, files and settings')
    parser.set_defaults(takes_project=True)


def add_closed_book(parser: argparse.ArgumentParser) -> None:
    """Adds --closed_book."""
    parser.add_argument('--closed_book', action='store_true', help='read no passages: the reader\'s memory alone (INDEX_DIR)')


def resolve(options: argparse.Namespace) -> None:
    """Turns plain flags into bindings of gin, and fills in what a project knows.

    Raises ConfigError: a flag and a --gin macro contradict each other, the gin files lack the macro of a flag, no index is given, or the
      project is missing, broken or half made.
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
    # `new` and `ask` open theirs themselves.
    if not (getattr(options, 'takes_project', False) and options.project):
        return None
    from atlas_jax.project import folder  # here, for most commands need none
    return folder.open_project(options.project)


def _fill(options: argparse.Namespace, project: Project) -> None:
    """Sets what the command line leaves open; a flag wins."""
    from atlas_jax.project.folder import ANSWERING
    reads_model = hasattr(options, 'model')
    project.require(*(ANSWERING if reads_model else ('index',)))
    options.index = options.index or str(project.index)
    if reads_model and not (options.model or options.reader or options.retriever):
        options.model = str(project.model)
    if getattr(options, 'searches', False):
        options.searcher = options.searcher or project.searcher


def _bind(options: argparse.Namespace, project: Project | None) -> None:
    given = {name: value for name in options.macro_flags
             if (value := getattr(options, _place_of(name), None)) not in (None, [])}
    closed, macros = getattr(options, 'closed_book', False), {}
    if project is not None:
        macros = _of_project(options, project, closed)
    # `evaluate` has other ways, some with flags of these names.
    elif not options.gin_file and options.default_gin and given and not any(getattr(options, way, None) for way in _OTHER_WAYS):
        options.gin_file = [options.default_gin]
    if not options.gin_file:
        return
    # A list of one file is that file, as a person would write it in gin.
    values = {FLAGS[name].macro: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in given.items()}
    known = cli_options.preview_gin(options, complete=False)
    _refuse(options, {FLAGS[name].macro: f'--{name}' for name in given}, values, known)
    # One whole model: the other way to name one must not be left from the files.
    if chosen := [name for name in _FOLDERS if name in given]:
        others = _FOLDERS[1:] if chosen[0] == _MODEL else (_MODEL,)
        values |= {FLAGS[name].macro: None for name in others if known.knows(FLAGS[name].macro)
                   and not any(binding.startswith(f'{FLAGS[name].macro}=') for binding in options.gin_bindings)}
    if closed:
        values |= {'INDEX_DIR': None, **({'N_CONTEXT': 0} if options.project_gin == 'train' else {})}
    # gin takes the last: what was typed wins over where the project lies.
    options.gin_bindings = [*(f'{name}={value!r}' for name, value in {**macros, **values}.items()), *options.gin_bindings]


def _of_project(options: argparse.Namespace, project: Project, closed_book: bool) -> dict[str, Any]:
    """Takes the project's gin file, and returns its paths as macros."""
    if options.gin_file:
        raise errors.ConfigError(f'--project {options.project} has gin files of its own; leave --gin_file out, or --project')
    name = options.project_gin
    if name != 'index' and not project.trains:
        raise errors.ConfigError(f'{project.path}: has no questions; give some with `atlas-jax new {project.path} --questions FILE`')
    project.require(*{'index': ('models', 'passages'), 'train': ('index', 'searcher')}.get(name, ('training',)))
    # The closed book has its own results file.
    name = 'closed_book' if closed_book and name == 'evaluate' else name
    options.gin_file = [str(project.gin_file(name))]
    return project.macros(name)


def _refuse(options: argparse.Namespace, flags: dict[str, str], values: dict[str, Any], known: Preview) -> None:
    for macro, flag in flags.items():
        if not known.knows(macro):
            raise errors.ConfigError(f'{flag}: {", ".join(options.gin_file)} has no macro {macro}; set it with --gin.NAME=value as the '
                                     'file names it')
        for binding in options.gin_bindings:
            name, _, text = binding.partition('=')
            if name.strip() == macro and _value(text) != values[macro]:
                shown = values[macro] if isinstance(values[macro], str | int | float) else ' '.join(values[macro])
                raise errors.ConfigError(f'{flag} {shown} and --gin.{binding} contradict each other; give one of them')


def _place_of(name: str) -> str:
    # Of every command's options, `run` is the function that runs it.
    return 'run_dir' if name == 'run' else name


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def needs_gin(options: argparse.Namespace) -> None:
    """Raises ConfigError where gin files and flags leave open what must be said, by the names of the flags."""
    # The first of two flags of one macro is the one to name.
    flags = {FLAGS[name].macro: f'--{name}' for name in reversed(options.macro_flags)}
    if not options.gin_file:
        raise errors.ConfigError(f'give --project DIR, --gin_file FILE, or flags such as {" ".join(list(flags.values())[-3:])}')
    # Macros without a flag are named by the check of the whole configuration.
    if open_ones := [macro for macro in cli_options.preview_gin(options, complete=False).required_macros() if macro in flags]:
        folders = {FLAGS[name].macro for name in _FOLDERS}
        names = [flags[macro] for macro in open_ones if macro not in folders]
        names += ['--model (or --reader and --retriever)'] if folders & set(open_ones) else []
        raise errors.ConfigError(f'give {", ".join(names)}, or the folder of a project with --project')
