"""Documents cut into passages of about a hundred words, at sentence borders."""

import dataclasses
from collections.abc import Iterable, Iterator

from atlas_jax import errors
from atlas_jax.corpus import documents as corpus_documents
from atlas_jax.corpus import sentences

MAX_WORDS = 100


@dataclasses.dataclass(frozen=True)
class Passage:
    """What is retrieved and read. `docid` names it outside; title and section may be empty."""

    docid: str
    title: str
    section: str
    text: str

    @property
    def full_title(self) -> str:
        """The title as the models see it: "title: section" where there are both, else the one there is."""
        return f'{self.title}: {self.section}' if self.title and self.section else self.title or self.section


def split_passages(documents: Iterable[corpus_documents.Document], max_words: int = MAX_WORDS) -> Iterator[Passage]:
    """Cuts documents into passages of at most `max_words` words and about equal length.

    A document that is short enough is one passage with the document's id; the pieces of a longer one are called id#0, id#1 and so on. They
    end at sentence borders; only a sentence longer than max_words is cut between words. No word is lost.

    Raises ConfigError: max_words below 1.
    """
    if max_words < 1:
        raise errors.ConfigError(f'max_words is {max_words}; it must be at least 1')
    return (passage for document in documents for passage in _split(document, max_words))


def _split(document: corpus_documents.Document, max_words: int) -> Iterator[Passage]:
    words = sentences.word_spans(document.text)
    if len(words) <= max_words:
        yield Passage(document.docid, document.title, document.section, document.text.strip())
        return
    bounds = _balanced(_unit_ends(document.text, words, max_words), max_words)
    for number, (first, stop) in enumerate(bounds):
        text = document.text[words[first][0]:words[stop - 1][1]]
        yield Passage(f'{document.docid}#{number}', document.title, document.section, text)


def _unit_ends(text: str, words: list[tuple[int, int]], max_words: int) -> list[int]:
    """Where a passage may end, as numbers of words from the start: after sentences, and inside those that are too long."""
    ends, start = [], 0
    for end in sentences.sentence_ends(text, words):
        pieces = -(-(end - start) // max_words)
        ends += [start + (end - start) * piece // pieces for piece in range(1, pieces + 1)]
        start = end
    return ends


def _balanced(ends: list[int], max_words: int) -> list[tuple[int, int]]:
    """[(first word, word after the last)] of passages that end at `ends`, with the least sum of squared deviations from equal lengths."""
    target = ends[-1] / -(-ends[-1] // max_words)
    starts = [0, *ends]
    costs, previous = [0.0], [0]
    for number, end in enumerate(ends, start=1):
        best, chosen = float('inf'), number - 1
        for candidate in range(number - 1, -1, -1):
            size = end - starts[candidate]
            if size > max_words:
                break
            cost = costs[candidate] + (size - target) ** 2
            if cost < best:
                best, chosen = cost, candidate
        costs.append(best)
        previous.append(chosen)
    bounds, number = [], len(ends)
    while number:
        bounds.append((starts[previous[number]], starts[number]))
        number = previous[number]
    return bounds[::-1]
