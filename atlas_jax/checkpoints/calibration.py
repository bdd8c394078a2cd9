"""The calibration of a model's confidence, a file of its folder: MODEL/confidence.json, listed in
MODEL/checksums.json.

MODEL is on a disk or in a bucket. The file names the weights and the settings that it was fitted
with. It says nothing about other weights, so callers do not use it with them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from atlas_jax import errors
from atlas_jax.checkpoints import run_folder
from atlas_jax.io import contents, schema
from atlas_jax.io.folder import Folder, Place
from atlas_jax.metrics.logistic import Logistic

FILE = 'confidence.json'
FORMAT, VERSION = 'atlas_jax confidence', 1
# Signals that are logarithms of probabilities (answering/signals.py), and the largest of them that
# float32 tells from certainty.
_LIKELIHOODS = ('log_likelihood', 'log_likelihood_per_token', 'closed_book_log_likelihood')
_CERTAIN = -1e-7
REMEDY = 'run `atlas-jax calibrate` again'


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """The settings that made the answers of a calibration.

    Attributes:
      indexes: folders searched; empty for a closed book or the examples' own passages.
      stores: fingerprints of their passages.
      searcher: name of the searcher.
      n_context: passages read.
      num_beams: beams of the decoder.
      task: name of the task's class.
    """

    indexes: tuple[schema.Path, ...] = ()
    stores: tuple[str, ...] = ()
    searcher: str = 'exact'
    n_context: int = 0
    num_beams: schema.Positive = 1
    task: str = ''

    def differences(self, other: 'CalibrationSettings') -> list[str]:
        """Returns the names of the settings that differ.

        An index is the same if either its folder or its passages are the same: it may have been
        moved, or its passages may have changed.
        """
        found = [
            name for name in ('searcher', 'n_context', 'num_beams', 'task')
            if getattr(self, name) != getattr(other, name)]
        same = self.indexes == other.indexes or bool(self.stores) and self.stores == other.stores
        return found if same else ['index', *found]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A regression from signals to the probability that an answer is right.

    Attributes:
      signals: names of the features, in the order of the regression.
      regression: the fit.
      settings: settings that made the answers.
      metric: metric by which an answer counts as right.
      questions, right: number of questions, and of right answers.
      weights: the weights it belongs to, from `weights_of`.
      figures: figures for readers, such as the calibration error on held-out questions.
    """

    signals: tuple[str, ...]
    regression: Logistic
    settings: CalibrationSettings
    metric: str
    questions: schema.Positive
    right: int
    weights: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def confidence(self, signals: Mapping[str, float]) -> float:
        """Returns the probability that an answer with these signals is right.

        A missing signal counts as its mean.
        """
        return float(self.regression.probabilities([features(signals, self.signals)])[0])


_SHAPE = schema.ObjectOf({
    'format': schema.Text(FORMAT, f'"{FORMAT}"'), 'version': schema.Integer(VERSION, VERSION),
    **schema.object_of(Calibration).fields})


def features(signals: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Returns the regression's features: the signals of these names, with log likelihoods as log
    odds. NaN marks missing signals; the regression takes the mean for them.

    Log likelihoods of -.001 and -.1 lie close together, yet they mean odds of 1000 and 10. The few
    very unlikely answers would set their scale.
    """
    return [
        _log_odds(signals[name]) if name in signals and name in _LIKELIHOODS else signals.get(
            name, math.nan) for name in names]


def _log_odds(log_likelihood: float) -> float:
    bounded = min(log_likelihood, _CERTAIN)
    return bounded - math.log(-math.expm1(bounded))


def weights_of(place: Place) -> str:
    """Returns a text that changes with the newest weights of a model folder: the checkpoint's step
    and the digest of its checksums.

    Raises OSError, StorageError.
    """
    step = run_folder.latest_step(place)
    checkpoints = Folder(place) / run_folder.CHECKPOINTS
    checkpoint = checkpoints / f'{step}'
    # Folders written before there were checksums have only the step.
    return f'{step} {checkpoint.sha256(contents.FILE)}' if checkpoint.exists(
        contents.FILE) else f'{step}'


def write(place: Place, calibration: Calibration) -> None:
    """Writes the file and lists it.

    Raises DiskFullError, StorageError, ModelFolderError: the folder's list is damaged.
    """
    folder = Folder(place)
    folder.write_json(FILE,
                      {'format': FORMAT, 'version': VERSION, **dataclasses.asdict(calibration)})
    # A folder written before there were checksums gets no list: it would look as if the list named
    # every file.
    if contents.read(folder) is not None:
        contents.add(folder, [FILE])


def remove_unreadable(place: Place) -> None:
    """Removes a calibration that is damaged or of another version.

    Otherwise it would stop the command that replaces it.
    """
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
        body = folder.read_json(FILE)
        _SHAPE.check(body)
        values = {name: each for name, each in body.items() if name not in ('format', 'version')}
        calibration: Calibration = schema.build(Calibration, values)
        fit = calibration.regression
        if {len(fit.means), len(fit.scales), len(fit.weights)} != {len(calibration.signals)}:
            raise ValueError('as many signals, means, scales and weights are needed')
        if not all(scale > 0 for scale in fit.scales):
            raise ValueError('a scale is not above 0')
    except ValueError as error:
        raise errors.ModelFolderError(f'{(folder / FILE).path}: {error}; {REMEDY}') from error
    return calibration
