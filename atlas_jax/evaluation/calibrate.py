"""Calibrates a model's confidence on held-out questions: fits the probability of a right answer."""

import dataclasses
from collections.abc import Sequence

from atlas_jax import errors, types
from atlas_jax.answering import api, confidence, prepare, signals
from atlas_jax.checkpoints import calibration as confidence_file
from atlas_jax.decoding import DecodingConfig
from atlas_jax.io.folder import Place
from atlas_jax.knowledge import group
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import logistic, risk, statistics
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tasks.task import TaskExample

# Fewest questions: with less, even the share of right answers is uncertain by over a third.
FEWEST = 30
METRICS = ('exact_match', 'accuracy')  # 1 or 0 for each answer
PRECISION = 0.95
# Passages with the answer are hidden among those read and this many more, which a search would
# return next.
_HIDDEN_AMONG = 20
_SEARCH_BATCH = 256  # questions


@dataclasses.dataclass(frozen=True)
class CalibrationOptions:
    """How the questions are answered.

    Attributes:
      n_context, batch_size, decoding, search: See api.Atlas.answer_examples.
      few: Accepts fewer than FEWEST questions.
    """

    n_context: int | None = None
    batch_size: int = 16
    decoding: DecodingConfig | None = None
    search: SearchConfig | str | None = None
    few: bool = False


@dataclasses.dataclass(frozen=True)
class AnsweredQuestions:
    """Questions and answers to fit a confidence to.

    Attributes:
      examples, answers: The questions, and their answers with signals.
      hidden, guesses: Every second question again, and its answer, with the passages that answer it
        hidden from the search, as if the index lacked them.
    """

    examples: Sequence[TaskExample]
    answers: Sequence[api.Answer]
    hidden: Sequence[TaskExample] = ()
    guesses: Sequence[api.Answer] = ()


def calibrate(atlas: api.Atlas, examples: Sequence[TaskExample], index: prepare.Searched,
              folder: Place,
              options: CalibrationOptions | None = None) -> confidence_file.Calibration:
    """Answers the examples and fits the confidence; writes nothing.

    Args:
      atlas: The model, as stored in `folder`.
      examples: Questions that were not trained on, with their answers.
      index: The index to answer from; None is a closed book.
      folder: Folder of the model.
      options: See CalibrationOptions.

    Raises:
      ConfigError: too few questions, or answers that are neither right nor wrong.
      IndexFolderError, StoreError.
    """
    options = options or CalibrationOptions()
    check_questions(atlas, examples, options.few)  # before anything is answered
    answered = answer_questions(atlas, examples, index, options)
    prepared = prepare.prepare_examples(atlas, examples, index,
                                        prepare.passages_to_read(atlas, index, options.n_context),
                                        atlas.whole_batch(options.batch_size),
                                        search=options.search)
    settings = confidence.settings_of(atlas.task, prepared, options.decoding or DecodingConfig())
    return fit_confidence(atlas, answered, settings, folder, options.few)


def answer_questions(atlas: api.Atlas, examples: Sequence[TaskExample], index: prepare.Searched,
                     options: CalibrationOptions) -> AnsweredQuestions:
    """Answers the examples with signals, and every second one with its answering passages hidden.
    """
    # Without an earlier calibration, whose confidence is not wanted here.
    atlas = dataclasses.replace(atlas, calibration=None)

    def answered(chosen: Sequence[TaskExample], label: str) -> list[api.Answer]:
        return list(
            atlas.answer_examples(chosen, index, options.n_context, options.batch_size, label,
                                  options.decoding, options.search, signals=True))

    answers = answered(examples, 'answering')
    # Fitted only to questions whose answer was found, the confidence would trust any passage.
    hidden = [] if index is None else hide_answers(atlas, examples[::2], index, options.n_context,
                                                   options.search)
    return AnsweredQuestions(examples, answers, hidden,
                             answered(hidden, 'without the passages that answer') if hidden else [])


