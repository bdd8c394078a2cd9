"""Exact match and F1 of a predicted answer, normalised as in SQuAD's evaluation (Rajpurkar et al. 2016, arXiv 1606.05250)."""

import collections
import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, words one space apart."""
    return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised answers. Raises ValueError where there is no answer."""
    return normalize(prediction) in {normalize(answer) for answer in _present(answers)}


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best harmonic mean of word precision and recall over the answers, 0 to 1; 0 where no word is shared, even if both are empty.

    Raises ValueError where there is no answer.
    """
    return max(_f1(normalize(prediction).split(), normalize(answer).split()) for answer in _present(answers))


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in `text` as whole words, both normalised; an answer without words never does."""
    words = f' {normalize(text)} '
    return any(f' {answer} ' in words for answer in map(normalize, answers) if answer)


def _f1(predicted: list[str], expected: list[str]) -> float:
    shared = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def _present(answers: Sequence[str]) -> Sequence[str]:
    if isinstance(answers, str) or not answers:
        raise ValueError(f'answers must be a sequence of at least one string, got {answers!r}')
    return answers
