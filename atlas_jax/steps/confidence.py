"""The use of a calibration while answering: what it was fitted with against what is asked now, and thresholds."""

from atlas_jax import errors
from atlas_jax.checkpoints.confidence import Calibration, Settings
from atlas_jax.decoding import DecodingConfig
from atlas_jax.steps import prepare
from atlas_jax.tasks.task import Task

HOW_TO = '`atlas-jax calibrate --model RUN --index INDEX --examples FILE`'


def settings_of(task: Task, prepared: prepare.Prepared, decoding: DecodingConfig) -> Settings:
    """Returns how answers are made, as a calibration remembers it."""
    # What decides the signals' sizes: other passages, or another search for them.
    spec, indexes = prepared.spec, () if prepared.index is None else prepared.index.indexes
    infos = [index.index.info() for index in indexes]
    return Settings(tuple(str(index.index.path) for index in indexes), tuple(info['store_fingerprint'] for info in infos),
                    spec.search.searcher, 0 if spec.closed_book else spec.passages_read, decoding.num_beams, type(task).__name__)


def say_differences(calibration: Calibration, now: Settings) -> None:
    """Prints a line, once, where answers are made otherwise than those that the calibration was fitted to."""
    if differing := calibration.settings.differences(now):
        # Both values: the user knows which of them was meant.
        before = calibration.settings
        shown = ', '.join(f'{name} {_shown(before, name)}, now {_shown(now, name)}' for name in differing)
        prepare.say_once(f'the confidence was fitted with {shown}: it may be off; fit it again with {HOW_TO}')


def check(abstain_below: float, calibration: Calibration | None) -> None:
    """Raises ConfigError: no confidence can be below the threshold, or the model has none."""
    # Also false for NaN, which would withhold nothing.
    if not 0 <= abstain_below <= 1:
        raise errors.ConfigError(f'abstain_below is {abstain_below}; it must be from 0 to 1')
    if calibration is None:
        raise errors.ConfigError(f'abstain_below needs a confidence, and the model is not calibrated: {HOW_TO} makes it')


def _shown(settings: Settings, name: str) -> str:
    if name == 'index':
        return ', '.join(settings.indexes) or 'none'
    return str(getattr(settings, name))