def hide_answers(atlas: api.Atlas, examples: Sequence[TaskExample], index: prepare.Searched,
                 n_context: int | None, search: SearchConfig | str | None) -> list[TaskExample]:
    """Returns the examples that some passage answers, with these passages hidden.

    These are gold passages, and passages found by the search that contain an answer.
    """
    top_k = prepare.passages_to_read(atlas, index, n_context) + _HIDDEN_AMONG
    found: list[TaskExample] = []
    for start in range(0, len(examples), _SEARCH_BATCH):
        part = examples[start:start + _SEARCH_BATCH]
        searched = atlas.search([each.question for each in part],
                                types.required(group.as_group(index)).indexes, top_k, search)
        for example, passages in zip(part, searched, strict=True):
            answering = [each.passage.docid for each in passages if answer_metrics.contains_answer(
                f'{each.passage.title} {each.passage.text}', example.answers)]
            if docids := tuple(dict.fromkeys([*answering, *example.gold_docids])):
                found.append(dataclasses.replace(example, hidden_docids=docids))
    return found


def fit_confidence(atlas: api.Atlas, answered: AnsweredQuestions,
                   settings: confidence_file.CalibrationSettings, folder: Place,
                   few: bool = False) -> confidence_file.Calibration:
    """Fits the confidence to answers that have signals.

    For the other arguments, and for ConfigError, see `calibrate`.
    """
    metric = check_questions(atlas, answered.examples, few)
    answers = [*answered.answers, *answered.guesses]
    examples = [*answered.examples, *answered.hidden]
    right = [float(answer_metrics.of_text((metric,), answer.generated, example.answers)[metric])
             for answer, example in zip(answers, examples, strict=True)]
    found = [answer.signals or {} for answer in answers]
    # Which signals answers have depends on how they are made.
    names = tuple(name for name in signals.NAMES if any(name in each for each in found))
    rows = [confidence_file.features(each, names) for each in found]
    count = len(answered.examples)
    # Both forms of a question are in the same fold.
    places = {example.example_id: place for place, example in enumerate(answered.examples)}
    groups = [*range(count), *(places[example.example_id] for example in answered.hidden)]
    return confidence_file.Calibration(names, logistic.fit(rows, right), settings, metric, count,
                                       int(sum(right[:count])), confidence_file.weights_of(folder),
                                       _figures(rows, right, groups, count))


def check_questions(atlas: api.Atlas, examples: Sequence[TaskExample], few: bool = False) -> str:
    """Checks the questions, and returns the metric by which answers are right or wrong.

    Raises ConfigError: see `calibrate`.
    """
    if any(example.choices for example in examples):
        raise errors.ConfigError('a multiple choice has probabilities of its own (choice_probs in '
                                 'its results); there is nothing to calibrate')
    # F1 and ROUGE are not events with a probability.
    metric = next((name for name in METRICS if name in atlas.task.metrics), None)
    if metric is None:
        raise errors.ConfigError(
            f'answers of {type(atlas.task).__name__} are neither right nor wrong (its metrics are '
            f'{", ".join(atlas.task.metrics)}); a confidence needs {" or ".join(METRICS)}')
    if unanswered := sum(not example.answers for example in examples):
        raise errors.ConfigError(f'{unanswered} of {len(examples)} questions have no answers; a '
                                 'confidence is fitted to right and wrong answers')
    if len(examples) < FEWEST and not (few and examples):
        raise errors.ConfigError(f'{len(examples)} questions are too few to fit a confidence to, '
                                 f'at least {FEWEST} are needed; give more, or --few to fit it all '
                                 'the same')
    return metric


def _figures(rows: Sequence[Sequence[float]], right: Sequence[float], groups: Sequence[int],
             count: int) -> dict[str, float]:
    """Returns the quality of the confidence by cross-validation.

    The first `count` rows are the questions as asked; the others are those with hidden passages.
    """
    asked = right[:count]
    low, high = statistics.wilson_interval(int(sum(asked)), count)
    found = {'right': sum(asked) / count, 'right_low': low, 'right_high': high}
    if count < 5:  # too few for five folds
        return found
    chances = logistic.held_out(rows, right, groups=groups).tolist()
    if len(right) > count:
        found |= {'hidden': float(len(right) - count),
                  'hidden_right': sum(right[count:]) / (len(right) - count),
                  'hidden_confidence': sum(chances[count:]) / (len(right) - count)}
    held_out = chances[:count]
    return found | {'ece': risk.calibration_error(held_out, asked),
                    'aurc': risk.aurc(held_out, asked),
                    'coverage_at_95': risk.coverage_at(PRECISION, held_out, asked)[0]}
