"""The record of a run: the settings that affect its results, kept in its folder and compared when
the run continues.

    RUN/record.json    {"settings": {name: value}, "changes": [{"step", "name", "before", "now"}]}

Mesh, number of processes, chunks, rematerialisation, intervals and evaluation may change. They
affect at most the rounding and the random numbers of dropout.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from atlas_jax import errors
from atlas_jax.checkpoints import run_folder
from atlas_jax.io.folder import Folder, Place
from atlas_jax.knowledge import group
from atlas_jax.runtime import hosts, notes
from atlas_jax.tasks.task import TaskExample

RECORD_FILE = 'record.json'
_SETTINGS, _CHANGES = 'settings', 'changes'
# Settings that may change: how a step is computed, and properties of the given weights, which a run
# that continues does not read.
_FREE = ('StepConfig.remat', 'StepConfig.attention', 'SearchConfig.tokens',
         'ContrastiveConfig.chunks', 'has_passage_encoder')
# Settings that give a checkpoint's arrays their shapes and their tree.
_FIXED = ('OptimizerConfig.optimizer', 'DistillConfig.retriever_training',
          'DistillConfig.freeze_retriever_steps', 'StepConfig.param_dtype', 'RefreshConfig.',
          'refreshed_index', 'reader.', 'retriever.', 'ContrastiveConfig.method',
          'ContrastiveConfig.queue_size')
_TOTAL_STEPS, _SCHEDULER_STEPS = 'OptimizerConfig.total_steps', 'OptimizerConfig.scheduler_steps'
_LOOSE = ('reader.dropout_rate', 'retriever.dropout_rate', 'reader.dtype', 'retriever.dtype')


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that differs from the run's record; values are JSON values."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f'{self.name} was {_shown(self.before)}, now {_shown(self.now)}'

    @property
    def fits_the_checkpoint(self) -> bool:
        """False if the arrays of a checkpoint would no longer fit."""
        return self.name in _LOOSE or not self.name.startswith(_FIXED)


class Describable(Protocol):
    """A model that can write its folder without the parameters."""

    def description(self) -> dict[str, Any]:
        """Returns the contents of model.json."""
        ...

    def write_description(self, path: Place) -> None:
        """Writes model.json and the tokenizers."""
        ...


def digest(examples: Sequence[TaskExample]) -> str:
    """Returns the number of the training examples and a checksum, whatever their files."""
    checksum = hashlib.sha256()
    for example in examples:
        # The row too: tasks that sample make their examples from it.
        checksum.update(repr((example, example.row)).encode())
    return f'{len(examples)} examples, sha256 {checksum.hexdigest()[:16]}'


def settings(description: Mapping[str, Any], data: str, options: Iterable[Any],
             **others: Any) -> dict[str, Any]:
    """Returns the settings by name, as JSON values.

    Args:
      description: contents of the model's model.json.
      data: identifies the training data, such as the `digest` of the examples.
      options: dataclasses, such as OptimizerConfig; their fields get the names that gin files bind.
      others: further settings by name, such as seed=3.
    """
    found = {'train_file': data, **others}
    for option in options:
        found |= {
            f'{type(option).__name__}.{name}': value
            for name, value in dataclasses.asdict(option).items()}
    # Only the schedule's length affects results, whichever option gives it.
    if steps := found.pop(_SCHEDULER_STEPS, None):
        found[_TOTAL_STEPS] = steps
    # With a fixed rate the number of steps changes no update, unless MoCo's momentum follows the
    # same schedule.
    if found.get('OptimizerConfig.schedule') == 'fixed' and found.get(
            'ContrastiveConfig.momentum_schedule') != 'cosine':
        found.pop(_TOTAL_STEPS)
    return {name: value for name, value in (found | flat(description)).items() if name not in _FREE}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Returns the settings that differ. Names that only one side has are skipped: versions of the
    code differ in them.
    """
    pairs = [(name, before[name], _as_json(value)) for name, value in now.items() if name in before]
    return [Change(name, old, new) for name, old, new in pairs if old != new]


