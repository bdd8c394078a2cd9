"""Numbers from which the confidence in an answer is made, by name."""

import math
import re
from collections.abc import Sequence

import numpy as np

from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.steps.answer import Answered

Signals = dict[str, float]

# Every answer has these; CLOSED_BOOK ones need a second reading, OF_PASSAGES an index, OF_TEXTS words to compare, OF_BEAMS several sequences.
OF_ANSWER = ('log_likelihood', 'log_likelihood_per_token')
OF_PASSAGES = ('top_score', 'score_margin', 'score_spread', 'attention_entropy', 'answer_in_passages')
OF_TEXTS = ('question_in_passage', 'names_in_passage')
CLOSED_BOOK = ('closed_book_log_likelihood', 'gain_of_passages')
OF_BEAMS = ('beam_agreement',)
# Words of questions that say what is asked for; passages lack them.
_ASKING = frozenset('what which when where whose whom does have with from that this many much name there their'.split())
NAMES = (*OF_ANSWER, *OF_PASSAGES, *OF_TEXTS, *CLOSED_BOOK, *OF_BEAMS)


def of_row(answered: Answered, row: int, texts: Sequence[str], passages: Sequence[str] = (),
           closed_book: float | None = None, question: str = '') -> Signals:
    """Returns the signals of one row of an answer step's result, those that there are.

    Args:
      answered: on the host, with its evidence.
      row: of the batch.
      texts: the sequences of that row as texts, best first.
      passages: titles and texts that were read, in the order of the slots that are not empty.
      closed_book: log likelihood of the same tokens without passages; None where it was not computed.
      question: as it was asked.
    """
    assert answered.evidence is not None  # whoever asks for signals asked the step for evidence
    likelihood, count = float(answered.evidence.log_likelihood[row]), int(answered.evidence.tokens[row])
    found: Signals = {'log_likelihood': likelihood, 'log_likelihood_per_token': likelihood / max(count, 1)}
    if answered.retrieved is not None:
        scores = np.asarray(answered.retrieved.scores[row], np.float64)
        found |= _of_passages(scores[np.isfinite(scores)], np.asarray(answered.attention[row], np.float64))
        # Most answers stand in a passage word for word; one that stands in none was made up, or put together.
        found['answer_in_passages'] = float(any(answer_metrics.contains_answer(passage, texts[:1]) for passage in passages))
        if passages:
            slots = np.flatnonzero(np.isfinite(scores))[:len(passages)]
            looked_at = passages[int(np.argmax(np.asarray(answered.attention[row])[slots]))]
            found |= _of_texts(question, looked_at)
    if closed_book is not None:
        found |= {'closed_book_log_likelihood': closed_book, 'gain_of_passages': likelihood - closed_book}
    if answered.scores is not None and len(texts) > 1:
        found['beam_agreement'] = _agreement(texts, np.asarray(answered.scores[row], np.float64))
    return found


def _of_texts(question: str, passage: str) -> Signals:
    """Returns what share of a question's words, and of the names among them, stands in a passage; nothing where there are none.

    Who asks about something that no passage is about gets one that lacks some of these words: the reader is as sure of it as of others.
    """
    said = {_stem(word) for word in answer_metrics.normalize(passage).split()}
    words = [word for word in answer_metrics.normalize(question).split() if len(word) > 3 and word not in _ASKING]
    # The first word of a sentence has a capital whatever it is.
    names = answer_metrics.normalize(' '.join(re.findall(r'(?<=[^.?!] )[A-Z][\w-]+', question))).split()
    shares = {name: [_stem(word) in said for word in asked] for name, asked in zip(OF_TEXTS, (words, names), strict=True)}
    return {name: sum(found) / len(found) for name, found in shares.items() if found}


def _stem(word: str) -> str:
    return word.removesuffix('s')


def _of_passages(scores: np.ndarray, attention: np.ndarray) -> Signals:
    if not len(scores):  # nothing was found: no score, and no attention to spread
        return {}
    found = {'top_score': float(scores[0]), 'score_spread': float(scores.std())}
    if len(scores) > 1:
        found['score_margin'] = float(scores[0] - scores[1])
        shares = attention[attention > 0]
        # Of the largest possible, so that indexes with few passages compare with others.
        found['attention_entropy'] = float(-(shares * np.log(shares)).sum() / math.log(len(scores)))
    return found


def _agreement(texts: Sequence[str], scores: np.ndarray) -> float:
    """Returns the share of the returned sequences' probability on those that say the same as the best, 0 to 1."""
    # Relative to the best, or all of them would be 0 for long answers.
    chances = np.exp(scores - scores.max())
    said = [answer_metrics.normalize(text) for text in texts]
    return float(sum(chance for chance, text in zip(chances, said, strict=True) if text == said[0]) / chances.sum())
