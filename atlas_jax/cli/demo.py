"""`atlas-jax demo`: trains and questions a small Atlas on real texts."""

import argparse

from atlas_jax.cli import data as cli_data
from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `demo`."""
    parser = cli_options.command(
        commands, 'demo', _demo,
        'Train and question a small Atlas on the World Factbook: real models, real text, minutes on a laptop.',
        'atlas-jax demo --work demo')
    parser.add_argument('--work', default='demo', metavar='DIR', help='folder for everything it writes (default demo)')
    cli_data.add_packages(parser)
    parser.add_argument('--questions', type=cli_options.positive, default=96, metavar='N', help='test questions (default 96)')
    parser.add_argument('--steps', type=cli_options.positive, metavar='N', help='training steps')
    parser.add_argument('--seed', type=cli_options.count, default=0, metavar='N', help='seed of the training (default 0)')
    parser.add_argument('--report', metavar='FILE', help='HTML report to write (default report.html in the folder)')
    cli_options.add_compilation_cache(parser)
    cli_options.add_json(parser)


def _demo(options: argparse.Namespace) -> None:
    cli_options.keep_programs(options)
    from atlas_jax.demo import demo
    # The number of steps is left to the demo's gin file where it is not given.
    figures = demo.demo(options.work, packages_dir=options.packages, countries=options.countries, questions=options.questions,
                        seed=options.seed, report_file=options.report, **cli_options.given(steps=options.steps))
    cli_options.write_json(options.json, figures)
