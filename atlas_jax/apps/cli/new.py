"""`atlas-jax new`: turns a folder of documents and a file of questions into a project that answers.
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks, flags
from atlas_jax.apps.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.apps.project.project_folder import Project


def add_commands(commands) -> None:
    """Adds `new`."""
    parser = cli_options.command(
        commands, 'new', _new, 'Make a project of your documents: index, training on your '
                               'questions, evaluation, report. Repeat it to continue.',
        'atlas-jax new my-project --documents my-documents --questions my-questions.csv')
    parser.add_argument('project', metavar='PROJECT',
                        help='folder for everything; an existing project is continued')
    parser.add_argument('--documents', nargs='+', metavar='PATH',
                        help='.jsonl, .csv, .tsv, .txt, .md, .html, .pdf or .docx files, or '
                             'folders of them (kept for later calls)')
    arguments.file(parser, '--questions', '.jsonl, .csv or .tsv with question and answers; a '
                   'fifth is held out, the others are trained on')
    cli_options.add_model(parser)
    arguments.folder(parser, '--packages', 'folder with the packages of the demo\'s models '
                     '(default: fetch them with pip)')


def _new(options: argparse.Namespace) -> None:
    from atlas_jax.apps.project import project_folder
    is_new = not project_folder.exists(options.project)
    given = _settings(options, is_new)
    if is_new:
        project = project_folder.Project(pathlib.Path(options.project),
                                         project_folder.ProjectSettings(**given))
    else:
        project = project_folder.open_project(options.project, check_questions=False)
        # Questions may come later. Settings that are not given again stay.
        project.settings = dataclasses.replace(project.settings, **given)
    _check(project, is_new)
    cli_options.keep_programs(options)
    from atlas_jax.apps.project import making
    making.Maker(project, functools.partial(flags.run_command, options), options.packages).run(
        lambda line: print(line, flush=True))
    print(f'ask with `atlas-jax ask {project.path}`')


def _settings(options: argparse.Namespace, is_new: bool) -> dict[str, Any]:
    """Returns the settings that were given.

    Raises ConfigError: no documents for a new project, or half of a model.
    """
    if cli_options.names_model(options):
        file_checks.check_model(options)
    if is_new and not options.documents:
        raise errors.ConfigError(f'{options.project} is no project yet: give its documents, '
                                 '--documents PATH')
    given = arguments.given(documents=options.documents and tuple(options.documents),
                            questions=options.questions)
    # All three together, so that another model replaces the earlier one.
    if options.model or options.reader:
        given |= {name: getattr(options, name) for name in ('model', 'reader', 'retriever')}
    return given


def _check(project: 'Project', is_new: bool) -> None:
    """Checks documents, questions and folder before long work starts. Raises UserError."""
    if is_new and project.path.exists() and (not project.path.is_dir()
                                             or any(project.path.iterdir())):
        raise errors.FolderExistsError(f'{project.path}: holds something else; give a folder that '
                                       'does not exist yet')
    from atlas_jax.apps.project import questions
    from atlas_jax.corpus import documents
    # The whole file is read: a wrong row must not show only after the passages were embedded.
    if project.settings.questions:
        rows = questions.split(questions.read(project.settings.questions))
        if not rows.train:
            raise errors.InputFileError(project.settings.questions,
                                        'no question is left to train on',
                                        remedy='give more, or leave --questions out')
    # The first document shows that there is any text. The others are read when they are stored.
    next(documents.read_documents(list(project.settings.documents)))