def index_settings(indexes: group.IndexGroup | None, refreshed: bool) -> dict[str, str | None]:
    """Returns the setting that identifies the indexes, by fingerprint and revision. A refreshed
    index is in the checkpoints.
    """
    infos = [] if indexes is None else [part.index.info() for part in indexes.indexes]
    described = [
        f'{info["rows"]} passages in {info["dtype"]}, {info["deleted"]} deleted, '
        f'revision {info["revision"]}, '
        f'store {info["store_fingerprint"]}, model {info["model_fingerprint"]}' for info in infos]
    return {'refreshed_index' if refreshed else 'index': '; '.join(described) or None}


def check(place: Place, now: Mapping[str, Any], step: int, accept: bool) -> list[Change]:
    """Compares the settings with the record of a run after `step` updates; returns the accepted
    changes.

    Raises:
      ConfigError: a setting differs and is not accepted, or cannot change within a run.
        ModelFolderError: the record is damaged.
    """
    folder = Folder(place)
    # Before the first update, settings may still change.
    if step == 0:
        return []
    if not folder.exists(RECORD_FILE):
        notes.say(f'{folder}: no {RECORD_FILE}, since an earlier version began this run: its '
                  'settings are not compared, and these count from now on', to_stdout=True)
        return []
    found = changes(_read(folder)[_SETTINGS], now)
    if stuck := [change for change in found if not change.fits_the_checkpoint]:
        raise errors.ConfigError(f'{folder}: {"; ".join(map(str, stuck))}: a run cannot go on '
                                 'with this, since its checkpoints hold other arrays; give '
                                 'another run_dir, and this folder as its model_dir to start from '
                                 'it')
    if found and not accept:
        raise errors.ConfigError(f'{folder}: holds a run with other settings: '
                                 f'{"; ".join(map(str, found))}; give the same ones, another '
                                 'run_dir, or --accept_changes to go on with the new ones')
    for change in found:
        notes.say(f'{folder}: {change}, from step {step} on', to_stdout=True)
    return found


def write(place: Place, now: Mapping[str, Any], step: int, accepted: Sequence[Change]) -> None:
    """Writes the record; it keeps all accepted changes.

    Raises DiskFullError, StorageError, ModelFolderError.
    """
    folder = Folder(place)
    before = _read(folder)[_CHANGES] if step and folder.exists(RECORD_FILE) else []
    later = [{'step': step, **dataclasses.asdict(change)} for change in accepted]
    folder.write_json(RECORD_FILE, {_SETTINGS: dict(now), _CHANGES: [*before, *later]})


def begin(place: Place, now: Mapping[str, Any], accepted: Sequence[Change], model: Describable,
          begun: Callable[[], None] | None) -> None:
    """Writes model.json and the record when all options are accepted, then calls `begun`. Every
    process of a run must call it.

    Raises ConfigError: the folder holds another model. DiskFullError, StorageError.
    """
    with hosts.together():
        # The first process only: a bucket refuses a file that many write at once.
        if hosts.is_first():
            _write_description(Folder(place), model, bool(accepted))
            write(place, now, run_folder.latest_step(place), accepted)
            if begun is not None:
                begun()


def _write_description(folder: Folder, model: Describable, accepted: bool) -> None:
    """Writes model.json, or refuses to continue in the folder of another model."""
    # Accepted changes change the model's description too.
    if folder.exists(run_folder.MODEL_FILE) and not accepted:
        # Also checks a folder without a record, such as a conversion writes.
        if found := changes(flat(run_folder.read_model_file(folder)), flat(model.description())):
            raise errors.ConfigError(f'{folder}: holds another model: '
                                     f'{"; ".join(map(str, found))}; give another run_dir, or the '
                                     'same settings')
        return
    model.write_description(folder)


def flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Returns nested values by path, such as reader.emb_dim."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f'{prefix}{name}.') if isinstance(value, Mapping) else {
            f'{prefix}{name}': value}
    return found


def _read(folder: Folder) -> dict[str, Any]:
    try:
        values = folder.read_json(RECORD_FILE)
        if not isinstance(values[_SETTINGS], dict) or not isinstance(values[_CHANGES], list):
            raise ValueError('its fields are of other types')
    except (ValueError, TypeError, LookupError, OSError) as error:
        raise errors.ModelFolderError(f'{folder}/{RECORD_FILE}: not a record of a run ({error}); '
                                      'restore it, or take it away to go on without comparing '
                                      'settings') from error
    return values


def _as_json(value: Any) -> Any:
    return [_as_json(part) for part in value] if isinstance(value, tuple | list) else value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'
