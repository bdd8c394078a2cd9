"""Calibrates the confidence of a model: answers held-out questions and fits the probability that an answer is right."""

import dataclasses
from collections.abc import Sequence

from atlas_jax import api, errors, types
from atlas_jax.checkpoints import confidence as confidence_file
from atlas_jax.decoding import DecodingConfig
from atlas_jax.io.folder import Place
from atlas_jax.knowledge import group
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import logistic, risk, statistics
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import confidence, prepare, signals
from atlas_jax.tasks.task import TaskExample

FEWEST = 30  # questions: with fewer the share of right answers alone is uncertain by more than a third
METRICS = ('exact_match', 'accuracy')  # 1 or 0 for each answer
PRECISION = 0.95


# Passages beyond those that are read, among which further ones with the answer are looked for: the search would bring them next.
_HIDDEN_AMONG = 20
_SEARCHED = 256  # questions at a time


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


@dataclasses.dataclass(frozen=True)
class Asked:
    """Questions and answers that a confidence is fitted to.

    examples, answers: the questions as they are, with answers that have signals.
    hidden, guesses: every second question again, the passages that answer it hidden from the search, as if the index lacked them.
    """

    examples: Sequence[TaskExample]
    answers: Sequence[api.Answer]
    hidden: Sequence[TaskExample] = ()
    guesses: Sequence[api.Answer] = ()


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
    # Before anything is answered.
    checked(atlas, examples, options.few)
    asked = ask(atlas, examples, index, options)
    prepared = prepare.prepare(atlas, examples, index, prepare.passages_to_read(atlas, index, options.n_context),
                               atlas.whole_batch(options.batch_size), search=options.search)
    settings = confidence.settings_of(atlas.task, prepared, options.decoding or DecodingConfig())
    return fitted(atlas, asked, settings, folder, options.few)


def ask(atlas: api.Atlas, examples: Sequence[TaskExample], index: prepare.Searched, options: Options) -> Asked:
    """Answers the examples with signals, and every second one that a passage answers without these passages."""
    # What an earlier calibration says of these settings is of no interest now.
    atlas = dataclasses.replace(atlas, calibration=None)

    def answered(chosen: Sequence[TaskExample], label: str) -> list[api.Answer]:
        return list(atlas.answer_examples(chosen, index, options.n_context, options.batch_size, label, options.decoding, options.search,
                                          signals=True))

    answers = answered(examples, 'answering')
    # Who only ever saw questions whose answer is there trusts a passage about something else as much.
    hidden = [] if index is None else hide_answers(atlas, examples[::2], index, options.n_context, options.search)
    return Asked(examples, answers, hidden, answered(hidden, 'without the passages that answer') if hidden else [])


def hide_answers(atlas: api.Atlas, examples: Sequence[TaskExample], index: prepare.Searched, n_context: int | None,
                 search: SearchConfig | str | None) -> list[TaskExample]:
    """Returns those of the examples that a passage answers, these passages hidden: their gold ones, and any with an answer in its words."""
    top_k = prepare.passages_to_read(atlas, index, n_context) + _HIDDEN_AMONG
    found: list[TaskExample] = []
    for start in range(0, len(examples), _SEARCHED):
        part = examples[start:start + _SEARCHED]
        searched = atlas.search([each.question for each in part], types.required(group.of(index)).indexes, top_k, search)
        for example, passages in zip(part, searched, strict=True):
            said = [each.passage.docid for each in passages
                    if answer_metrics.contains_answer(f'{each.passage.title} {each.passage.text}', example.answers)]
            if docids := tuple(dict.fromkeys([*said, *example.gold_docids])):
                found.append(dataclasses.replace(example, hidden_docids=docids))
    return found


def fitted(atlas: api.Atlas, asked: Asked, settings: confidence_file.Settings, folder: Place,
           few: bool = False) -> confidence_file.Calibration:
    """Fits the confidence to answers that have signals; other arguments as of `calibrate`. Raises ConfigError: as `calibrate`."""
    metric = checked(atlas, asked.examples, few)
    right = [float(answer_metrics.of_text((metric,), answer.generated, example.answers)[metric])
             for answer, example in zip([*asked.answers, *asked.guesses], [*asked.examples, *asked.hidden], strict=True)]
    found = [answer.signals or {} for answer in [*asked.answers, *asked.guesses]]
    # How answers are made decides which signals there are; those that no answer has are no features.
    names = tuple(name for name in signals.NAMES if any(name in each for each in found))
    rows = [confidence_file.features(each, names) for each in found]
    count = len(asked.examples)
    places = {example.example_id: place for place, example in enumerate(asked.examples)}
    groups = [*range(count), *(places[example.example_id] for example in asked.hidden)]
    return confidence_file.Calibration(names, logistic.fit(rows, right), settings, metric, count, int(sum(right[:count])),
                                       confidence_file.weights_of(folder), _figures(rows, right, groups, count))


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


def _figures(rows: Sequence[Sequence[float]], right: Sequence[float], groups: Sequence[int], count: int) -> dict[str, float]:
    """Returns what the confidence is worth on questions that it was not fitted to, by cross-validation.

    The first `count` rows are the questions as they are.
    """
    asked = right[:count]
    low, high = statistics.wilson_interval(int(sum(asked)), count)
    found = {'right': sum(asked) / count, 'right_low': low, 'right_high': high}
    if count < 5:  # no five parts
        return found
    chances = logistic.held_out(rows, right, groups=groups).tolist()
    if len(right) > count:
        found |= {'hidden': float(len(right) - count), 'hidden_right': sum(right[count:]) / (len(right) - count),
                  'hidden_confidence': sum(chances[count:]) / (len(right) - count)}
    held_out = chances[:count]
    return found | {'ece': risk.calibration_error(held_out, asked), 'aurc': risk.aurc(held_out, asked),
                    'coverage_at_95': risk.coverage_at(PRECISION, held_out, asked)[0]}
