"""Measures the peak memory of a joint train step, every side in a fresh process.

    python benchmarks/memory.py --size small --json memory.json

Resident bytes of the process: after loading, after the first step (compilation included), after the third. On an accelerator: its own peak.
"""

import pathlib

import process_pairs
import workload

ALL = (process_pairs.OURS_AS_IT_IS, 'original_512', 'original_200', 'tuned', 'tuned_repaired', 'flat_repaired')
_STEPS = 3


def main() -> None:
    """Measures each side and writes its peaks."""
    options = process_pairs.parser(__doc__).parse_args()
    work = pathlib.Path(options.work)
    models = workload.models(options.size, work, options.models)
    batch, n_context = workload.STEP_SHAPES[options.size]
    batch, n_context = options.batch or batch, options.n_context or n_context
    inputs = process_pairs.save_inputs(work / f'memory-{options.size}.npz', workload.step_arrays(models, batch, n_context, 1))
    opponents = ALL if options.opponents is None else options.opponents
    sides = {'ours': process_pairs.ours(models, inputs, options.dtype)}
    for name in opponents:
        sides[name] = (process_pairs.ours(models, inputs, options.dtype, tuned=False) if name == process_pairs.OURS_AS_IT_IS
                       else process_pairs.theirs(name, models, inputs, options.dtype))
    figures = {'size': options.size, 'batch': batch, 'n_context': n_context, 'dtype': options.dtype, 'sides': {},
               'machine': process_pairs.machine()}
    for name, side in sides.items():
        with side as worker:
            found = {'loaded_bytes': worker.ask('memory')['peak_bytes'], 'runs_on': worker.info}
            for number in range(_STEPS):
                worker.ask('step', batch=0)
                if number == 0:
                    found['first_step_bytes'] = worker.ask('memory')['peak_bytes']
            found |= worker.ask('memory')
        figures['sides'][name] = found
        stages = ('loaded_bytes', 'first_step_bytes', 'peak_bytes')
        print(f'{name:26}' + '   '.join(f'{stage} {found[stage] / 2**20:7.0f} MiB' for stage in stages), flush=True)
    kind = 'device_bytes' if 'device_bytes' in figures['sides']['ours'] else 'peak_bytes'
    figures |= {f'ratio_{name}': figures['sides'][name][kind] / figures['sides']['ours'][kind] for name in opponents}
    process_pairs.finish(figures, options, f'Memory of a joint train step, {options.size}', 'MiB', kind, 2**20)


if __name__ == '__main__':
    main()
