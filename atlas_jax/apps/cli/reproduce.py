"""`atlas-jax reproduce`: makes a row of the paper's tables from published files, with the commands
that a user would type.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks, flags
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.io import untrusted

if TYPE_CHECKING:
    from atlas_jax.apps.reproduce.run_steps import Reproduction

_SIZES = ('base', 'large', 'xl', 'xxl')


def add_commands(commands) -> None:
    """Adds `reproduce`."""
    parser = cli_options.command(
        commands, 'reproduce', _reproduce, 'Make a row of the paper\'s tables: prepare data, '
                                           'train, evaluate. Repeat it to continue.',
        'atlas-jax reproduce nq_64_shot --from downloads --model atlas --index index --out '
        'nq_64_shot --size xxl')
    parser.add_argument('name', metavar='RUN', help='a gin file of the paper, such as nq_64_shot '
                                                    '(docs/reproduce.md has all)')
    arguments.file(parser, '--from', 'the published files that the run needs, or folders with '
                   'them', dest='files', nargs='+', default=[])
    arguments.file(parser, '--index', 'index to retrieve from; templama takes 2017=DIR and '
                   '2020=DIR', '[NAME=]DIR', action='append', required=True)
    arguments.folder(parser, '--out', 'folder for data, runs, results and the report',
                     required=True)
    parser.add_argument('--size', choices=_SIZES, help='size of the reader: selects the figure of '
                                                       'the paper and the number of updates')
    parser.add_argument('--split', choices=['test', 'dev'], default='test',
                        help='questions to evaluate on (default test)')
    arguments.number(parser, '--seed', 'seeds the choice of examples and the training', 0,
                     kind=arguments.count, metavar='S')
    arguments.file(parser, '--ids', 'train on the examples of a list (docs/data_select.md), in '
                   'place of the seed\'s')
    arguments.number(parser, '--questions', 'evaluate the first N questions only')
    arguments.number(parser, '--batch_size', 'examples at a time, in training and evaluation')
    arguments.switch(parser, '--dry-run', 'check everything, and print the steps', dest='dry_run')
    cli_options.add_model(parser)
    cli_options.add_bindings(parser, 'value that wins over the gin files of the steps that know it')


def _reproduce(options: argparse.Namespace) -> None:
    from atlas_jax.apps.reproduce import recipes
    recipes.recipe_of(options.name)  # refuses a misspelt name first
    file_checks.check_model(options)
    indexes = arguments.named_folders('--index', options.index)
    for folder in indexes.values():
        file_checks.check_index(folder)
    if options.ids:
        _check_ids(options.ids)
    from atlas_jax.apps.reproduce import run_steps, running
    model = {'MODEL_DIR': options.model, 'READER_DIR': options.reader,
             'RETRIEVER_DIR': options.retriever}
    plan = run_steps.Reproduction(arguments.as_options(
        run_steps.ReproductionSettings, options, run=recipes.name_of(options.name),
        files=tuple(options.files), out=pathlib.Path(options.out), model=model, indexes=indexes,
        bindings=tuple(options.gin_bindings)))
    _check(plan, functools.partial(flags.parse_command, options))
    # Compares the record of an earlier call before the first step.
    runner = running.Runner(plan, functools.partial(_run, options))
    if options.dry_run:
        for step in plan.steps:
            print(f'{"done   " if runner.is_done(step) else "to do  "} {step.shown}')
        return
    runner.run(lambda line: print(line, flush=True))
    from atlas_jax.apps.reproduce import paper_table
    lines, page = paper_table.write(plan)
    print(f'\n{paper_table.as_text(plan, lines)}\n{page}')


def _run(options: argparse.Namespace, command: Sequence[str]) -> None:
    flags.run_command(options, command)


def _check(plan: 'Reproduction',
           parse: Callable[[Sequence[str]], argparse.Namespace]) -> None:
    """Checks everything that the steps will read, except what earlier steps make. Raises UserError.
    """
    plan.check_bindings()
    if plan.recipe.source:
        from atlas_jax.apps.datasets import known_datasets
        source = known_datasets.SOURCES[plan.recipe.source]
        # Opens the files as the conversion will: the first record shows a wrong release.
        options = {**source.options,
                   **{name: int(value) for name, value in plan.recipe.options.items()}}
        source.pieces([file for files in plan.found.values() for file in files], options)
    # Misspelt names and values of a wrong type would otherwise show after hours of training. One
    # step of each kind is enough: steps of several subjects differ only in their folders.
    for step in {(step.command[0], step.gin): step for step in plan.steps}.values():
        parsed = parse(step.command)
        if step.gin:
            cli_options.read_gin(parsed)


def _check_ids(path: str) -> None:
    try:
        untrusted.require_regular_file(pathlib.Path(path))
        with open(path, 'rb'):
            pass
    except (OSError, ValueError) as error:
        raise errors.InputFileError(path, 'no such file, or it cannot be read',
                                    remedy='give a list of examples for --ids') from error
