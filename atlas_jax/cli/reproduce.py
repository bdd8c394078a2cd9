"""`atlas-jax reproduce`: from published files to a row of the paper's tables, by the commands that a user would type."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlas_jax import errors
from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options
from atlas_jax.io import untrusted

if TYPE_CHECKING:
    from atlas_jax.reproduce.plan import Plan

_SIZES = ('base', 'large', 'xl', 'xxl')


def add_commands(commands) -> None:
    """Adds `reproduce`."""
    parser = cli_options.command(
        commands, 'reproduce', _reproduce, 'Make a row of the paper\'s tables: prepare data, train, evaluate; goes on when stopped.',
        'atlas-jax reproduce nq_64_shot --from downloads --model atlas --index index --out nq_64_shot --size xxl')
    parser.add_argument('name', metavar='RUN', help='a gin file of the paper, such as nq_64_shot (docs/reproduce.md has all)')
    parser.add_argument('--from', dest='files', nargs='+', default=[], metavar='FILE',
                        help='the published files that the run needs, or folders with them')
    parser.add_argument('--index', action='append', required=True, metavar='[NAME=]DIR',
                        help='index to retrieve from; templama takes 2017=DIR and 2020=DIR')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for data, runs, results and the report')
    parser.add_argument('--size', choices=_SIZES, help='of the reader: which figure of the paper, and how many updates')
    parser.add_argument('--split', choices=['test', 'dev'], default='test', help='questions to evaluate on (default test)')
    parser.add_argument('--seed', type=cli_options.count, default=0, metavar='S',
                        help='of the choice of examples and of training (default 0)')
    parser.add_argument('--ids', metavar='FILE', help='train on the examples of a list (docs/data_select.md), in place of the seed\'s')
    parser.add_argument('--questions', type=cli_options.positive, metavar='N', help='evaluate the first N questions only')
    parser.add_argument('--batch_size', type=cli_options.positive, metavar='N', help='examples at a time, in training and evaluation')
    parser.add_argument('--dry-run', dest='dry_run', action='store_true', help='check everything, and print the steps')
    cli_options.add_model(parser)
    # For the help alone: main.py takes bindings out before argparse sees them.
    parser.add_argument('--gin.NAME', metavar='VALUE', dest='gin_bindings',
                        help='value that wins over the gin files of the steps that know it')
    parser.set_defaults(takes_gin=True)


def _reproduce(options: argparse.Namespace) -> None:
    from atlas_jax.reproduce import plan as plan_lib
    from atlas_jax.reproduce import recipes, running
    recipes.recipe_of(options.name)  # a mistyped name is told before anything else
    inputs.check_model(options)
    indexes = _indexes(options.index)
    for folder in indexes.values():
        inputs.check_index(folder)
    if options.ids:
        _check_ids(options.ids)
    model = {'MODEL_DIR': options.model, 'READER_DIR': options.reader, 'RETRIEVER_DIR': options.retriever}
    plan = plan_lib.Plan(plan_lib.Settings(
        recipes.name_of(options.name), tuple(options.files), pathlib.Path(options.out), model, indexes, options.size, options.seed,
        options.ids, options.split, options.questions, options.batch_size, tuple(options.gin_bindings)))
    _check(plan)
    # The record of an earlier call is compared now, before the first step.
    runner = running.Runner(plan, _run)
    if options.dry_run:
        for step in plan.steps:
            print(f'{"done   " if runner.is_done(step) else "to do  "} {step.shown}')
        return
    runner.run(lambda line: print(line, flush=True))
    # Not above: it imports jax, which --dry-run need not wait for.
    from atlas_jax.reproduce import table
    lines, page = table.write(plan)
    print(f'\n{table.as_text(plan, lines)}\n{page}')


def _check(plan: 'Plan') -> None:
    """Looks at all that the steps will read, but for what earlier steps make. Raises UserError."""
    plan.check_bindings()
    if plan.recipe.source:
        from atlas_jax.datasets import registry
        source = registry.SOURCES[plan.recipe.source]
        # As the conversion will: a wrong release is told by its first record.
        options = {**source.options, **{name: int(value) for name, value in plan.recipe.options.items()}}
        source.pieces([file for files in plan.found.values() for file in files], options)
    # Misspelt names and values of a wrong type would else show after hours of training. One of each kind: subjects differ in folders alone.
    for step in {(step.command[0], step.gin): step for step in plan.steps}.values():
        parsed = _parsed(step.command)
        if step.gin:
            cli_options.read_gin(parsed)


def _parsed(command: Sequence[str]) -> argparse.Namespace:
    """Returns the options of a command, its gin files and bindings checked."""
    from atlas_jax.cli import main  # it imports this module
    options = main.parse(command)
    flags.resolve(options)
    if getattr(options, 'gin_file', None):
        cli_options.preview_gin(options)
    return options


def _run(command: Sequence[str]) -> None:
    options = _parsed(command)
    options.run(options)


def _check_ids(path: str) -> None:
    try:
        untrusted.require_regular_file(pathlib.Path(path))
        with open(path, 'rb'):
            pass
    except (OSError, ValueError) as error:
        raise errors.InputFileError(path, 'no such file, or none that can be read', remedy='give a list of examples for --ids') from error


def _indexes(given: Sequence[str]) -> dict[str, str]:
    """Returns the index folders by name, '' where one has none. Raises ConfigError: a name twice."""
    found: dict[str, str] = {}
    for text in given:
        name, separator, folder = text.partition('=')
        # A folder may have "=" in its name; a name of ours has no "/".
        name, folder = (name, folder) if separator and '/' not in name else ('', text)
        if name in found:
            raise errors.ConfigError(f'--index {text}: {"a second one of this name" if name else "give each of several as NAME=DIR"}')
        found[name] = folder
    return found
