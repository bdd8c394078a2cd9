"""Compares with PyTorch: the same models on the same tokens, number by number, then step time and memory, each side in its own process."""

import dataclasses
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.compare import differences as compare_differences
from atlas_jax.compare import inputs as compare_inputs
from atlas_jax.compare.pytorch import variants
from atlas_jax.io import atomic, npz
from atlas_jax.runtime import allocator, line_process

# Warming up ends with a run that takes at least this share of the run before it, or after so many runs.
_STEADY, _MOST_WARM_UPS = 0.97, 8


def alternate(sides: dict[str, Callable[[int], dict[str, Any]]], rounds: int) -> dict[str, dict[str, Any]]:
    """Times sides in turn: warms each up, then runs them `rounds` times in turn, every turn's first run untimed.

    While one side waits, the system may take its freed memory away, most of all in a virtual machine. The next run then takes up to twice
    as long, on either side; a run without a pause before it does not.

    Args:
      sides: a function for each name; it takes the round's number and returns `seconds` and `cpu_seconds`.

    Returns:
      For each side its median, least and greatest `seconds`, median `cpu_seconds`, `first_seconds`, the losses of the `first` run, the
      median seconds of runs after a pause, and the last answer's other values.
    """
    first = {name: warm_up(run) for name, run in sides.items()}
    paused: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    timed: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            # After the other side's turn: the first run pays for memory that the system took away.
            paused[name].append(run(number))
            timed[name].append(run(number))
    return {name: _summary(first[name], timed[name]) | {'seconds_after_pause': _median(paused[name], 'seconds')} for name in sides}


