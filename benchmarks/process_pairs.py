"""Runs both sides of a benchmark, each in its own process and environment, in turn on the same work.

Our process stays alive; the opponents come one after another, so at most two processes are in memory and both see the same machine.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import workload

from atlas_jax.apps.compare import comparison
from atlas_jax.io import atomic
from atlas_jax.report import html
from atlas_jax.runtime import allocator, line_process

# name -> (variant of atlas_jax/apps/compare/pytorch/variants.py, whether it gets our allocator settings and flush-denormal)
OPPONENTS = {
    'original_512': ('original_512', False), 'original_200': ('original_200', False), 'original_longest': ('original_longest', False),
    'tuned': ('tuned', False), 'tuned_compiled': ('tuned_compiled', False),
    'tuned_repaired': ('tuned', True), 'tuned_compiled_repaired': ('tuned_compiled', True),
    'flat_repaired': ('flat', True), 'flat_compiled_repaired': ('flat_compiled', True),
}
OURS_AS_IT_IS = 'ours_without_allocator'
_BLAS_GUARDS = ('OPENBLAS_CORETYPE', 'OPENBLAS_L2_SIZE')  # they slow current libraries on either side


def parser(description: str, sizes: Sequence[str] = workload.SIZES, rounds: int = 5) -> argparse.ArgumentParser:
    """Returns the options that every benchmark has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument('--size', choices=sizes, default='small')
    result.add_argument('--rounds', type=int, default=rounds, help=f'timed runs of each side, in turn (default {rounds})')
    result.add_argument('--batch', type=int, help='examples at a time (default: by size)')
    result.add_argument('--n_context', type=int, help='passages an example (default: by size)')
    result.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    result.add_argument('--opponents', nargs='*', metavar='NAME', help='only these')
    result.add_argument('--models', metavar='DIR', help='folder with reader/ and retriever/ to use their weights (default: random weights)')
    result.add_argument('--work', default='benchmark-models', metavar='DIR', help='where random models go (default benchmark-models)')
    result.add_argument('--json', metavar='FILE', help='figures go there')
    result.add_argument('--report', metavar='FILE.html', help='a page with a plot goes there')
    return result


def environment(tuned: bool) -> dict[str, str]:
    """Returns the environment of a side, with or without our allocator settings."""
    plain = {name: value for name, value in allocator.plain_environment(os.environ).items() if name not in _BLAS_GUARDS}
    here = pathlib.Path(__file__).resolve().parent
    plain['PYTHONPATH'] = os.pathsep.join([str(here), str(here.parent), *filter(None, [plain.get('PYTHONPATH')])])
    return (allocator.tuned_environment(plain) or plain) if tuned else plain


@contextlib.contextmanager
def ours(models: workload.Workload, inputs: pathlib.Path, dtype: str = 'float32', tuned: bool = True) -> Iterator[line_process.Worker]:
    """Starts our worker and loads it."""
    with line_process.Worker('our_worker', environment(tuned)) as worker:
        worker.ask('models', reader=models.reader, retriever=models.retriever, model=None, layer_norm=None)
        worker.info = worker.ask('inputs', inputs=str(inputs), dtype=dtype, as_trained=True)
        yield worker


@contextlib.contextmanager
def theirs(name: str, models: workload.Workload, inputs: pathlib.Path, dtype: str = 'float32') -> Iterator[line_process.Worker]:
    """Starts PyTorch's worker as this opponent and loads it."""
    variant, repaired = OPPONENTS[name]
    with line_process.Worker('atlas_jax.apps.compare.pytorch', environment(repaired)) as worker:
        worker.info = worker.ask('load', reader=models.reader, retriever=models.retriever, inputs=str(inputs), variant=variant, dtype=dtype,
                                 flush_denormal=repaired)
        yield worker


