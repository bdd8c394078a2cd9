"""Retrieve and decode: answers per second against every PyTorch implementation, greedy and with 4 beams.

    python benchmarks/answer.py --size small --json answer.json --report answer.html

A run embeds the queries, searches random embeddings exactly, reads n_context passages with the demo corpus's lengths, and decodes 16
tokens.
"""

import pathlib

import process_pairs
import workload

ALL = ('original_512', 'original_200', 'tuned', 'tuned_repaired')
_BATCHES, _MAX_LENGTH, _PASSAGES = 2, 17, 20000  # 16 tokens after the start token
_SHAPES = {'tiny': (2, 3), 'small': (4, 10), 'base': (2, 10), 'large': (1, 10)}
_DIMS = {'tiny': 24, 'small': 384, 'base': 768, 'large': 768}


def main() -> None:
    """Times answering and writes the ratios."""
    parser = process_pairs.parser(__doc__, rounds=3)
    parser.add_argument('--beams', type=int, nargs='*', default=[1, 4], help='numbers of beams to time (default 1 4)')
    options = parser.parse_args()
    work = pathlib.Path(options.work)
    models = workload.models(options.size, work, options.models)
    batch, n_context = _SHAPES[options.size]
    batch, n_context = options.batch or batch, options.n_context or n_context
    passages = 50 if options.size == 'tiny' else _PASSAGES
    inputs = process_pairs.save_inputs(work / f'answer-{options.size}.npz',
                                       workload.answer_arrays(models, _DIMS[options.size], batch, _BATCHES, passages))
    opponents = ALL if options.opponents is None else options.opponents
    figures = {'size': options.size, 'batch': batch, 'n_context': n_context, 'rounds': options.rounds, 'dtype': options.dtype, 'sides': {}}
    for beams in options.beams:
        kind = 'greedy' if beams == 1 else f'beam{beams}'

        def run(worker, number: int, beams: int = beams):
            return worker.ask('answer', batch=number % _BATCHES, n_context=n_context, max_length=_MAX_LENGTH, beams=beams,
                              limit=workload.LIMIT)

        found = process_pairs.against_each(opponents, models, inputs, options, run, run)
        figures['machine'] = found['machine']
        expected = found['sides']['ours'].pop('tokens')
        found['sides']['ours'].pop('passages')
        for name in opponents:
            side = found['sides'][name]
            side['same_tokens'] = _as_written(side.pop('tokens')) == _as_written(expected)
            side.pop('passages', None)
        figures['sides'] |= {f'{kind} {name}': side for name, side in found['sides'].items()}
        pairs = found['pairs']
        figures |= {f'ratio_{kind}_original_512': pairs.get('original_512'), f'ratio_{kind}_original_200': pairs.get('original_200'),
                    f'ratio_{kind}_tuned': pairs.get('tuned'), f'ratio_{kind}_tuned_repaired': pairs.get('tuned_repaired')}
    process_pairs.finish(figures, options, f'Retrieve and decode, {options.size}, batch {batch} x {n_context}')


def _as_written(sequences: list[list[int]]) -> list[list[int]]:
    """Returns the tokens without start token and padding (both 0)."""
    return [[token for token in sequence if token] for sequence in sequences]


if __name__ == '__main__':
    main()