def warm_up(run: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Runs until a run takes about as long as the one before it; returns the first run's answer."""
    # PyTorch with glibc's own settings is at its best only after four or five steps, for the allocator raises its thresholds as it goes
    # (size small, 8 x 5 passages: 14.3, 13.5, 10.0, 9.0, 8.8, 8.5 s).
    first = run(0)
    seconds: list[float] = []
    while len(seconds) < 2 or (seconds[-1] < _STEADY * seconds[-2] and len(seconds) < _MOST_WARM_UPS):
        seconds.append(run(0)['seconds'])
    return first


def _median(answers: list[dict[str, Any]], name: str) -> float:
    return statistics.median(answer[name] for answer in answers)


def _summary(first: dict[str, Any], timed: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [answer['seconds'] for answer in timed]
    # Losses and tokens are the same in every run; the last one's stand for all.
    rest = {name: value for name, value in timed[-1].items() if name not in ('seconds', 'cpu_seconds')}
    return {'seconds': _median(timed, 'seconds'), 'least_seconds': min(seconds), 'greatest_seconds': max(seconds),
            'cpu_seconds': _median(timed, 'cpu_seconds'), 'first_seconds': first['seconds'],
            'first': {name: value for name, value in first.items() if name.endswith('_loss')}, **rest}


# Each side runs in a process of its own: allocator settings, threads and peak memory of one must not touch the other.
OURS, THEIRS = 'atlas_jax.compare.ours', 'atlas_jax.compare.pytorch'
TORCH = 'torch'


@dataclasses.dataclass(frozen=True)
class Models:
    """The models to load.

    Attributes:
      reader, retriever: folders; the retriever may be left out.
      model: a folder with both, in place of `reader` and `retriever`.
      layer_norm: the retriever's; None uses the retriever folder's setting.

    Raises:
      ConfigError: neither `model` nor `reader` is given, or both.
    """

    reader: str | None = None
    retriever: str | None = None
    model: str | None = None
    layer_norm: str | None = None

    def __post_init__(self):
        if bool(self.model) == bool(self.reader) or (self.model and self.retriever):
            raise errors.ConfigError('give --model DIR, or --reader DIR and perhaps --retriever DIR')


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a comparison.

    Attributes:
      gold_score_mode, temperature_gold, temperature_score: the distillation loss, as in training.
      dtype: float32 or bfloat16, for both sides' activations and PyTorch's weights.
      max_length: length of the greedy sequences, the start token counted; 0 generates none.
      grads: compares gradients too.
      rtol: allowed relative difference in place of the default bounds.
      rounds: timed steps of each side, in turn; 0 times none.
      variant: PyTorch implementation to compare with, see compare/pytorch/variants.py.
      repaired: gives PyTorch our allocator settings and flush-denormal.
    """

    gold_score_mode: str = 'pdist'
    temperature_gold: float = 0.01
    temperature_score: float = 0.01
    dtype: str = 'float32'
    max_length: int = 12
    grads: bool = False
    rtol: float | None = None
    rounds: int = 3
    variant: str = 'tuned'
    repaired: bool = False


@dataclasses.dataclass(frozen=True)
class Random:
    """The size of random inputs; see compare/inputs.py."""

    batch: int
    n_context: int
    length: int
    batches: int = 1


def compare(models: Models, inputs: compare_inputs.Arrays | str | Random, out: str | os.PathLike, options: Options | None = None,
            against: str = TORCH, report: str | None = None) -> dict[str, Any]:
    """Runs our side, and PyTorch or recorded arrays beside it; prints both tables.

    Args:
      inputs: arrays checked by compare/inputs.py, a file of them, or the size of random ones.
      out: npz file for our quantities.
      against: 'torch', or an npz file of recorded quantities.
      report: file for an HTML page.

    Returns:
      `agrees`, `differences` (one a quantity), and where steps were timed `ours`, `theirs` and `ratio`.

    Raises:
      ConfigError: PyTorch is not installed, or models and inputs do not belong together. Raised before anything long starts.
      InputFileError, ModelFolderError: a file or folder is missing or broken.
    """
    options = options or Options()
    recorded = None
    # Looked up before models are loaded, which can take minutes.
    if against == TORCH:
        variants.require_torch()
    else:
        recorded = read_recorded(against)
    if isinstance(inputs, str):
        # Only a retriever that was named must have arrays: with --model they may be those of the reader alone.
        inputs = compare_inputs.read(inputs, needs_retriever=models.retriever is not None, needs_targets=options.grads)
    with tempfile.TemporaryDirectory() as folder, line_process.Worker(OURS, tuned_environment()) as ours:
        work = pathlib.Path(folder)
        # Our side loads first: random inputs need the sizes of its vocabularies.
        known = ours.ask('models', **dataclasses.asdict(models))
        if isinstance(inputs, Random):
            inputs = compare_inputs.random(inputs.batch, inputs.n_context, inputs.length, inputs.batches, **known['vocab_sizes'])
        compare_inputs.write(work / 'inputs.npz', inputs)
        common = {'inputs': str(work / 'inputs.npz'), 'dtype': options.dtype, 'gold_score_mode': options.gold_score_mode,
                  'temperature_gold': options.temperature_gold, 'temperature_score': options.temperature_score}
        ours_is = ours.ask('inputs', **common)
        ours.ask('outputs', out=os.path.abspath(out), max_length=options.max_length, grads=options.grads)
        found = read_recorded(out)
        if recorded is not None:
            # A recording has no float64 values: it is judged by the default bounds.
            rows = compare_differences.differences(_real_states(found, inputs), _real_states(recorded, inputs), None, options.rtol, against)
            return _finish(rows, {'ours': ours_is}, against, options, report)
        # PyTorch's side reads Hugging Face folders alone; other kinds are written as such for it.
        exported = models.model is not None or not known['hugging_face']
        folders = ours.ask('export', folder=folder) if exported else {'reader': models.reader, 'retriever': models.retriever}
        rows, sides = _against_torch(ours, ours_is, {**folders, **(known['retriever'] or {})}, found, inputs, options, common, work)
        return _finish(rows, sides, TORCH, options, report)


def _against_torch(ours: line_process.Worker, ours_is: dict[str, Any], their_models: dict[str, Any], found: Mapping[str, np.ndarray],
                   inputs: compare_inputs.Arrays, options: Options, common: dict[str, Any],
                   work: pathlib.Path) -> tuple[list[compare_differences.Difference], dict[str, Any]]:
    """Runs PyTorch on the same inputs; returns the differences and both sides' figures.

    Args:
      ours_is: our side's device, version and settings.
      their_models: Hugging Face folders, and how the retriever pools and normalises.
      found: our quantities.
      common: the settings that both sides share.
    """
    # As a user starts PyTorch, unless repaired: our command line has set the allocator for itself.
    environment = tuned_environment() if options.repaired else allocator.plain_environment(os.environ)
    with line_process.Worker(THEIRS, environment) as theirs:
        theirs_is = theirs.ask('load', **their_models, **common, variant=options.variant, flush_denormal=options.repaired)
        theirs.ask('outputs', out=str(work / 'theirs.npz'), reference=str(work / 'reference.npz'), max_length=options.max_length,
                   grads=options.grads)
        recorded, reference = read_recorded(work / 'theirs.npz'), read_recorded(work / 'reference.npz')
        rows = compare_differences.differences(found, recorded, reference, options.rtol, 'PyTorch')
        sides = {'ours': ours_is, 'theirs': theirs_is}
        # Without targets there is no loss to take a step on.
        if 'target_ids' in inputs and options.rounds:
            _time({'ours': ours, 'theirs': theirs}, sides, inputs, options.rounds)
    return rows, sides


def _time(workers: dict[str, line_process.Worker], sides: dict[str, Any], inputs: compare_inputs.Arrays, rounds: int) -> None:
    """Adds step_seconds (median), tokens_per_second and memory to each side, timed in turn."""
    batches = inputs['reader_ids'].shape[0]

    def step_of(worker: line_process.Worker) -> Callable[[int], dict[str, Any]]:
        return lambda number: worker.ask('step', batch=number % batches)

    timed = alternate({name: step_of(worker) for name, worker in workers.items()}, rounds)
    # Rounds go through the batches in order, so the tokens of the same batches are averaged.
    tokens = statistics.mean(int(inputs['reader_mask'][number % batches].sum()) for number in range(rounds))
    for name, worker in workers.items():
        seconds = timed[name]['seconds']
        sides[name] |= {'step_seconds': seconds, 'tokens_per_second': tokens / seconds, **worker.ask('memory')}


def _finish(rows: list[compare_differences.Difference], sides: dict[str, Any], against: str, options: Options,
            report: str | None) -> dict[str, Any]:
    """Prints both tables, writes the report and returns the figures."""
    figures = {'agrees': all(row.agrees for row in rows), 'against': against,
               'differences': [dataclasses.asdict(row) | {'agrees': row.agrees} for row in rows], **sides}
    if 'step_seconds' in sides['ours']:
        ours, theirs = sides['ours'], sides['theirs']
        # On accelerators the device's memory is what limits; on a CPU there is only the process's.
        memory = 'device_bytes' if 'device_bytes' in ours and 'device_bytes' in theirs else 'peak_bytes'
        figures['ratio'] = {'step_seconds': theirs['step_seconds'] / ours['step_seconds'], memory: theirs[memory] / ours[memory]}
    print(compare_differences.as_text(compare_differences.summarised(rows), figures, options.variant, options.repaired))
    if report:
        compare_differences.write_page(report, rows, figures, options.variant, options.repaired)
    return figures


def read_recorded(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the quantities of an npz file by name, `<batch>/<quantity>`, such as 0/logits [batch, length, vocab]. Raises InputFileError."""
    try:
        return npz.read(path)
    except (OSError, ValueError) as error:
        raise errors.InputFileError(path, str(error), remedy='write it with numpy.savez') from error


def tuned_environment() -> dict[str, str]:
    """Returns the environment that our command line runs in."""
    return allocator.tuned_environment(os.environ) or dict(os.environ)


def _real_states(side: Mapping[str, np.ndarray], inputs: compare_inputs.Arrays) -> dict[str, np.ndarray]:
    """Returns the quantities with encoder states 0 on padding: a recording may hold any values there."""
    result = dict(side)
    # States on padding mean nothing: one implementation leaves zeros, another whatever it computed.
    for number, mask in enumerate(inputs['reader_mask']):
        states = result.get(f'{number}/encoder_states')
        # states [batch, n * length, dim], mask [batch, n, length].
        if states is not None and states.shape[1] == mask[0].size:
            result[f'{number}/encoder_states'] = np.where(mask.reshape(len(mask), -1, 1) > 0, states, 0)
    return result


def raise_unless_agrees(figures: dict[str, Any]) -> None:
    """Checks the figures. Raises DifferenceError, exit code 1, which names the quantities that differ by more than is allowed."""
    wrong = [row['quantity'] for row in figures['differences'] if not row['agrees']]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise errors.DifferenceError(f'{", ".join(wrong[:3])}{more} differ by more than is allowed; see the table above')


def save(path: str | None, figures: dict[str, Any]) -> None:
    """Writes the figures as JSON, unless the path is None."""
    if path:
        atomic.write_json(path, figures)
