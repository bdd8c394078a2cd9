"""Measures how the joint step's time grows with n_context, passage length, batch and model size, for every side.

    python benchmarks/growth.py --json growth.json --report growth.html

One side runs at a time, each in its own process. A point that a side lacks the memory for stays empty.
"""

import pathlib
from typing import Any

import process_pairs
import workload

from atlas_jax.apps.compare import comparison
from atlas_jax.io import atomic
from atlas_jax.report import html

SIDES = ('ours', 'original_200', 'tuned', 'tuned_repaired', 'flat_repaired')
AXES = {'n_context': (1, 5, 10, 20, 40), 'passage_scale': (0.25, 0.5, 1.0, 2.0), 'batch': (1, 2, 4, 8), 'size': ('small', 'base', 'large')}
_BATCHES = 8  # batches that our capacities are chosen from; every round times another one
# axis -> (batch, n_context) where it is not the axis itself: at most 40 passages, which fit in 24 GB on every side
_SHAPES = {'n_context': (1, 0), 'passage_scale': (2, 10), 'batch': (0, 5), 'size': (1, 5)}
_NAMES = {'n_context': 'passages an example, batch 1', 'passage_scale': 'passage length, share of the corpus\'s, batch 2 x 10',
          'batch': 'examples of 5 passages', 'size': 'model (1: small, 2: base, 3: large), batch 1 x 5'}


def main() -> None:
    """Times every point and draws the curves."""
    parser = process_pairs.parser(__doc__, rounds=2)
    parser.add_argument('--axes', nargs='*', choices=AXES, default=list(AXES), help='only these')
    parser.add_argument('--points', type=int, help='only the first so many points of each axis')
    options = parser.parse_args()
    sides = SIDES if options.opponents is None else ('ours', *options.opponents)
    figures: dict[str, Any] = {'machine': process_pairs.machine(), 'size': options.size, 'axes': {}}
    for axis in options.axes:
        points = AXES[axis][:options.points] if axis != 'size' or options.size != 'tiny' else ('tiny',)
        figures['axes'][axis] = {'points': points, 'seconds': {side: [] for side in sides}}
        for point in points:
            for side in sides:
                try:
                    seconds = _seconds(axis, point, side, options)
                except RuntimeError as problem:  # the worker died, most likely for lack of memory
                    seconds = None
                    print(f'{axis} {point}   {side:18}{problem}', flush=True)
                else:
                    print(f'{axis} {point}   {side:18}{seconds:9.3f} s', flush=True)
                figures['axes'][axis]['seconds'][side].append(seconds)
            if options.json:
                atomic.write_json(options.json, figures)
    if options.report:
        _write_page(options.report, figures)


def _seconds(axis: str, point: Any, side: str, options) -> float:
    """Returns the median step of one side at one point."""
    work = pathlib.Path(options.work)
    size = point if axis == 'size' else options.size
    models = workload.models(size, work, options.models if axis != 'size' else None)
    batch, n_context = (shape or point for shape in _SHAPES[axis])
    scale = point if axis == 'passage_scale' else 1.0
    limit = max(workload.LIMIT, round(workload.LIMIT * scale))
    if side == 'original_200' and limit > 200:
        side = 'original_512'  # a limit of 200 would cut these passages
    arrays = workload.step_arrays(models, batch, n_context, _BATCHES, passage_scale=scale, limit=min(limit, 512))
    inputs = process_pairs.save_inputs(work / 'growth.npz', arrays)
    ours = side == 'ours'
    with process_pairs.ours(models, inputs, options.dtype) if ours else process_pairs.theirs(side, models, inputs, options.dtype) as worker:
        found = comparison.alternate({side: lambda number: worker.ask('step', batch=number % _BATCHES)}, options.rounds)
        return found[side]['seconds']


def _write_page(path: str, figures: dict[str, Any]) -> None:
    sections = []
    for axis, found in figures['axes'].items():
        points = range(1, len(found['points']) + 1) if axis == 'size' else found['points']
        there = {side: [pair for pair in zip(points, seconds, strict=True) if pair[1] is not None]
                 for side, seconds in found['seconds'].items()}
        sections.append(html.section(
            axis,
            html.line_chart(f'Step time against {axis}', _NAMES[axis], 'seconds',
                            {side: tuple(zip(*pairs, strict=True)) for side, pairs in there.items() if pairs}),
            html.table(('side', *map(str, found['points'])),
                       [(side, *('no memory' if value is None else value for value in seconds))
                        for side, seconds in found['seconds'].items()])))
    html.write_page(
        path, 'How the joint train step grows',
        html.paragraph(f'{figures["machine"]["processor"]}, {figures["machine"]["cores"]} cores; seconds of a step.'), *sections)


if __name__ == '__main__':
    main()
