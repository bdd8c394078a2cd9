"""Measures the cost of keeping the index up to date while training: steps without refresh, and with 1 and 5 % of the index embedded again
each time.

    python benchmarks/refresh.py --demo demo-data --json refresh.json

It trains on the folder of `atlas-jax demo`: its models, its first examples, its index. Every budget trains a few steps in turn, round after
round, in one process with one compiled step. Figures are means over whole steps, refresh included (not every step embeds a block), without
each run's first step; the minimum over the rounds counts.
"""

import argparse
import pathlib
import statistics
import tempfile

import process_pairs

from atlas_jax import train
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.io import atomic
from atlas_jax.runtime import allocator
from atlas_jax.training import refresh

BUDGETS = (0.0, 0.01, 0.05)


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--demo', default='demo-data', metavar='DIR', help='folder that the demo wrote (default demo-data)')
    parser.add_argument('--model', metavar='DIR', help="model to train in place of the demo's; the index must be its own")
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--n_context', type=int, default=10)
    parser.add_argument('--steps', type=int, default=6, help='of one run, the first not timed (default 6)')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--json', metavar='FILE', help='figures go there')
    options = parser.parse_args()
    seconds: dict[float, list[float]] = {budget: [] for budget in BUDGETS}
    for number in range(options.rounds + 1):
        for budget in BUDGETS[:1 if number == 0 else None]:  # the very first run compiles
            found = _steps(options, budget)
            if number:
                seconds[budget].append(found)
    means = {budget: min(found) for budget, found in seconds.items()}
    figures = {'machine': process_pairs.machine(), 'batch': options.batch, 'n_context': options.n_context,
               'seconds': {f'{budget:.0%}': value for budget, value in means.items()},
               'overhead': {f'{budget:.0%}': value / means[0.0] - 1 for budget, value in means.items()}}
    for budget, value in means.items():
        print(f'{budget:4.0%} of the index a step   {value:8.3f} s   {value / means[0.0] - 1:+7.1%}')
    if options.json:
        atomic.write_json(options.json, figures)


def _steps(options: argparse.Namespace, budget: float) -> float:
    """Returns the mean seconds of a step."""
    demo = pathlib.Path(options.demo)
    with tempfile.TemporaryDirectory() as folder:
        macros = {'RUN_DIR': f'{folder}/run', 'TRAIN_FILE': str(demo / 'train.jsonl'), 'INDEX_DIR': str(demo / 'index'),
                  'N_CONTEXT': options.n_context, 'TOTAL_STEPS': options.steps, 'train.RunConfig.batch_size': options.batch,
                  'spec.DistillConfig.retriever_training': 'joint'}
        if options.model:  # it has its own line format
            macros |= {'MODEL_DIR': options.model, 'READER_DIR': None, 'RETRIEVER_DIR': None, 'TASK': None, 'INPUTS': None}
        else:
            macros |= {'READER_DIR': str(demo / 'models' / 'reader'), 'RETRIEVER_DIR': str(demo / 'models' / 'retriever')}
        gin_parse.parse(['runs/few_shot.gin'], [f'{name}={value!r}' for name, value in macros.items()])
        result = train.train(**gin_parse.arguments_of(train.train, refresh=refresh.RefreshConfig(rolling_fraction=budget)))
    return statistics.mean(row['seconds'] for row in result.history[1:])


if __name__ == '__main__':
    allocator.restart_tuned()  # the allocator settings of every command that computes
    main()
