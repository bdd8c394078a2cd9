"""`atlas-jax demo`: trains and questions a small Atlas on real texts."""

import argparse

from atlas_jax.apps.cli import arguments
from atlas_jax.apps.cli import data as cli_data
from atlas_jax.apps.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `demo`."""
    parser = cli_options.command(
        commands, 'demo', _demo, 'Train and question a small Atlas on the World Factbook: real '
                                 'models, real text, minutes on a laptop.',
        'atlas-jax demo --work demo')
    arguments.folder(parser, '--work', 'folder for everything it writes (default demo)',
                     default='demo')
    cli_data.add_packages(parser)
    arguments.number(parser, '--questions', 'test questions', 96)
    arguments.number(parser, '--steps', 'training steps')
    arguments.number(parser, '--seed', 'seed of the training', 0, kind=arguments.count)
    arguments.file(parser, '--report',
                   'HTML report to write (default report.html in the folder)')
    cli_options.add_compilation_cache(parser)
    cli_options.add_json(parser)


def _demo(options: argparse.Namespace) -> None:
    cli_options.keep_programs(options)
    from atlas_jax.apps.demo import demo
    # Without --steps the demo's gin file sets the number of steps.
    figures = demo.demo(options.work, packages_dir=options.packages, countries=options.countries,
                        questions=options.questions, seed=options.seed, report_file=options.report,
                        **arguments.given(steps=options.steps))
    cli_options.write_json(options.json, figures)
