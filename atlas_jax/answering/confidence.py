"""Calibrations while answering: compares their settings with those in use, checks thresholds."""

from atlas_jax import errors
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.checkpoints.calibration import Calibration, CalibrationSettings
from atlas_jax.decoding import DecodingConfig
from atlas_jax.runtime import notes
from atlas_jax.tasks.task import Task

HOW_TO = '`atlas-jax calibrate --model RUN --index INDEX --examples FILE`'


def settings_of(task: Task, prepared: PreparedExamples,
                decoding: DecodingConfig) -> CalibrationSettings:
    """Returns the settings that answers are made with, as a calibration records them."""
    # These decide the signals' sizes: the passages, and the search for them.
    spec, indexes = prepared.spec, () if prepared.index is None else prepared.index.indexes
    infos = [index.index.info() for index in indexes]
    return CalibrationSettings(tuple(str(index.index.path) for index in indexes),
                               tuple(info['store_fingerprint'] for info in infos),
                               spec.search.searcher, 0 if spec.closed_book else spec.passages_read,
                               decoding.num_beams, type(task).__name__)


def say_differences(calibration: Calibration, now: CalibrationSettings) -> None:
    """Notes once which settings differ from those that the calibration was fitted with."""
    if differing := calibration.settings.differences(now):
        # Both values: the user knows which is the intended one.
        before = calibration.settings
        shown = ', '.join(
            f'{name} {_shown(before, name)}, now {_shown(now, name)}' for name in differing)
        notes.say_once(f'the confidence was fitted with {shown}: it may be off; fit it again '
                         f'with {HOW_TO}')


def check(abstain_below: float, calibration: Calibration | None) -> None:
    """Raises ConfigError: the threshold is not a probability, or the model is not calibrated."""
    # Also refuses NaN, which would withhold nothing.
    if not 0 <= abstain_below <= 1:
        raise errors.ConfigError(f'abstain_below is {abstain_below}; it must be from 0 to 1')
    if calibration is None:
        raise errors.ConfigError('abstain_below needs a confidence, and the model is not '
                                 f'calibrated: {HOW_TO} makes it')


def _shown(settings: CalibrationSettings, name: str) -> str:
    if name == 'index':
        return ', '.join(settings.indexes) or 'none'
    return str(getattr(settings, name))
