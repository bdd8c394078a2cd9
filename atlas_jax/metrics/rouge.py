"""ROUGE-1, ROUGE-2 and ROUGE-L of one text against others (Lin 2004), counted as the Python package rouge 1.0.1 does.

The original Atlas reports that package's F values: texts are cut at full stops and white space and not normalised otherwise, n-grams are
sets, so that repeating one changes nothing, and a hair is added to the denominator.
"""

from collections.abc import Sequence

_HAIR = 1e-8


def rouge(prediction: str, answers: Sequence[str]) -> tuple[float, float, float]:
    """(ROUGE-1, ROUGE-2, ROUGE-L), each the best over the answers, 0 to 1; zeros where there is no answer or a text has no sentence."""
    scores = [_scores(_sentences(prediction), _sentences(answer)) for answer in answers]
    return tuple(max(values) for values in zip(*scores, strict=True)) if scores else (0.0, 0.0, 0.0)


def _sentences(text: str) -> list[list[str]]:
    """Words by sentence; a sentence of blanks has one empty word."""
    return [' '.join(sentence.split()).split(' ') for sentence in text.split('.') if sentence]


def _scores(predicted: list[list[str]], expected: list[list[str]]) -> tuple[float, float, float]:
    if not predicted or not expected:
        return 0.0, 0.0, 0.0
    return _n_gram_f(predicted, expected, 1), _n_gram_f(predicted, expected, 2), _longest_f(predicted, expected)


def _n_gram_f(predicted: list[list[str]], expected: list[list[str]], size: int) -> float:
    found, wanted = _n_grams(sum(predicted, []), size), _n_grams(sum(expected, []), size)
    return _f(len(found & wanted), len(found), len(wanted))


def _n_grams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start:start + size]) for start in range(len(words) - size + 1)}


def _longest_f(predicted: list[list[str]], expected: list[list[str]]) -> float:
    """The words of the longest common subsequences of all pairs of sentences, each word counted once."""
    common = {word for wanted in expected for found in predicted for word in _longest_common(wanted, found)}
    return _f(len(common), len(set(sum(predicted, []))), len(set(sum(expected, []))))


def _longest_common(first: list[str], second: list[str]) -> list[str]:
    """A longest common subsequence; of several the one that leaves out the later words of `second` first."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if word == other else max(lengths[i][j + 1], lengths[i + 1][j])
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


def _f(shared: int, predicted: int, expected: int) -> float:
    precision = shared / predicted if predicted else 0.0
    recall = shared / expected if expected else 0.0
    return 2 * precision * recall / (precision + recall + _HAIR)
