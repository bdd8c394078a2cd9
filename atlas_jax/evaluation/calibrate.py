"""Calibrates the confidence of a model: answers held-out questions and fits the probability that an answer is right."""

import dataclasses
from collections.abc import Sequence

from atlas_jax import api, errors
from atlas_jax.checkpoints import confidence as confidence_file
from atlas_jax.decoding import DecodingConfig
from atlas_jax.io.folder import Place
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import logistic, risk, statistics
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import confidence, prepare, signals
from atlas_jax.tasks.task import TaskExample

FEWEST = 30  # questions: with fewer the share of right answers alone is uncertain by more than a third
METRICS = ('exact_match', 'accuracy')  # 1 or 0 for each answer
PRECISION = 0.95


@dataclasses.dataclass(frozen=True)
class Options:
    """How the questions are answered, and how few there may be.

    n_context, batch_size, decoding, search: as of api.Atlas.answer_examples.
    few: also takes fewer than FEWEST questions.
    """

    n_context: int | None = None
    batch_size: int = 16
    decoding: DecodingConfig | None = None
    search: SearchConfig | str | None = None
    few: bool = False


def calibrate(atlas: api.Atlas, examples: Sequence[TaskExample], index: prepare.Searched, folder: Place,
              options: Options | None = None) -> confidence_file.Calibration:
    """Answers the examples and fits the confidence; nothing is written.

    Args:
      atlas: the model, as it lies in `folder`.
      examples: questions that were not trained on, with their answers.
      index: what to answer from; None is a closed book.
      folder: of the model.

    Raises:
      ConfigError: too few questions, or none that can be right or wrong. IndexFolderError, StoreError.
    """
    options = options or Options()
    checked(atlas, examples, options.few)
    decoding = options.decoding or DecodingConfig()
    # What an earlier calibration says of these settings is of no interest now.
    atlas = dataclasses.replace(atlas, calibration=None)
    answers = list(atlas.answer_examples(examples, index, options.n_context, options.batch_size, 'answering', decoding, options.search,
                                         signals=True))
    prepared = prepare.prepare(atlas, examples, index, prepare.passages_to_read(atlas, index, options.n_context),
                               atlas.whole_batch(options.batch_size), search=options.search)
    return fitted(atlas, examples, answers, confidence.settings_of(atlas.task, prepared, decoding), folder, options.few)


def fitted(atlas: api.Atlas, examples: Sequence[TaskExample], answers: Sequence[api.Answer], settings: confidence_file.Settings,
           folder: Place, few: bool = False) -> confidence_file.Calibration:
    """Fits the confidence to answers that have signals; other arguments as of `calibrate`. Raises ConfigError: as `calibrate`."""
    metric = checked(atlas, examples, few)
    right = [float(answer_metrics.of_text((metric,), answer.generated, example.answers)[metric])
             for answer, example in zip(answers, examples, strict=True)]
    found = [answer.signals or {} for answer in answers]
    # How answers are made decides which signals there are; those that no answer has are no features.
    names = tuple(name for name in signals.NAMES if any(name in each for each in found))
    rows = [confidence_file.features(each, names) for each in found]
    return confidence_file.Calibration(names, logistic.fit(rows, right), settings, metric, len(right), int(sum(right)),
                                       confidence_file.weights_of(folder), _figures(rows, right))


def checked(atlas: api.Atlas, examples: Sequence[TaskExample], few: bool = False) -> str:
    """Returns the metric by which answers are right or wrong, before any is made. Raises ConfigError: see `calibrate`."""
    if any(example.choices for example in examples):
        raise errors.ConfigError('a multiple choice has probabilities of its own (choice_probs in its results); there is nothing to '
                                 'calibrate')
    # F1 and ROUGE are no events: nothing has a probability of .7 F1.
    metric = next((name for name in METRICS if name in atlas.task.metrics), None)
    if metric is None:
        raise errors.ConfigError(f'answers of {type(atlas.task).__name__} are neither right nor wrong (its metrics are '
                                 f'{", ".join(atlas.task.metrics)}); a confidence needs {" or ".join(METRICS)}')
    if unanswered := sum(not example.answers for example in examples):
        raise errors.ConfigError(f'{unanswered} of {len(examples)} questions have no answers; a confidence is fitted to right and wrong '
                                 'answers')
    if len(examples) < FEWEST and not (few and examples):
        raise errors.ConfigError(f'{len(examples)} questions are too few to fit a confidence to, at least {FEWEST} are needed; give more, '
                                 'or --few to fit it all the same')
    return metric


def _figures(rows: Sequence[Sequence[float]], right: Sequence[float]) -> dict[str, float]:
    """Returns what the confidence is worth on questions that it was not fitted to, by cross-validation."""
    low, high = statistics.wilson_interval(int(sum(right)), len(right))
    found = {'right': sum(right) / len(right), 'right_low': low, 'right_high': high}
    if len(right) < 5:  # no five parts
        return found
    held_out = logistic.held_out(rows, right).tolist()
    return found | {'ece': risk.calibration_error(held_out, right), 'aurc': risk.aurc(held_out, right),
                    'coverage_at_95': risk.coverage_at(PRECISION, held_out, right)[0]}
