"""Masked language modelling with T5's sentinels: the reader fills in the spans that are missing (Raffel et al. 2020, arXiv 1910.10683)."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

MAX_SPANS = 100  # T5 has as many sentinels
_REMEDY = 'each row needs "text", and "id" where the text is a passage of the index'
_SENTINEL = re.compile(r'<extra_id_(\d+)>')


@dataclasses.dataclass(frozen=True)
class MLMTask(task_lib.PlainTask):
    """Takes spans of words out of a text: a sentinel stands for each in the query, and the target names what it stands for.

    `noise_density` of the words are taken out, at least one and never all; there are as many spans as give them a mean of
    `mean_span_tokens` tokens of the reader. Texts of fewer than `min_words` words, or of one, are left out. The passage itself is not
    retrieved. Unlike in the original no span begins or ends inside a word, where the tokens of the parts would not be those of the text.
    """

    noise_density: float = 0.15
    mean_span_tokens: float = 3.0
    min_words: int = 0

    draws = True
    metrics = ('accuracy', 'f1', 'rouge_1', 'rouge_2', 'rouge_L', 'perplexity')
    asks, label, remedy = 'text', 'text', _REMEDY

    def __post_init__(self):
        if not 0 < self.noise_density < 1:
            raise errors.ConfigError(f'MLMTask.noise_density is {self.noise_density}; it must be above 0 and below 1')
        if self.mean_span_tokens < 1:
            raise errors.ConfigError(f'MLMTask.mean_span_tokens is {self.mean_span_tokens}; it must be at least 1')

    def problem(self, row: dict[str, Any]) -> task_lib.Problem | None:
        """See task.Task; fields id, text, passages."""
        return fields.string_problem(row, 'text', _REMEDY) or fields.id_problem(row, _REMEDY) or fields.optional_problem(row)

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # A sentinel in the text itself would be taken for one of ours.
        words = text_format.without_sentinels(row['text']).split()
        if len(words) < max(self.min_words, 2):
            return None
        tokens = len(words) if count_tokens is None else count_tokens(' '.join(words))
        query, target = corrupt(words, self.noise_density, self.mean_span_tokens, tokens, task_lib.generator_for(example_id, generator))
        return task_lib.TaskExample(query=query, target=target, answers=[self.answer_text(target)], example_id=example_id, question=query,
                                    passages=fields.passages(row), own_docid=fields.own_docid(row), row=row)

    def answer_text(self, text: str) -> str:
        """The words filled in, without sentinels."""
        return text_format.without_sentinels(text)


def corrupt(words: Sequence[str], density: float, mean_span_tokens: float, tokens: int,
            generator: np.random.Generator) -> tuple[str, str]:
    """(query, target): taken spans lie anywhere, with at least one kept word between two of them.

    Args:
      words: at least 2.
      density: the share taken out.
      mean_span_tokens: mean length of a span in tokens.
      tokens: of all words together.
      generator: draws where spans begin and end, every division into so many spans alike.
    """
    taken = min(max(round(len(words) * density), 1), len(words) - 1)
    spans = round(tokens * taken / len(words) / mean_span_tokens)
    spans = max(1, min(spans, taken, len(words) - taken + 1, MAX_SPANS))
    # What is kept before the first span and after the last may be nothing.
    kept = _divide(len(words) - taken + 2, spans + 1, generator)
    kept[[0, -1]] -= 1
    query, target, place = [], [], 0
    for number, (kept_words, taken_words) in enumerate(zip(kept, _divide(taken, spans, generator), strict=False)):
        sentinel, middle = f'<extra_id_{number}>', place + kept_words
        query += [*words[place:middle], sentinel]
        place = middle + taken_words
        target += [sentinel, *words[middle:place]]
    return ' '.join([*query, *words[place:]]), ' '.join(target)


def restore(query: str, target: str) -> str:
    """The text of which `corrupt` made query and target."""
    parts = _SENTINEL.split(target)  # '', number, span, number, span …
    spans = {number: span.strip() for number, span in zip(parts[1::2], parts[2::2], strict=True)}
    return _SENTINEL.sub(lambda match: spans[match.group(1)], query)


def _divide(items: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """Lengths [parts] of at least 1 that sum to `items`, every division alike."""
    ends = np.sort(generator.choice(np.arange(1, items), parts - 1, replace=False))
    return np.diff(np.concatenate([[0], ends, [items]]))
