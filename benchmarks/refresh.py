"""What it costs to keep the index up while training: a step with no refresh, and with 1 and 5 % of the index embedded again after each.

    python benchmarks/refresh.py --demo demo-data --json refresh.json

Trains on the folder of `atlas-jax demo`: its models, its first examples, its index. Every budget trains a few steps in turn, round after
round, in one process with one compiled step; figures are medians of whole steps, refresh included, each run's first step left out.
"""

import argparse
import pathlib
import statistics
import tempfile

import process_pairs

from atlas_jax import train
from atlas_jax.io import atomic
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig

BUDGETS = (0.0, 0.01, 0.05)


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--demo', default='demo-data', metavar='DIR', help='folder that the demo wrote (default demo-data)')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--n_context', type=int, default=10)
    parser.add_argument('--steps', type=int, default=6, help='of one run, the first not timed (default 6)')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--json', metavar='FILE', help='figures go there')
    options = parser.parse_args()
    seconds: dict[float, list[float]] = {budget: [] for budget in BUDGETS}
    for number in range(options.rounds + 1):
        for budget in BUDGETS[:1 if number == 0 else None]:  # the first run of all compiles
            found = _steps(options, budget)
            if number:
                seconds[budget] += found
    medians = {budget: statistics.median(found) for budget, found in seconds.items()}
    figures = {'machine': process_pairs.machine(), 'batch': options.batch, 'n_context': options.n_context,
               'seconds': {f'{budget:.0%}': value for budget, value in medians.items()},
               'overhead': {f'{budget:.0%}': value / medians[0.0] - 1 for budget, value in medians.items()}}
    for budget, value in medians.items():
        print(f'{budget:4.0%} of the index a step   {value:8.3f} s   {value / medians[0.0] - 1:+7.1%}')
    if options.json:
        atomic.write_json(options.json, figures)


def _steps(options: argparse.Namespace, budget: float) -> list[float]:
    """Seconds from the end of one step to the end of the next."""
    demo = pathlib.Path(options.demo)
    with tempfile.TemporaryDirectory() as folder:
        run = train.RunConfig(run_dir=str(pathlib.Path(folder) / 'run'), batch_size=options.batch, dropout_rate=0.0,
                              checkpoint_every_steps=options.steps)
        optimizer = OptimizerConfig(learning_rate=1e-4, retriever_learning_rate=1e-5, schedule='fixed', warmup_steps=0,
                                    total_steps=options.steps)
        result = train.train(run, str(demo / 'train.jsonl'), optimizer, str(demo / 'index'), options.n_context,
                             reader_dir=str(demo / 'models' / 'reader'), retriever_dir=str(demo / 'models' / 'retriever'),
                             max_examples=options.batch * options.steps, refresh=refresh.RefreshConfig(rolling_fraction=budget))
    return [row['seconds'] for row in result.history[1:]]


if __name__ == '__main__':
    main()
