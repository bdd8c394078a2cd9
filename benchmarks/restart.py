"""Times how long a run takes to its first step, and what its loop adds to a step.

    python benchmarks/restart.py --json restart.json

The start is a new process, `atlas-jax train` with one step, timed until the step's row can be read: once with an empty cache of compiled
programs, then with the cache filled by the first. The loop trains repeatedly in one process, in turn: each batch made when its step comes,
batches made ahead, and devices waited for once in ten steps. Figures are medians. The model is the tests' tiny one, so a step shows the
host's share.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import process_pairs

from atlas_jax.io import atomic

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOOPS = {'each batch when its step comes': {'prefetch_batches': 0}, 'batches ahead': {},
         'batches ahead, waits once in ten steps': {'log_every_steps': 10}}
_WARM_UP = 10  # steps at the beginning of each run that do not count: the first ones load programs


def main() -> None:
    """Times both and writes the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='of each start and of each loop (default 5)')
    parser.add_argument('--steps', type=int, default=110, help='of a run of the loop (default 110)')
    parser.add_argument('--n_context', type=int, default=2, help='passages that an example reads (default 2); 0 is a closed book')
    parser.add_argument('--json', metavar='FILE', help='file to write the figures to')
    parser.add_argument('--loop', metavar='DIR', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(loops(pathlib.Path(options.loop), options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        prepare(work)
        figures: dict[str, Any] = {'machine': process_pairs.machine(), 'rounds': options.rounds, 'steps': options.steps,
                                   'n_context': options.n_context, 'start': starts(work, options)}
        numbers = [f'--{name}={getattr(options, name)}' for name in ('rounds', 'steps', 'n_context')]
        done = subprocess.run([sys.executable, __file__, '--loop', folder, *numbers], env=_environment(), check=True,
                              stdout=subprocess.PIPE, text=True)
    figures['loop'] = json.loads(done.stdout.splitlines()[-1])
    for cache, found in figures['start'].items():
        print(f'{cache} cache: {found["seconds"]:.1f} s to the first step, of which the step {found["first_step_seconds"]:.1f} s; '
              f'{found["cpu_seconds"]:.1f} CPU s until its end')
    for name, seconds in figures['loop'].items():
        print(f'{name}: {1000 * seconds:.2f} ms a step')
    if options.json:
        atomic.write_json(options.json, figures)


def prepare(work: pathlib.Path) -> None:
    """Writes a model, its index and questions."""
    from tests.testing import tiny_run
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(work / 'model')
    tiny_run.index(atlas, work)
    (work / 'train.jsonl').write_text('\n'.join(map(json.dumps, tiny_run.rows())))


def starts(work: pathlib.Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the seconds of a start with a cold and a warm cache, those of its first step, and processor seconds of the whole process."""
    found: dict[str, list[dict[str, float]]] = {'cold': [], 'warm': []}
    for number in range(options.rounds):
        for cache in found:
            found[cache].append(_start(work, work / f'{cache}-{number}', work / f'cache-{number}', options.n_context))
    return {cache: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for cache, runs in found.items()}


def _start(work: pathlib.Path, run: pathlib.Path, cache: pathlib.Path, n_context: int) -> dict[str, float]:
    given = {'RUN_DIR': run, 'TRAIN_FILE': work / 'train.jsonl', 'MODEL_DIR': work / 'model',
             'train.RunConfig.compilation_cache_dir': cache} | ({'INDEX_DIR': work / 'index'} if n_context else {})
    absent = ('READER_DIR', 'RETRIEVER_DIR', 'INPUTS', 'TASK', *([] if n_context else ['INDEX_DIR']))
    bindings = [*(f"--gin.{name}='{value}'" for name, value in given.items()), *(f'--gin.{name}=None' for name in absent),
                '--gin.TOTAL_STEPS=1', '--gin.train.RunConfig.batch_size=4', f'--gin.N_CONTEXT={n_context}']
    began, cpu = time.perf_counter(), _cpu_seconds()
    with subprocess.Popen([sys.executable, '-m', 'atlas_jax', 'train', '--gin_file', 'runs/few_shot.gin', *bindings], env=_environment(),
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        rows = ''
        while process.poll() is None and not rows.endswith('\n'):
            time.sleep(0.01)
            rows = (run / 'metrics.jsonl').read_text() if (run / 'metrics.jsonl').exists() else ''
        seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f'atlas-jax train ended with code {process.returncode}')
    first_step = json.loads((run / 'metrics.jsonl').read_text())['seconds']
    return {'seconds': seconds, 'first_step_seconds': first_step, 'cpu_seconds': _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    """Returns the processor seconds of all ended child processes; steadier than the clock on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def loops(work: pathlib.Path, options: argparse.Namespace) -> dict[str, float]:
    """Returns the seconds per step of each kind of loop, run in turn."""
    from atlas_jax import partitioning, train
    from atlas_jax.answering import api
    from atlas_jax.training.optimizer import OptimizerConfig
    from tests.testing import tiny_run
    steps = options.steps
    atlas = train.configure(tiny_run.atlas(), partitioning.make_mesh(), options.n_context, dropout_rate=0.0)
    loaded = train.Loaded(atlas, tiny_run.examples(atlas), api.Index.open(work / 'index') if options.n_context else None)
    optimizer = OptimizerConfig(learning_rate=1e-4, retriever_learning_rate=1e-4, schedule='fixed', warmup_steps=0, total_steps=steps)
    found: dict[str, list[float]] = {name: [] for name in LOOPS}
    for number in range(options.rounds):
        for name, changes in LOOPS.items():
            run = train.RunConfig(str(work / f'{name}-{number}'), batch_size=4, checkpoint_every_steps=steps, compilation_cache_dir=None,
                                  **changes)
            rows = train.train_examples(run, loaded, optimizer).history[_WARM_UP:]
            found[name].append(statistics.mean(row['seconds'] for row in rows))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _environment() -> dict[str, str]:
    """Returns an environment with our modules and the tests', and only the cache under test."""
    variables = {name: value for name, value in process_pairs.environment(tuned=True).items()
                 if not name.startswith(('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE'))}
    return variables | {'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, [variables.get('PYTHONPATH')])])}


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))  # the tests' model
    main()
