"""Measures the cost of keeping passage tokens on the host: training steps with the tables on the device, in the store, and read during a
step.

    python benchmarks/host_tokens.py --demo demo-data --json host_tokens.json

It trains on the folder of `atlas-jax demo`: its models, its first examples, its index. Every side trains a few steps in turn, round after
round, in one process; figures are medians over all steps except each run's first. `overlapped` searches for the next batch with query
embeddings that are one update old (SearchConfig.overlap). The last lines read as many random passages of the store as one step does,
without training.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
import process_pairs

from atlas_jax import train
from atlas_jax.answering import api
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.io import atomic

SIDES = {'device': {}, 'host': {'TOKENS': 'host'}, 'overlapped': {'TOKENS': 'host', 'OVERLAP': True}}


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--demo', default='demo-data', metavar='DIR', help='folder that the demo wrote (default demo-data)')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--n_context', type=int, default=10)
    parser.add_argument('--steps', type=int, default=6, help='of one run, the first not timed (default 6)')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', metavar='FILE', help='figures go there')
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    # No extra round to compile: programs are cached between runs, and the first step is not timed.
    for _ in range(options.rounds):
        for side, macros in SIDES.items():
            seconds[side] += _steps(options, macros)
    medians = {side: statistics.median(found) for side, found in seconds.items()}
    read = _reads(options)
    figures = {'machine': process_pairs.machine(), 'batch': options.batch, 'n_context': options.n_context, 'seconds': medians,
               'steps': len(seconds['device']), 'read_milliseconds': read,
               'overhead': {side: value / medians['device'] - 1 for side, value in medians.items()}}
    for side, value in medians.items():
        print(f'{side:12} {value:8.3f} s a step   {value / medians["device"] - 1:+7.1%}')
    for name, value in read.items():
        print(f'{name:24} {value:8.2f} ms')
    if options.json:
        atomic.write_json(options.json, figures)


def _steps(options: argparse.Namespace, search: dict[str, object]) -> list[float]:
    """Returns the seconds of a run's steps."""
    demo = pathlib.Path(options.demo)
    with tempfile.TemporaryDirectory() as work:
        macros = {'RUN_DIR': f'{work}/run', 'TRAIN_FILE': str(demo / 'train.jsonl'), 'INDEX_DIR': str(demo / 'index'),
                  'READER_DIR': str(demo / 'models' / 'reader'), 'RETRIEVER_DIR': str(demo / 'models' / 'retriever'),
                  'N_CONTEXT': options.n_context, 'TOTAL_STEPS': options.steps, 'train.RunConfig.batch_size': options.batch,
                  'spec.DistillConfig.retriever_training': 'joint', **search}
        gin_parse.parse(['runs/few_shot.gin'], [f'{name}={value!r}' for name, value in macros.items()])
        result = train.train(**gin_parse.arguments_of(train.train))
    return [row['seconds'] for row in result.history[1:]]


def _reads(options: argparse.Namespace) -> dict[str, float]:
    """Returns the milliseconds to read one step's passages in both models' tokens, for chunks read before and not."""
    count, generator = options.batch * options.n_context, np.random.default_rng(0)

    def once(store: api.PassageStore) -> float:
        rows = np.unique(generator.integers(len(store), size=count))
        start = time.perf_counter()
        for side in ('reader', 'retriever'):
            store.token_rows(side, rows, 512, 512)
        return 1000 * (time.perf_counter() - start)

    # A freshly opened store checks the checksum of every chunk again.
    place = api.Index.open(pathlib.Path(options.demo) / 'index').store.path
    first = [once(api.PassageStore.open(place)) for _ in range(5)]
    store = api.PassageStore.open(place)
    again = [once(store) for _ in range(50)]
    return {f'{count} passages, at first': statistics.median(first), f'{count} passages, later': statistics.median(again[10:])}


if __name__ == '__main__':
    main()
