"""Measures the cost of an explanation (the drop of likelihood without each passage, the attention to each word) against a plain answer.

    python benchmarks/explain.py --model RUN --index INDEX --examples test.jsonl --n_context 10 --json explain.json

Both answer the same questions in turn, round after round, in one process, after a first round that compiles; figures are the minimum over
the rounds. CPU seconds count all cores and are steadier on a busy machine.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from typing import Any

import process_pairs

from atlas_jax.answering import api, prepare
from atlas_jax.io import atomic
from atlas_jax.tasks.task import TaskExample


def main() -> None:
    """Times both, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, metavar='DIR', help='folder of a model')
    parser.add_argument('--index', required=True, metavar='DIR')
    parser.add_argument('--examples', required=True, metavar='FILE')
    parser.add_argument('--n_context', type=int, nargs='+', default=[2, 10], help='passages read (default 2 10)')
    parser.add_argument('--batch', type=int, nargs='+', default=[1, 8], help='questions at a time (default 1 8)')
    parser.add_argument('--questions', type=int, default=8, help='that are answered in a round (default 8)')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', metavar='FILE', help='figures go there')
    options = parser.parse_args()
    atlas, index = api.Atlas.load(options.model), api.Index.open(options.index)
    examples = prepare.read_examples(atlas, options.examples, max_rows=options.questions)
    rows = [measure(atlas, index, examples, n_context, batch, options.rounds)
            for n_context, batch in itertools.product(options.n_context, options.batch)]
    for row in rows:
        print(f'{row["n_context"]:3} passages, {row["batch"]:2} at a time: {row["plain"]["seconds"]:.3f} s plain, '
              f'{row["explained"]["seconds"]:.3f} s explained, ratio {row["ratio"]:.2f} (CPU {row["cpu_ratio"]:.2f})')
    if options.json:
        atomic.write_json(options.json, {'machine': process_pairs.machine(), 'questions': len(examples), 'rows': rows})


def measure(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample], n_context: int, batch: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds per question, plain and explained, and their ratios."""
    found: dict[str, list[tuple[float, float]]] = {'plain': [], 'explained': []}
    for number in range(rounds + 1):
        for name, times in found.items():
            start, cpu = time.perf_counter(), time.process_time()
            # No signals on either side: a calibrated model would compute them for both.
            answers = list(atlas.answer_examples(examples, index, n_context, batch, explain=name == 'explained', signals=False))
            if number:  # the first round compiles
                times.append(((time.perf_counter() - start) / len(answers), (time.process_time() - cpu) / len(answers)))
    least = {name: {'seconds': min(wall for wall, _ in times), 'cpu_seconds': min(cpu for _, cpu in times)}
             for name, times in found.items()}
    return {'n_context': n_context, 'batch': batch, **least, 'ratio': least['explained']['seconds'] / least['plain']['seconds'],
            'cpu_ratio': least['explained']['cpu_seconds'] / least['plain']['cpu_seconds']}


if __name__ == '__main__':
    main()
