"""Compare with PyTorch: the same models on the same tokens, number by number, then step time and memory, each side in its own process."""

import dataclasses
import os
import pathlib
import statistics
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.compare import differences as compare_differences
from atlas_jax.compare import inputs as compare_inputs
from atlas_jax.compare import report as compare_report
from atlas_jax.compare import timing as compare_timing
from atlas_jax.compare.pytorch import installed
from atlas_jax.io import atomic
from atlas_jax.runtime import allocator, line_process

OURS, THEIRS = 'atlas_jax.compare.ours', 'atlas_jax.compare.pytorch'
TORCH = 'torch'


@dataclasses.dataclass(frozen=True)
class Models:
    """What to load: a model folder, or a reader's and perhaps a retriever's; `layer_norm` None takes the retriever folder's word."""

    reader: str | None = None
    retriever: str | None = None
    model: str | None = None
    layer_norm: str | None = None

    def __post_init__(self):
        if bool(self.model) == bool(self.reader) or (self.model and self.retriever):
            raise errors.ConfigError('give --model DIR, or --reader DIR and perhaps --retriever DIR')


@dataclasses.dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
      gold_score_mode, temperature_gold, temperature_score: of the distillation loss, as in training.
      dtype: of both sides' activations, and of PyTorch's weights: float32 or bfloat16.
      max_length: of the greedy sequences, the start token counted; 0 generates none.
      grads: gradients too.
      rtol: allowed relative difference in place of the house's bounds.
      rounds: steps of each side that are timed, in turn; 0 times none.
      variant: of PyTorch, see baseline/variants.py.
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
    """Size of random inputs; see compare_inputs.random."""

    batch: int
    n_context: int
    length: int
    batches: int = 1


def compare(models: Models, inputs: compare_inputs.Arrays | str | Random, out: str | os.PathLike, options: Options | None = None,
            against: str = TORCH, report: str | None = None) -> dict[str, Any]:
    """Runs our side, and PyTorch or recorded arrays beside it; prints both tables.

    Args:
      inputs: arrays that compare_inputs has checked, a file of them, or the size of random ones.
      out: our quantities go there, npz.
      against: 'torch', or an npz file of recorded quantities.
      report: an HTML page goes there.

    Returns:
      `agrees`, `differences` (one a quantity), and where steps were timed `ours`, `theirs` and `ratio`.

    Raises:
      ConfigError and its kin, before anything long starts, for what is missing or does not fit together.
    """
    options = options or Options()
    recorded = None
    if against == TORCH:
        installed.require()
    else:
        recorded = read_recorded(against)
    if isinstance(inputs, str):
        inputs = compare_inputs.read(inputs, needs_retriever=models.retriever is not None, needs_targets=options.grads)
    with tempfile.TemporaryDirectory() as folder, line_process.Worker(OURS, tuned_environment()) as ours:
        work = pathlib.Path(folder)
        known = ours.ask('models', **dataclasses.asdict(models))
        if isinstance(inputs, Random):
            inputs = compare_inputs.random(inputs.batch, inputs.n_context, inputs.length, inputs.batches, **known['vocab_sizes'])
        np.savez(work / 'inputs.npz', **inputs)
        common = {'inputs': str(work / 'inputs.npz'), 'dtype': options.dtype, **{name: getattr(options, name) for name in (
            'gold_score_mode', 'temperature_gold', 'temperature_score')}}
        ours_is = ours.ask('inputs', **common)
        ours.ask('outputs', out=os.path.abspath(out), max_length=options.max_length, grads=options.grads)
        found = read_recorded(out)
        if recorded is not None:
            rows = compare_differences.differences(*(_real_states(side, inputs) for side in (found, recorded)), None, options.rtol, against)
            return _finish(rows, {'ours': ours_is}, against, options, report)
        return _finish(*_against_torch(ours, ours_is, known, found, inputs, models, options, common, work), TORCH, options, report)


