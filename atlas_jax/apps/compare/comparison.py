"""Compares with PyTorch: the same models on the same tokens, number by number, then step time and
memory. Each side runs in its own process.
"""

import dataclasses
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.apps.compare import differences as compare_differences
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.apps.compare.pytorch import variants
from atlas_jax.io import atomic, npz
from atlas_jax.runtime import allocator, line_process

# Warming up ends when a run takes at least this share of the run before it, or after this many
# runs.
_STEADY, _MOST_WARM_UPS = 0.97, 8


def alternate(sides: dict[str, Callable[[int], dict[str, Any]]],
              rounds: int) -> dict[str, dict[str, Any]]:
    """Times sides in turn: warms each up, then gives each `rounds` turns of two runs, of which the
    second is timed.

    While one side waits, the system may take its freed memory away, above all in a virtual machine.
    The next run of either side then takes up to twice as long; a run right after another does not.

    Args:
      sides: a function for each name; it takes the round's number and returns `seconds` and
        `cpu_seconds`.
      rounds: turns of each side.

    Returns:
      For each side the median, least and greatest `seconds`, median `cpu_seconds`, `first_seconds`,
      the losses of the `first` run, the median seconds of runs after a pause, and the other values
      of the last run.
    """
    first = {name: warm_up(run) for name, run in sides.items()}
    paused: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    timed: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            # After the other side's turn, the first run pays for memory that the system took away.
            paused[name].append(run(number))
            timed[name].append(run(number))
    return {
        name: _summary(first[name], timed[name])
        | {'seconds_after_pause': _median(paused[name], 'seconds')} for name in sides}


