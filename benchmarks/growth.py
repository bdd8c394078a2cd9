"""How the joint step's time grows with n_context, passage length, batch, and model size, for every side.

    python benchmarks/growth.py --json growth.json --report growth.html

One side at a time, each in its own process.
"""

import pathlib
from typing import Any

import process_pairs
import workload

from atlas_jax.io import atomic
from atlas_jax.report import html

SIDES = ('ours', 'original_200', 'tuned', 'tuned_repaired', 'flat_repaired')
AXES = {'n_context': (1, 5, 10, 20, 40), 'passage_scale': (0.25, 0.5, 1.0, 2.0), 'batch': (1, 2, 4, 8), 'size': ('small', 'base', 'large')}
_NAMES = {'n_context': 'passages an example', 'passage_scale': 'passage length, share of the corpus\'s', 'batch': 'examples',
          'size': 'model (1: small, 2: base, 3: large), batch 1 x 5'}


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
                seconds = _seconds(axis, point, side, options)
                figures['axes'][axis]['seconds'][side].append(seconds)
                print(f'{axis} {point}   {side:18}{seconds:9.3f} s', flush=True)
            if options.json:
                atomic.write_json(options.json, figures)
    if options.report:
        _write_page(options.report, figures)


def _seconds(axis: str, point: Any, side: str, options) -> float:
    """The median step of one side at one point."""
    work = pathlib.Path(options.work)
    size = point if axis == 'size' else options.size
    models = workload.models(size, work, options.models if axis != 'size' else None)
    batch, n_context = (1, 5) if axis == 'size' else workload.STEP_SHAPES[size]
    batch, n_context = (point if axis == 'batch' else batch), (point if axis == 'n_context' else n_context)
    scale = point if axis == 'passage_scale' else 1.0
    limit = max(workload.LIMIT, round(workload.LIMIT * scale))
    if side == 'original_200' and limit > 200:
        side = 'original_512'  # what would not be cut
    arrays = workload.step_arrays(models, batch, n_context, 1, passage_scale=scale, limit=min(limit, 512))
    inputs = process_pairs.save_inputs(work / 'growth.npz', arrays)
    ours = side == 'ours'
    with process_pairs.ours(models, inputs, options.dtype) if ours else process_pairs.theirs(side, models, inputs, options.dtype) as worker:
        return process_pairs.alternate({side: lambda _: worker.ask('step', batch=0)}, options.rounds)[side]['seconds']


def _write_page(path: str, figures: dict[str, Any]) -> None:
    page = html.Report('How the joint train step grows')
    page.paragraph(f'{figures["machine"]["processor"]}, {figures["machine"]["cores"]} cores; seconds of a step.')
    for axis, found in figures['axes'].items():
        points = range(1, len(found['points']) + 1) if axis == 'size' else found['points']
        page.section(axis)
        page.line_chart(f'Step time against {axis}', _NAMES[axis], 'seconds',
                        {side: (points, seconds) for side, seconds in found['seconds'].items()})
        page.table(('side', *map(str, found['points'])), [(side, *seconds) for side, seconds in found['seconds'].items()])
    page.write(path)


if __name__ == '__main__':
    main()
