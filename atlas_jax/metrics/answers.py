"""Metrics of a predicted answer: accuracy, exact match, F1 and ROUGE, by name in OF_TEXT.

Exact match and F1 normalise like SQuAD's evaluation (Rajpurkar et al. 2016, arXiv 1606.05250).
ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) are the F values of the Python package rouge 1.0.1, which
the original Atlas reports: texts are split at full stops and white space without other
normalisation, and n-grams are sets, so that repeating one changes nothing.
"""

import collections
import re
import string
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_ROUGE_EPSILON = 1e-8  # the package adds it to the denominator


def normalize(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation and articles, with single spaces.
    """
    # In the order of SQuAD's script: punctuation goes first, so that "the." is an article.
    return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split())


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 if the prediction equals one of the answers, ignoring outer white space; else 0."""
    return float(prediction.strip() in {answer.strip() for answer in answers})


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Returns whether the normalised prediction equals one of the normalised answers.

    Raises ValueError: no answer is given.
    """
    return normalize(prediction) in {normalize(answer) for answer in _present(answers)}


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the harmonic mean of word precision and recall, the best over the answers, 0 to 1.

    It is 0 if no word is shared, even if both texts are empty.

    Raises ValueError: no answer is given.
    """
    return max(
        _f1(normalize(prediction).split(),
            normalize(answer).split()) for answer in _present(answers))


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Returns whether `text` contains one of the answers as whole words, both normalised; an answer
    without words does not count.
    """
    # With spaces around both, "1889" does not contain "18".
    words = f' {normalize(text)} '
    return any(f' {answer} ' in words for answer in map(normalize, answers) if answer)


# Labels are not answers in a passage: many passages contain "true" by chance.
_LABELS = frozenset(('true', 'false', 'maybe', 'yes', 'no'))


def stand_in_texts(answers: Sequence[str]) -> bool:
    """Returns whether a passage can contain one of the answers: not if all are blank, or labels
    such as true and yes.
    """
    return any(answer and answer not in _LABELS for answer in map(normalize, answers))


def rouge(prediction: str, answers: Sequence[str]) -> tuple[float, float, float]:
    """Returns (ROUGE-1, ROUGE-2, ROUGE-L), each the best over the answers, 0 to 1; zeros if there
    are no answers or no sentences.
    """
    scores = [_rouge(_sentences(prediction), _sentences(answer)) for answer in answers]
    if not scores:
        return 0.0, 0.0, 0.0
    # Different answers may be best for different metrics.
    of_one, of_two, of_longest = zip(*scores, strict=True)
    return max(of_one), max(of_two), max(of_longest)


# name -> function of a prediction and the correct answers, with values from 0 to 1
OF_TEXT: dict[str, Callable[[str, Sequence[str]], float]] = {
    'accuracy': accuracy,
    'exact_match': lambda prediction, answers: float(exact_match(prediction, answers)),
    'f1': f1,
    'rouge_1': lambda prediction, answers: rouge(prediction, answers)[0],
    'rouge_2': lambda prediction, answers: rouge(prediction, answers)[1],
    'rouge_L': lambda prediction, answers: rouge(prediction, answers)[2],
}


def of_text(names: Sequence[str], prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """Computes the named metrics that compare texts, and skips the others.

    Raises ValueError: no answer is given.
    """
    return {name: OF_TEXT[name](prediction, answers) for name in names if name in OF_TEXT}


def _f1(predicted: list[str], expected: list[str]) -> float:
    # Counters, because a repeated word counts twice only if both texts repeat it.
    shared = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def _present(answers: Sequence[str]) -> Sequence[str]:
    """Returns the answers. Raises ValueError: the sequence is empty, or is a string."""
    # A string is a sequence too, whose letters would be answers.
    if isinstance(answers, str) or not answers:
        raise ValueError(f'answers must be a sequence of at least one string, got {answers!r}')
    return answers


def _sentences(text: str) -> list[list[str]]:
    """Splits a text into sentences of words; a blank sentence has one empty word."""
    # At every full stop, also in numbers and abbreviations, like the package.
    return [' '.join(sentence.split()).split(' ') for sentence in text.split('.') if sentence]


def _rouge(predicted: list[list[str]], expected: list[list[str]]) -> tuple[float, float, float]:
    if not predicted or not expected:
        return 0.0, 0.0, 0.0
    return _n_gram_f(predicted, expected, 1), _n_gram_f(predicted, expected,
                                                        2), _longest_f(predicted, expected)


def _n_gram_f(predicted: list[list[str]], expected: list[list[str]], size: int) -> float:
    # n-grams cross sentence ends, like the package's.
    found, wanted = _n_grams(sum(predicted, []), size), _n_grams(sum(expected, []), size)
    return _rouge_f(len(found & wanted), len(found), len(wanted))


def _n_grams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start:start + size]) for start in range(len(words) - size + 1)}


def _longest_f(predicted: list[list[str]], expected: list[list[str]]) -> float:
    """Scores the set of words in the longest common subsequences of all pairs of sentences."""
    common = {
        word for wanted in expected for found in predicted
        for word in _longest_common(wanted, found)}
    return _rouge_f(len(common), len(set(sum(predicted, []))), len(set(sum(expected, []))))


def _longest_common(first: list[str], second: list[str]) -> list[str]:
    """Finds a longest common subsequence. Ties are broken like in the package: later words of
    `second` are left out first.
    """
    # lengths[i][j]: length of the longest common subsequence of first[:i] and second[:j]
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if word == other else max(
                lengths[i][j + 1], lengths[i + 1][j])
    common, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            common.append(first[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common[::-1]


def _rouge_f(shared: int, predicted: int, expected: int) -> float:
    precision = shared / predicted if predicted else 0.0
    recall = shared / expected if expected else 0.0
    return 2 * precision * recall / (precision + recall + _ROUGE_EPSILON)