def against_each(opponents: Sequence[str], models: workload.Workload, inputs: pathlib.Path, options: argparse.Namespace,
                 our_run: Callable[[line_process.Worker, int], dict], their_run: Callable[[line_process.Worker, int], dict],
                 alone: Sequence[str] = ()) -> dict[str, Any]:
    """Times ours in turn with each opponent.

    Those in `alone` need too much memory to share the machine: each side runs all its rounds by itself, one process after the other.

    Returns:
      `sides`: name -> summary, with 'ours' from its least disturbed pair (lowest median); `pairs`: opponent -> theirs / ours within the
      pair; `device`.
    """
    sides: dict[str, Any] = {}
    pairs: dict[str, float] = {}

    @contextlib.contextmanager
    def side(name: str) -> Iterator[tuple[line_process.Worker, Callable[[int], dict]]]:
        is_ours = name in ('ours', OURS_AS_IT_IS)
        opened = (ours(models, inputs, options.dtype, tuned=name == 'ours') if is_ours
                  else theirs(name, models, inputs, options.dtype))
        with opened as worker:
            yield worker, functools.partial(our_run if is_ours else their_run, worker)

    def add(name: str, found: dict[str, Any]) -> None:
        pairs[name] = found[name]['seconds'] / found['ours']['seconds']
        if 'ours' not in sides or found['ours']['seconds'] < sides['ours']['seconds']:
            # Only the first losses are compared at the initial weights: our process keeps training.
            sides['ours'] = found['ours'] | {'first': sides.get('ours', found['ours'])['first']}
        sides[name] = found[name]
        times = [found[side]['seconds'] for side in (name, 'ours')]
        print(f'{name:26}{times[0]:9.3f} s   ours {times[1]:8.3f} s   ratio {pairs[name]:6.2f}', flush=True)

    for name in (name for name in opponents if name in alone):
        found = {}
        for each in ('ours', name):
            with side(each) as (worker, run):
                found |= comparison.alternate({each: run}, options.rounds)
                found[each] |= worker.ask('memory') | {'runs_on': worker.info}
        add(name, found)
    together = [name for name in opponents if name not in alone]
    if together:
        with side('ours') as (mine, our_turn):
            for name in together:
                with side(name) as (opponent, their_turn):
                    found = comparison.alternate({'ours': our_turn, name: their_turn}, options.rounds)
                    found[name] |= opponent.ask('memory') | {'runs_on': opponent.info}
                add(name, found)
            sides['ours'] |= mine.ask('memory') | {'runs_on': mine.info}
    return {'sides': sides, 'pairs': pairs, 'machine': machine()}


def machine() -> dict[str, Any]:
    """Returns the benchmark's machine: processor, cores and Python version."""
    name = platform.processor()
    with contextlib.suppress(OSError):
        fields = dict(map(str.strip, line.split(':', 1)) for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines() if ':' in line)
        if {'model name', 'cpu family', 'model'} <= fields.keys():  # a virtual machine may report only the maker
            name = f'{fields["model name"]} (family {fields["cpu family"]}, model {fields["model"]})'
    return {'processor': name, 'cores': os.cpu_count(), 'python': platform.python_version()}


def fastest(pairs: dict[str, float], *names: str) -> float | None:
    """Returns the ratio against the fastest of these opponents; None if none of them ran."""
    found = [pairs[name] for name in names if name in pairs]
    return min(found) if found else None


def save_inputs(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes the arrays that both sides load."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def finish(figures: dict[str, Any], options: argparse.Namespace, title: str, label: str = 'seconds', key: str = 'seconds',
           unit: float = 1.0) -> None:
    """Prints the ratios and writes JSON and page on request; the plot shows `key` of every side, divided by `unit`."""
    for name, value in figures.items():
        if isinstance(value, float):
            print(f'{name:32}{value:.3g}')
    if options.json:
        atomic.write_json(options.json, figures)
    if options.report:
        shown = ('seconds', 'least_seconds', 'greatest_seconds', 'cpu_seconds', 'peak_bytes')
        there = [name for name in shown if all(name in side for side in figures['sides'].values())]
        html.write_page(
            options.report, title,
            html.paragraph(f'{figures["machine"]["processor"]}, {figures["machine"]["cores"]} cores; sides in turn, '
                           f'{options.rounds} rounds.'),
            html.bar_chart(title, label, {name: side[key] / unit for name, side in figures['sides'].items()}),
            html.table(('side', *there), [(name, *(side[column] for column in there))
                                          for name, side in figures['sides'].items()]))
