"""The calibration of a model's confidence, a file of its folder: MODEL/confidence.json, listed in MODEL/checksums.json.

MODEL is on a disk or in a bucket. The file names the weights and the settings that it was fitted with. Of other weights it says nothing, so
callers do not use it then.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.checkpoints import run_folder
from atlas_jax.io import contents, schema, untrusted
from atlas_jax.io.folder import Folder, Place
from atlas_jax.metrics.logistic import Logistic

FILE = 'confidence.json'
FORMAT, VERSION = 'atlas_jax confidence', 1
# Signals that are logarithms of probabilities (steps/signals.py), and the largest that is told from certainty in float32.
_LIKELIHOODS = ('log_likelihood', 'log_likelihood_per_token', 'closed_book_log_likelihood')
_CERTAIN = -1e-7
REMEDY = 'run `atlas-jax calibrate` again'
# Anybody may have written the file: sums of larger numbers could overflow.
_MOST = 1e9  # no mean, scale or weight of a fit is as large


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the answers were made that a calibration was fitted to.

    Attributes:
      indexes: folders searched; none for a closed book or the examples' own passages.
      stores: fingerprints of their passages.
      searcher, n_context, num_beams: as they were.
      task: name of the task's class.
    """

    indexes: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    searcher: str = 'exact'
    n_context: int = 0
    num_beams: int = 1
    task: str = ''

    def differences(self, other: 'Settings') -> list[str]:
        """Returns what differs, by name; an index that was moved, or whose passages were changed, is still the same."""
        # A changed index still has its folder, and a moved one its passages; with both gone it is another one.
        found = [name for name in ('searcher', 'n_context', 'num_beams', 'task') if getattr(self, name) != getattr(other, name)]
        same = self.indexes == other.indexes or bool(self.stores) and self.stores == other.stores
        return found if same else ['index', *found]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A regression from signals to the probability that an answer is right.

    Attributes:
      signals: names of the features, in the order of the regression.
      regression: the fit.
      settings: what it was fitted with.
      metric: what counted as right.
      questions, right: their numbers.
      weights: which weights it belongs to, of `weights_of`.
      figures: what a reader may want to know of it, such as the calibration error on questions not fitted to.
    """

    signals: tuple[str, ...]
    regression: Logistic
    settings: Settings
    metric: str
    questions: int
    right: int
    weights: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def confidence(self, signals: Mapping[str, float]) -> float:
        """Returns the probability that an answer with these signals is right; a signal that is missing counts as its mean."""
        return float(self.regression.probabilities([features(signals, self.signals)])[0])


def features(signals: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Returns the regression's features: the signals of these names, log likelihoods as log odds; NaN where one is missing.

    Log likelihoods of -.001 and -.1 lie close together and mean odds of 1000 and 10; the few very unlikely answers would set their scale.
    """
    # NaN stands for what is missing; the regression takes its mean.
    return [_log_odds(signals[name]) if name in signals and name in _LIKELIHOODS else signals.get(name, math.nan) for name in names]


def _log_odds(log_likelihood: float) -> float:
    bounded = min(log_likelihood, _CERTAIN)
    return bounded - math.log(-math.expm1(bounded))


class _Number:
    """A finite number."""

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > _MOST:
            raise ValueError(f'"{where}" is {untrusted.shown(value)}, expected a number')


_NUMBERS = schema.Array(_Number())
_SCHEMA = schema.Record({
    'format': schema.Text(FORMAT, f'"{FORMAT}"'), 'version': schema.Integer(VERSION, VERSION),
    'signals': schema.Array(schema.LINE), 'metric': schema.LINE, 'weights': schema.LINE,
    'questions': schema.Integer(1), 'right': schema.Integer(), 'figures': schema.Table(schema.LINE, _Number()),
    'regression': schema.Record({'means': _NUMBERS, 'scales': _NUMBERS, 'weights': _NUMBERS, 'intercept': _Number()}),
    'settings': schema.Record({'indexes': schema.Array(schema.PATH), 'stores': schema.Array(schema.LINE), 'searcher': schema.LINE,
                               'n_context': schema.Integer(), 'num_beams': schema.Integer(1), 'task': schema.LINE})})


def weights_of(place: Place) -> str:
    """Returns what tells the newest weights of a model folder from others: the checkpoint's step and the digest of its checksums.

    Raises OSError, StorageError.
    """
    step = run_folder.latest_step(place)
    checkpoints = Folder(place) / run_folder.CHECKPOINTS
    checkpoint = checkpoints / f'{step}'
    # Folders from before there were checksums have the step alone.
    return f'{step} {checkpoint.sha256(contents.FILE)}' if checkpoint.exists(contents.FILE) else f'{step}'


def write(place: Place, calibration: Calibration) -> None:
    """Writes the file and lists it. Raises DiskFullError, StorageError, ModelFolderError: the folder's list is damaged."""
    folder = Folder(place)
    folder.write_json(FILE, {'format': FORMAT, 'version': VERSION, **dataclasses.asdict(calibration)})
    # A folder from before there were checksums gets no list: it would look as if all of it were listed.
    if contents.read(folder) is not None:
        contents.add(folder, [FILE])


def remove_unreadable(place: Place) -> None:
    """Removes a calibration that is damaged or of another version, so that a new one can be made."""
    # The command that makes a new one must not be stopped by what it replaces.
    try:
        read(place)
    except errors.ModelFolderError:
        Folder(place).remove(FILE)


def read(place: Place) -> Calibration | None:
    """Returns the calibration of a model folder; None if it was never calibrated.

    Raises ModelFolderError: the file is damaged or of another version.
    """
    folder = Folder(place)
    if not folder.exists(FILE):
        return None
    if contents.is_checking() and (found := contents.damage(folder, (FILE,))):
        raise errors.ModelFolderError(contents.described(found, REMEDY))
    try:
        values = folder.read_json(FILE)
        _SCHEMA.check(values, '')
        regression = values['regression']
        # What the schema cannot say: the regression has a number for each signal.
        if len({len(values['signals']), *(len(regression[name]) for name in ('means', 'scales', 'weights'))}) > 1:
            raise ValueError('as many signals, means, scales and weights are needed')
        if not all(scale > 0 for scale in regression['scales']):
            raise ValueError('a scale is not above 0')
    except ValueError as error:
        raise errors.ModelFolderError(f'{(folder / FILE).path}: {error}; {REMEDY}') from error
    fit = Logistic(tuple(regression['means']), tuple(regression['scales']), tuple(regression['weights']), regression['intercept'])
    given = values['settings']
    settings = Settings(tuple(given['indexes']), tuple(given['stores']), given['searcher'], given['n_context'], given['num_beams'],
                        given['task'])
    made = {name: values[name] for name in ('metric', 'questions', 'right', 'weights', 'figures')}
    return Calibration(tuple(values['signals']), fit, settings, **made)
