"""Times the contrastive step of a retriever against PyTorch, with MoCo or in-batch negatives, on the same crops.

    python benchmarks/contrastive.py --size small --method moco --json contrastive.json --report contrastive.html

A step is forward, loss, backward and AdamW; MoCo adds the momentum encoder's forward pass, its update and the queue. Crops have the paper's
lengths: 5 to 50 % of pieces of 256 tokens. PyTorch pads to the longest of the batch, as Contriever's training does, with attention written
out (original) or fused (tuned).
"""

import pathlib

import process_pairs
import workload

from atlas_jax.apps.compare import comparison
from atlas_jax.runtime import line_process

SIDES = ('original', 'tuned')
BATCH = {'tiny': 4, 'small': 32, 'base': 16, 'large': 8}
_BATCHES = 8  # different batches in turn


def main() -> None:
    """Times both sides in turn and writes the ratios."""
    parser = process_pairs.parser(__doc__)
    parser.add_argument('--method', choices=('moco', 'inbatch'), default='moco', help='where negatives come from')
    parser.add_argument('--queue', type=int, help='passages in the queue (default: 64 batches)')
    options = parser.parse_args()
    models = workload.models(options.size, pathlib.Path(options.work), options.models)
    batch = options.batch or BATCH[options.size]
    setting = {'retriever': models.retriever, 'method': options.method, 'batch_size': batch, 'queue_size': options.queue or 64 * batch,
               'batches': _BATCHES, 'dtype': options.dtype}
    sides, pairs = {}, {}
    with line_process.Worker('contrastive_side', process_pairs.environment(True)) as ours:
        ours.ask('load', side='ours', **setting)
        for name in options.opponents if options.opponents is not None else SIDES:
            with line_process.Worker('contrastive_side', process_pairs.environment(False)) as theirs:
                theirs.ask('load', side=name, **setting)
                found = comparison.alternate({'ours': lambda i: ours.ask('step', number=i),
                                              name: lambda i, theirs=theirs: theirs.ask('step', number=i)}, options.rounds)
                found[name] |= theirs.ask('memory')
            pairs[name] = found[name]['seconds'] / found['ours']['seconds']
            first = sides.get('ours', found['ours'])['first']  # compares losses at the initial weights: our side has trained on since
            if 'ours' not in sides or found['ours']['seconds'] < sides['ours']['seconds']:
                sides['ours'] = found['ours'] | {'first': first}
            sides[name] = found[name]
            times = [found[side]['seconds'] for side in (name, 'ours')]
            print(f'{name:10}{times[0]:9.3f} s   ours {times[1]:8.3f} s   ratio {pairs[name]:6.2f}', flush=True)
        sides['ours'] |= ours.ask('memory')
    figures = {'sides': sides, 'pairs': pairs, 'machine': process_pairs.machine(), 'size': options.size, 'method': options.method,
               'batch': batch, 'queue_size': setting['queue_size'], 'rounds': options.rounds, 'dtype': options.dtype,
               **{f'ratio_{name}': ratio for name, ratio in pairs.items()}}
    process_pairs.finish(figures, options, f'Contrastive step, {options.method}, {options.size}, batch {batch}')


if __name__ == '__main__':
    main()