def _against_torch(ours: line_process.Worker, ours_is: dict[str, Any], known: dict[str, Any], found: Mapping[str, np.ndarray],
                   inputs: compare_inputs.Arrays, models: Models, options: Options, common: dict[str, Any], work: pathlib.Path):
    """(differences, both sides' figures)."""
    folders = ours.ask('export', folder=str(work)) if models.model or not known['hugging_face'] else {
        'reader': models.reader, 'retriever': models.retriever}
    environment = tuned_environment() if options.repaired else allocator.plain_environment(os.environ)
    with line_process.Worker(THEIRS, environment) as theirs:
        theirs_is = theirs.ask('load', **folders, **common, variant=options.variant, flush_denormal=options.repaired,
                               **(known['retriever'] or {}))
        theirs.ask('outputs', out=str(work / 'theirs.npz'), reference=str(work / 'reference.npz'), max_length=options.max_length,
                   grads=options.grads)
        recorded, reference = read_recorded(work / 'theirs.npz'), read_recorded(work / 'reference.npz')
        rows = compare_differences.differences(found, recorded, reference, options.rtol, 'PyTorch')
        sides = {'ours': ours_is, 'theirs': theirs_is}
        if 'target_ids' in inputs and options.rounds:
            _time({'ours': ours, 'theirs': theirs}, sides, inputs, options.rounds)
    return rows, sides


def _time(workers: dict[str, line_process.Worker], sides: dict[str, Any], inputs: compare_inputs.Arrays, rounds: int) -> None:
    """Adds step_seconds (median), tokens_per_second and memory to each side, timed in turn."""
    batches = inputs['reader_ids'].shape[0]
    timed = compare_timing.alternate({name: lambda number, worker=worker: worker.ask('step', batch=number % batches)
                                      for name, worker in workers.items()}, rounds)
    tokens = statistics.mean(int(inputs['reader_mask'][number % batches].sum()) for number in range(rounds))
    for name, worker in workers.items():
        seconds = timed[name]['seconds']
        sides[name] |= {'step_seconds': seconds, 'tokens_per_second': tokens / seconds, **worker.ask('memory')}


def _finish(rows: list[compare_differences.Difference], sides: dict[str, Any], against: str, options: Options,
            report: str | None) -> dict[str, Any]:
    """Prints, writes the report, and gives the figures."""
    figures = {'agrees': all(row.agrees for row in rows), 'against': against,
               'differences': [dataclasses.asdict(row) | {'agrees': row.agrees} for row in rows], **sides}
    if 'step_seconds' in sides['ours']:
        ours, theirs = sides['ours'], sides['theirs']
        memory = 'device_bytes' if 'device_bytes' in ours and 'device_bytes' in theirs else 'peak_bytes'
        figures['ratio'] = {'step_seconds': theirs['step_seconds'] / ours['step_seconds'], memory: theirs[memory] / ours[memory]}
    print(compare_report.as_text(compare_differences.summarised(rows), figures, options.variant, options.repaired))
    if report:
        compare_report.write_page(report, rows, figures, options.variant, options.repaired)
    return figures


def read_recorded(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The quantities of an npz file, `<batch>/<quantity>` to array. Raises InputFileError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError) as error:
        raise errors.InputFileError(path, f'not an npz file of plain arrays ({error})') from error


def tuned_environment() -> dict[str, str]:
    """The environment our command line runs in."""
    return allocator.tuned_environment(os.environ) or dict(os.environ)


def _real_states(side: Mapping[str, np.ndarray], inputs: compare_inputs.Arrays) -> dict[str, np.ndarray]:
    """The quantities with encoder states 0 on padding, whatever was recorded there."""
    result = dict(side)
    for number, mask in enumerate(inputs['reader_mask']):
        states = result.get(f'{number}/encoder_states')
        if states is not None and states.shape[1] == mask[0].size:
            result[f'{number}/encoder_states'] = np.where(mask.reshape(len(mask), -1, 1) > 0, states, 0)
    return result


def raise_unless_agrees(figures: dict[str, Any]) -> None:
    """Raises DifferenceError, exit code 1, naming the quantities that differ by more than is allowed."""
    wrong = [row['quantity'] for row in figures['differences'] if not row['agrees']]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise errors.DifferenceError(f'{", ".join(wrong[:3])}{more} differ by more than is allowed; see the table above')


def save(path: str | None, figures: dict[str, Any]) -> None:
    """Writes the figures as JSON where a path is given."""
    if path:
        atomic.write_json(path, figures)
