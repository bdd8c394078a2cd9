"""Masked language modelling: the reader fills in missing spans, marked by T5's sentinels.

Source: Raffel et al. 2020, arXiv 1910.10683.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax import options
from atlas_jax.tasks import fields, lm, text_format
from atlas_jax.tasks import task as task_lib

MAX_SPANS = 100  # T5 has 100 sentinels


@dataclasses.dataclass(frozen=True)
class MLMTask(lm.TextTask):
    """Masks spans of words: a sentinel replaces each in the query, the target lists their words.

    At least one word is masked and at least one is kept; texts of one word are left out. The
    passage itself is not retrieved.

    Attributes:
      noise_density: Share of the words to mask, 0 to 1.
      mean_span_tokens: Mean length of the spans in reader tokens; it sets the number of spans.
      min_words: Shorter texts are left out.

    Raises ConfigError: noise_density is not between 0 and 1, or mean_span_tokens is below 1.
    """

    # The original cuts spans between tokens. A span that begins inside a word would give other
    # tokens than the text has.
    noise_density: float = options.option(0.15, above=0, below=1)
    mean_span_tokens: float = options.option(3.0, least=1)
    min_words: int = 0

    @property
    def draws(self) -> bool:
        """True: the spans are drawn."""
        return True

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # A sentinel in the text itself would look like one of ours.
        words = text_format.without_sentinels(row['text']).split()
        if len(words) < max(self.min_words, 2):
            return None
        # Without a tokenizer, each word counts as one token.
        tokens = len(words) if count_tokens is None else count_tokens(' '.join(words))
        query, target = corrupt(words, self.noise_density, self.mean_span_tokens, tokens,
                                task_lib.generator_for(example_id, generator))
        return task_lib.TaskExample(query=query, target=target, answers=[self.answer_text(target)],
                                    example_id=example_id, question=query,
                                    passages=fields.passages(row), own_docid=fields.own_docid(row),
                                    row=row)


def corrupt(words: Sequence[str], density: float, mean_span_tokens: float, tokens: int,
            generator: np.random.Generator) -> tuple[str, str]:
    """Returns (query, target) with random spans masked; a kept word separates any two spans.

    Args:
      words: The words of the text, at least 2.
      density: Share of the words to mask.
      mean_span_tokens: Mean length of a span in tokens.
      tokens: Number of tokens in all words together.
      generator: Draws the spans; all divisions into that many spans are equally likely.
    """
    # Words are masked, not tokens, so that no word is cut in two.
    masked = min(max(round(len(words) * density), 1), len(words) - 1)
    spans = round(tokens * masked / len(words) / mean_span_tokens)
    # The spans are limited by words to mask, gaps to separate them, and sentinels.
    spans = max(1, min(spans, masked, len(words) - masked + 1, MAX_SPANS))
    # The parts before the first span and after the last may be empty: both are drawn one word
    # longer, then shortened.
    kept = _divide(len(words) - masked + 2, spans + 1, generator)
    kept[[0, -1]] -= 1
    # Sentinels count up from the left in query and target, as in T5's pre-training.
    query, target, place = [], [], 0
    for number, (kept_words, masked_words) in enumerate(
            zip(kept, _divide(masked, spans, generator), strict=False)):
        sentinel, middle = f'<extra_id_{number}>', place + kept_words
        query += [*words[place:middle], sentinel]
        place = middle + masked_words
        target += [sentinel, *words[middle:place]]
    return ' '.join([*query, *words[place:]]), ' '.join(target)


def _divide(items: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """Returns lengths [parts] int, each at least 1, that sum to `items`.

    All divisions are equally likely: each choice of parts - 1 places between items is one.
    """
    ends = np.sort(generator.choice(np.arange(1, items), parts - 1, replace=False))
    return np.diff(np.concatenate([[0], ends, [items]]))
