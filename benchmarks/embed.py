"""Index building: passages embedded per second against every PyTorch implementation.

    python benchmarks/embed.py --size small --json embed.json --report embed.html

Passages have the demo corpus's lengths, at most 200 tokens. The embeddings of all sides are compared.
"""

import pathlib

import numpy as np
import process_pairs
import workload

# The original pads to text_maxlength, or to the longest of a batch in the store's order; tuned sorts by length and pads to the longest.
ALL = ('original_512', 'original_200', 'original_longest', 'tuned', 'tuned_repaired', 'flat_repaired')
_BATCH = 32
_PASSAGES = {'tiny': 40, 'small': 512, 'base': 96, 'large': 96}


def main() -> None:
    """Times embedding and writes the ratios."""
    parser = process_pairs.parser(__doc__, rounds=3)
    parser.add_argument('--passages', type=int, help='passages to embed (default: by size)')
    options = parser.parse_args()
    work = pathlib.Path(options.work)
    models = workload.models(options.size, work, options.models)
    passages, batch = options.passages or _PASSAGES[options.size], options.batch or _BATCH
    inputs = process_pairs.save_inputs(work / f'embed-{options.size}.npz', workload.embed_arrays(models, passages))
    opponents = ALL if options.opponents is None else options.opponents
    out = {side: str((work / f'embeddings-{side}.npy').resolve()) for side in ('ours', 'theirs')}
    errors: dict[str, float] = {}

    def their_run(worker, _: int):
        answer = worker.ask('embed', batch_size=batch, out=out['theirs'])
        expected = np.load(out['theirs'])
        errors[worker.info['version']] = float(np.abs(np.load(out['ours']) - expected).max() / np.abs(expected).max())
        return answer | {'largest_difference': errors[worker.info['version']]}

    figures = process_pairs.against_each(
        opponents, models, inputs, options, lambda worker, _: worker.ask('embed', max_tokens=workload.LIMIT, out=out['ours']), their_run)
    pairs = figures['pairs']
    for side in figures['sides'].values():
        side['passages_per_second'] = passages / side['seconds']
    figures |= {'size': options.size, 'passages': passages, 'batch': batch, 'rounds': options.rounds, 'dtype': options.dtype}
    figures |= {f'ratio_{name}': pairs.get(name) for name in ALL}
    process_pairs.finish(figures, options, f'Embedding {passages} passages, {options.size}')


if __name__ == '__main__':
    main()