def warm_up(run: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Runs until a run takes about as long as the one before; returns the first run's answer."""
    # With glibc's own settings PyTorch reaches its speed after four or five steps, because the
    # allocator raises its thresholds (size small, 8 x 5 passages: 14.3, 13.5, 10.0, 9.0, 8.8,
    # 8.5 s).
    first = run(0)
    seconds: list[float] = []
    while len(seconds) < 2 or (seconds[-1] < _STEADY * seconds[-2]
                               and len(seconds) < _MOST_WARM_UPS):
        seconds.append(run(0)['seconds'])
    return first


def _median(answers: list[dict[str, Any]], name: str) -> float:
    return statistics.median(answer[name] for answer in answers)


def _summary(first: dict[str, Any], timed: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [answer['seconds'] for answer in timed]
    # Losses and tokens are the same in every run, so the last run's are returned.
    rest = {
        name: value for name, value in timed[-1].items() if name not in ('seconds', 'cpu_seconds')}
    return {
        'seconds': _median(timed, 'seconds'), 'least_seconds': min(seconds),
        'greatest_seconds': max(seconds), 'cpu_seconds': _median(timed, 'cpu_seconds'),
        'first_seconds': first['seconds'],
        'first': {name: value for name, value in first.items() if name.endswith('_loss')}, **rest}


# Each side runs in a process of its own, so that allocator settings, threads and peak memory of one
# do not affect the other.
OURS, THEIRS = 'atlas_jax.apps.compare.ours', 'atlas_jax.apps.compare.pytorch'
TORCH = 'torch'
# Options that both sides get.
_SHARED = ('dtype', 'gold_score_mode', 'temperature_gold', 'temperature_score')


@dataclasses.dataclass(frozen=True)
class Models:
    """The models to load.

    Attributes:
      reader, retriever: folders; the retriever may be left out.
      model: a folder with both, in place of `reader` and `retriever`.
      layer_norm: layer norm of the retriever; None uses the retriever folder's setting.

    Raises:
      ConfigError: neither `model` nor `reader` is given, or both.
    """

    reader: str | None = None
    retriever: str | None = None
    model: str | None = None
    layer_norm: str | None = None

    def __post_init__(self):
        if bool(self.model) == bool(self.reader) or (self.model and self.retriever):
            raise errors.ConfigError(
                'give --model DIR, or --reader DIR and perhaps --retriever DIR')


@dataclasses.dataclass(frozen=True)
class ComparisonOptions:
    """Settings of a comparison.

    Attributes:
      gold_score_mode, temperature_gold, temperature_score: the distillation loss, as in training.
      dtype: float32 or bfloat16, for both sides' activations and PyTorch's weights.
      max_length: length of the greedy sequences with the start token; 0 generates none.
      grads: True compares gradients too.
      rtol: allowed relative difference in place of the default bounds.
      rounds: timed steps of each side, in turn; 0 times no steps.
      variant: PyTorch implementation to compare with, see apps/compare/pytorch/variants.py.
      repaired: True gives PyTorch our allocator settings and flush-denormal.
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
    """Sizes of random inputs; see apps/compare/token_arrays.py."""

    batch: int
    n_context: int
    length: int
    batches: int = 1


def compare(models: Models, inputs: compare_inputs.Arrays | str | Random, out: str | os.PathLike,
            options: ComparisonOptions | None = None, against: str = TORCH,
            report: str | None = None) -> dict[str, Any]:
    """Runs our side, compares it with PyTorch or recorded arrays, and prints both tables.

    Args:
      models: the models that both sides load.
      inputs: arrays checked by token_arrays.py, a file of them, or the sizes of random ones.
      out: npz file for our quantities.
      options: settings; None takes the defaults.
      against: 'torch', or an npz file of recorded quantities.
      report: file for an HTML page.

    Returns:
      `agrees`, `differences` (one for each quantity), `ours`, `theirs` for PyTorch, and `ratio` if
      steps were timed.

    Raises:
      ConfigError: PyTorch is not installed, or models and inputs do not fit each other. Raised
        before anything slow starts.
      InputFileError, ModelFolderError: a file or folder is missing or broken.
    """
    options = options or ComparisonOptions()
    # Check the other side before loading models, which can take minutes.
    if against == TORCH:
        variants.require_torch()
    recorded = None if against == TORCH else read_recorded(against)
    if isinstance(inputs, str):
        # A named retriever must have arrays; with --model the arrays may be those of the reader
        # alone.
        inputs = compare_inputs.read(inputs, needs_retriever=models.retriever is not None,
                                     needs_targets=options.grads)
    with (tempfile.TemporaryDirectory() as folder,
          line_process.Worker(OURS, tuned_environment()) as ours):
        work = pathlib.Path(folder)
        # Our side loads first: random inputs need the sizes of its vocabularies.
        known = ours.ask('models', **dataclasses.asdict(models))
        if isinstance(inputs, Random):
            inputs = compare_inputs.random(inputs.batch, inputs.n_context, inputs.length,
                                           inputs.batches, **known['vocab_sizes'])
        compare_inputs.write(work / 'inputs.npz', inputs)
        common = {name: getattr(options, name) for name in _SHARED}
        common['inputs'] = str(work / 'inputs.npz')
        ours_is = ours.ask('inputs', **common)
        ours.ask('outputs', out=os.path.abspath(out), max_length=options.max_length,
                 grads=options.grads)
        found = read_recorded(out)
        if recorded is not None:
            # A recording has no float64 values, so the default bounds apply.
            ours_real, theirs_real = (_real_states(side, inputs) for side in (found, recorded))
            rows = compare_differences.differences(ours_real, theirs_real, None, options.rtol,
                                                   against)
            return _finish(rows, {'ours': ours_is}, against, options, report)
        # PyTorch's side reads only Hugging Face folders; other models are exported for it.
        exported = models.model is not None or not known['hugging_face']
        folders = ours.ask('export', folder=folder) if exported else {
            'reader': models.reader, 'retriever': models.retriever}
        rows, sides = _against_torch(ours, ours_is, {**folders, **(known['retriever'] or {})},
                                     found, inputs, options, common, work)
        return _finish(rows, sides, TORCH, options, report)


def _against_torch(
        ours: line_process.Worker, ours_is: dict[str, Any], their_models: dict[str, Any],
        found: Mapping[str, np.ndarray], inputs: compare_inputs.Arrays, options: ComparisonOptions,
        common: dict[str, Any],
        work: pathlib.Path) -> tuple[list[compare_differences.Difference], dict[str, Any]]:
    """Runs PyTorch on the same inputs; returns the differences and both sides' figures.

    Args:
      ours: our worker.
      ours_is: our side's device, version and settings.
      their_models: Hugging Face folders, and how the retriever pools and normalises.
      found: our quantities.
      inputs: the arrays.
      options: settings of the comparison.
      common: the settings that both sides share.
      work: folder for files.
    """
    # Unless repaired, PyTorch gets the environment that a user starts it in: our command line has
    # set its allocator.
    environment = tuned_environment() if options.repaired else allocator.plain_environment(
        os.environ)
    with line_process.Worker(THEIRS, environment) as theirs:
        theirs_is = theirs.ask('load', **their_models, **common, variant=options.variant,
                               flush_denormal=options.repaired)
        theirs.ask('outputs', out=str(work / 'theirs.npz'), reference=str(work / 'reference.npz'),
                   max_length=options.max_length, grads=options.grads)
        recorded, reference = read_recorded(work / 'theirs.npz'), read_recorded(
            work / 'reference.npz')
        rows = compare_differences.differences(found, recorded, reference, options.rtol, 'PyTorch')
        sides = {'ours': ours_is, 'theirs': theirs_is}
        # Without targets there is no loss to take a step on.
        if 'target_ids' in inputs and options.rounds:
            _time({'ours': ours, 'theirs': theirs}, sides, inputs, options.rounds)
    return rows, sides


def _time(workers: dict[str, line_process.Worker], sides: dict[str, Any],
          inputs: compare_inputs.Arrays, rounds: int) -> None:
    """Adds step_seconds (median), tokens_per_second and memory to each side, timed in turn."""
    batches = inputs['reader_ids'].shape[0]

    def step_of(worker: line_process.Worker) -> Callable[[int], dict[str, Any]]:
        return lambda number: worker.ask('step', batch=number % batches)

    timed = alternate({name: step_of(worker) for name, worker in workers.items()}, rounds)
    # Rounds go through the batches in order, so these are the tokens of the timed batches.
    tokens = statistics.mean(
        int(inputs['reader_mask'][number % batches].sum()) for number in range(rounds))
    for name, worker in workers.items():
        seconds = timed[name]['seconds']
        sides[name] |= {
            'step_seconds': seconds, 'tokens_per_second': tokens / seconds, **worker.ask('memory')}


def _finish(rows: list[compare_differences.Difference], sides: dict[str, Any], against: str,
            options: ComparisonOptions, report: str | None) -> dict[str, Any]:
    """Prints both tables, writes the report and returns the figures."""
    figures = {
        'agrees': all(row.agrees for row in rows), 'against': against,
        'differences': [dataclasses.asdict(row) | {'agrees': row.agrees} for row in rows], **sides}
    if 'step_seconds' in sides['ours']:
        ours, theirs = sides['ours'], sides['theirs']
        # On accelerators the device's memory is the limit; on a CPU there is only the process's.
        on_devices = 'device_bytes' in ours and 'device_bytes' in theirs
        memory = 'device_bytes' if on_devices else 'peak_bytes'
        figures['ratio'] = {
            'step_seconds': theirs['step_seconds'] / ours['step_seconds'],
            memory: theirs[memory] / ours[memory]}
    print(compare_differences.as_text(compare_differences.summarised(rows), figures,
                                      options.variant, options.repaired))
    if report:
        compare_differences.write_page(report, rows, figures, options.variant, options.repaired)
    return figures


def read_recorded(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the quantities of an npz file by name, `<batch>/<quantity>`, such as 0/logits [batch,
    length, vocab]. Raises InputFileError.
    """
    try:
        return npz.read(path)
    except (OSError, ValueError) as error:
        raise errors.InputFileError(path, str(error), remedy='write it with numpy.savez') from error


def tuned_environment() -> dict[str, str]:
    """Returns the environment that our command line runs in."""
    return allocator.tuned_environment(os.environ) or dict(os.environ)


def _real_states(side: Mapping[str, np.ndarray],
                 inputs: compare_inputs.Arrays) -> dict[str, np.ndarray]:
    """Returns the quantities with encoder states set to 0 on padding."""
    result = dict(side)
    # States on padding mean nothing: some implementations leave zeros, others computed values.
    for number, mask in enumerate(inputs['reader_mask']):
        states = result.get(f'{number}/encoder_states')
        # states [batch, n * length, dim], mask [batch, n, length].
        if states is not None and states.shape[1] == mask[0].size:
            result[f'{number}/encoder_states'] = np.where(
                mask.reshape(len(mask), -1, 1) > 0, states, 0)
    return result


def raise_unless_agrees(figures: dict[str, Any]) -> None:
    """Raises DifferenceError (exit code 1), which names the quantities that differ by more than is
    allowed.
    """
    wrong = [row['quantity'] for row in figures['differences'] if not row['agrees']]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise errors.DifferenceError(f'{", ".join(wrong[:3])}{more} differ by more than is '
                                     'allowed; see the table above')


def save(path: str | None, figures: dict[str, Any]) -> None:
    """Writes the figures as JSON, unless the path is None."""
    if path:
        atomic.write_json(path, figures)
