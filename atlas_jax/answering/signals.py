"""Signals: the numbers, by name, that the confidence in an answer is computed from."""

import math
import re
from collections.abc import Sequence

import numpy as np

from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.steps.answer import Answered

Signals = dict[str, float]

# Every answer has the first two. OF_PASSAGES need an index, OF_TEXTS words to compare, CLOSED_BOOK
# a second reading, and OF_BEAMS several sequences.
OF_ANSWER = ('log_likelihood', 'log_likelihood_per_token')
OF_PASSAGES = ('top_score', 'score_margin', 'score_spread', 'attention_entropy',
               'answer_in_passages')
OF_TEXTS = ('question_in_passage', 'names_in_passage')
CLOSED_BOOK = ('closed_book_log_likelihood', 'gain_of_passages')
OF_BEAMS = ('beam_agreement',)
# Question words and other words that passages rarely share with a question.
_ASKING = frozenset('what which when where whose whom does have with from that this many much '
                    'name there their'.split())
NAMES = (*OF_ANSWER, *OF_PASSAGES, *OF_TEXTS, *CLOSED_BOOK, *OF_BEAMS)


def of_row(answered: Answered, row: int, texts: Sequence[str], passages: Sequence[str] = (),
           closed_book: float | None = None, question: str = '') -> Signals:
    """Returns the signals of one row of an answer step's result, as far as it has them.

    Args:
      answered: result of the step on the host, with its evidence.
      row: row of the batch.
      texts: texts of that row's sequences, best first.
      passages: titles and texts of the passages read, in the order of the filled slots.
      closed_book: log likelihood of the same tokens without passages; None if not computed.
      question: the plain question.
    """
    assert answered.evidence is not None  # the step was made with evidence
    likelihood = float(answered.evidence.log_likelihood[row])
    count = int(answered.evidence.tokens[row])
    found: Signals = {
        'log_likelihood': likelihood, 'log_likelihood_per_token': likelihood / max(count, 1)}
    if answered.retrieved is not None:
        scores = np.asarray(answered.retrieved.scores[row], np.float64)
        found |= _of_passages(scores[np.isfinite(scores)],
                              np.asarray(answered.attention[row], np.float64))
        # Most answers occur word for word in a passage; others are made up or pieced together.
        found['answer_in_passages'] = float(
            any(answer_metrics.contains_answer(passage, texts[:1]) for passage in passages))
        if passages:
            slots = np.flatnonzero(np.isfinite(scores))[:len(passages)]
            looked_at = passages[int(np.argmax(np.asarray(answered.attention[row])[slots]))]
            found |= _of_texts(question, looked_at)
    if closed_book is not None:
        found |= {
            'closed_book_log_likelihood': closed_book, 'gain_of_passages': likelihood - closed_book}
    if answered.scores is not None and len(texts) > 1:
        found['beam_agreement'] = _agreement(texts, np.asarray(answered.scores[row], np.float64))
    return found


def _of_texts(question: str, passage: str) -> Signals:
    """Returns the share of a question's words, and of its names, that a passage has; leaves out a
    share if the question has no such words.

    If no passage is about the question's subject, the retrieved ones lack some of these words. The
    reader is no less sure of such answers.
    """
    words_read = {_stem(word) for word in answer_metrics.normalize(passage).split()}
    words = [
        word for word in answer_metrics.normalize(question).split()
        if len(word) > 3 and word not in _ASKING]
    # The first word of a sentence has a capital in any case.
    names = answer_metrics.normalize(' '.join(re.findall(r'(?<=[^.?!] )[A-Z][\w-]+',
                                                         question))).split()
    return {
        name: sum(_stem(word) in words_read for word in asked) / len(asked)
        for name, asked in zip(OF_TEXTS, (words, names), strict=True) if asked}


def _stem(word: str) -> str:
    return word.removesuffix('s')


def _of_passages(scores: np.ndarray, attention: np.ndarray) -> Signals:
    if not len(scores):  # nothing was found: no score, and no attention to spread
        return {}
    found = {'top_score': float(scores[0]), 'score_spread': float(scores.std())}
    if len(scores) > 1:
        found['score_margin'] = float(scores[0] - scores[1])
        shares = attention[attention > 0]
        # As a share of the largest possible, so that small indexes compare with others.
        found['attention_entropy'] = float(-(shares * np.log(shares)).sum() / math.log(len(scores)))
    return found


def _agreement(texts: Sequence[str], scores: np.ndarray) -> float:
    """Returns the share of the sequences' probability that equals the best text, 0 to 1."""
    # Relative to the best: the probabilities of long answers would all be 0.
    chances = np.exp(scores - scores.max())
    answers = [answer_metrics.normalize(text) for text in texts]
    same = sum(chance for chance, text in zip(chances, answers, strict=True) if text == answers[0])
    return float(same / chances.sum())
