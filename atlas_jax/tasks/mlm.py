"""Masked language modelling: the reader fills in missing spans, marked by T5's sentinels (Raffel et al. 2020, arXiv 1910.10683)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

MAX_SPANS = 100  # T5 has 100 sentinels
_REMEDY = 'each row needs "text", and "id" where the text is a passage of the index'


@dataclasses.dataclass(frozen=True)
class MLMTask(task_lib.PlainTask):
    """Takes spans of words out of a text: the query has a sentinel for each, and the target has each sentinel and its words.

    At least one word is taken out, and never all. Texts of one word are left out. The passage itself is not retrieved.

    Attributes:
      noise_density: share of the words that is taken out, 0 to 1.
      mean_span_tokens: mean length of the spans in reader tokens, which sets their number.
      min_words: shorter texts are left out.

    Raises ConfigError: noise_density outside 0 to 1, or mean_span_tokens below 1.
    """

    # The original cuts spans between tokens. A span that begins inside a word would give other tokens than the text has.
    noise_density: float = 0.15
    mean_span_tokens: float = 3.0
    min_words: int = 0

    metrics = ('accuracy', 'f1', 'rouge_1', 'rouge_2', 'rouge_L', 'perplexity')
    reads = ('id', 'text', 'passages')
    query_max_tokens, target_max_tokens = 192, 64
    asks, label, remedy = 'text', 'text', _REMEDY

    def __post_init__(self):
        if not 0 < self.noise_density < 1:
            raise errors.ConfigError(f'MLMTask.noise_density is {self.noise_density}; it must be above 0 and below 1')
        if not 1 <= self.mean_span_tokens < math.inf:
            raise errors.ConfigError(f'MLMTask.mean_span_tokens is {self.mean_span_tokens}; it must be finite and at least 1')

    @property
    def draws(self) -> bool:
        """True: the spans are drawn."""
        return True

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields id, text, passages."""
        return fields.string_problem(row, 'text', _REMEDY) or fields.id_problem(row, _REMEDY) or fields.optional_problem(row)

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # A sentinel in the text itself would look like one of ours.
        words = text_format.without_sentinels(row['text']).split()
        if len(words) < max(self.min_words, 2):
            return None
        # Span lengths are given in tokens; without a tokenizer a word is one.
        tokens = len(words) if count_tokens is None else count_tokens(' '.join(words))
        query, target = corrupt(words, self.noise_density, self.mean_span_tokens, tokens, task_lib.generator_for(example_id, generator))
        return task_lib.TaskExample(query=query, target=target, answers=[self.answer_text(target)], example_id=example_id, question=query,
                                    passages=fields.passages(row), own_docid=fields.own_docid(row), row=row)

    def answer_text(self, text: str) -> str:
        """Returns the words filled in, without sentinels."""
        return text_format.without_sentinels(text)


def corrupt(words: Sequence[str], density: float, mean_span_tokens: float, tokens: int,
            generator: np.random.Generator) -> tuple[str, str]:
    """Returns (query, target): spans lie anywhere, with at least one kept word between two of them.

    Args:
      words: the text's, at least 2.
      density: the share of words taken out.
      mean_span_tokens: mean length of a span in tokens.
      tokens: number of tokens of all words together.
      generator: draws where spans begin and end; all divisions into that many spans are equally likely.
    """
    # At least one word is taken, and one is kept.
    # Words and not tokens are taken, so that no word is cut in two.
    taken = min(max(round(len(words) * density), 1), len(words) - 1)
    spans = round(tokens * taken / len(words) / mean_span_tokens)
    # No more than there are words to take, gaps to separate them, or sentinels.
    spans = max(1, min(spans, taken, len(words) - taken + 1, MAX_SPANS))
    # The parts before the first span and behind the last may be empty: they are drawn one word longer and shortened.
    kept = _divide(len(words) - taken + 2, spans + 1, generator)
    kept[[0, -1]] -= 1
    # Sentinels count up from the left in query and target alike, as in T5's pre-training.
    query, target, place = [], [], 0
    for number, (kept_words, taken_words) in enumerate(zip(kept, _divide(taken, spans, generator), strict=False)):
        sentinel, middle = f'<extra_id_{number}>', place + kept_words
        query += [*words[place:middle], sentinel]
        place = middle + taken_words
        target += [sentinel, *words[middle:place]]
    return ' '.join([*query, *words[place:]]), ' '.join(target)


def _divide(items: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """Returns lengths [parts] int of at least 1 that sum to `items`; all divisions are equally likely."""
    # Every choice of parts - 1 different places between items is one division.
    ends = np.sort(generator.choice(np.arange(1, items), parts - 1, replace=False))
    return np.diff(np.concatenate([[0], ends, [items]]))
