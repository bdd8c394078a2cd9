"""Times the joint pdist step against every PyTorch implementation.

    python benchmarks/train_step.py --size small --json train_step.json --report train_step.html

All sides get the same inputs: random tokens with the demo corpus's lengths, at most 200, with the passages given. A step is forward, gold
scores, backward, clip and AdamW.
"""

import pathlib

import process_pairs
import workload

ALL = (process_pairs.OURS_AS_IT_IS, 'original_512', 'original_200', 'tuned', 'tuned_compiled', 'tuned_repaired', 'tuned_compiled_repaired',
       'flat_repaired', 'flat_compiled_repaired')
_BATCHES = 8  # batches that our capacities are chosen from; every round times another one
_ALONE = ('original_512',)  # 20 GB at size small


def main() -> None:
    """Times the step and writes the ratios."""
    options = process_pairs.parser(__doc__).parse_args()
    work = pathlib.Path(options.work)
    models = workload.models(options.size, work, options.models)
    batch, n_context = workload.STEP_SHAPES[options.size]
    batch, n_context = options.batch or batch, options.n_context or n_context
    inputs = process_pairs.save_inputs(work / f'step-{options.size}.npz', workload.step_arrays(models, batch, n_context, _BATCHES))
    opponents = ALL if options.opponents is None else options.opponents
    figures = process_pairs.against_each(opponents, models, inputs, options, lambda worker, i: worker.ask('step', batch=i % _BATCHES),
                                         lambda worker, i: worker.ask('step', batch=i % _BATCHES), alone=_ALONE)
    pairs = figures['pairs']
    figures |= {'size': options.size, 'batch': batch, 'n_context': n_context, 'rounds': options.rounds, 'dtype': options.dtype}
    figures |= {'ratio_original_512': pairs.get('original_512'), 'ratio_original_200': pairs.get('original_200'),
                'ratio_tuned': process_pairs.fastest(pairs, 'tuned', 'tuned_compiled'),
                'ratio_tuned_repaired': process_pairs.fastest(pairs, 'tuned_repaired', 'tuned_compiled_repaired'),
                'ratio_flat_repaired': process_pairs.fastest(pairs, 'flat_repaired', 'flat_compiled_repaired')}
    process_pairs.finish(figures, options, f'Joint train step, {options.size}, batch {batch} x {n_context}')


if __name__ == '__main__':
    main()
