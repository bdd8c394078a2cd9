"""Documents cut into passages of about a hundred words, at sentence borders found by rules."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from atlas_jax import errors
from atlas_jax.corpus import documents as corpus_documents

MAX_WORDS = 100  # as DPR's and Atlas's passages have
# Chinese and Japanese have no spaces between words: each of their characters counts as a word.
_UNSPACED = '\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
_WORD = re.compile(f'[{_UNSPACED}][、。，：；！？」』）]*|[^\\s{_UNSPACED}]+')
_CLOSING = '"\'”’»)\\]}'
_END = re.compile(f'[.!?…][{_CLOSING}]*$')
_WIDE_END = re.compile('[。！？][」』）]*$')
# A full stop behind one of these, or behind an initial, ends no sentence.
_ABBREVIATION = re.compile(
    r'(?:^|[(\["\'“‘])(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|Rev|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|Pres|St|Mt|Ft|Jr|Sr|Inc'
    r'|Ltd|Co|Corp|No|Nos|Vol|pp?|vs?|etc|cf|ca|approx|est|Fig|figs?|Eq|Sec|Ch|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$')


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of text that is retrieved and read. `docid` is its name outside; title and section may be empty."""

    docid: str
    title: str
    section: str
    text: str

    @property
    def full_title(self) -> str:
        """The title as the models see it: "title: section", or the one of the two that is not empty."""
        return f'{self.title}: {self.section}' if self.title and self.section else self.title or self.section


def split_passages(documents: Iterable[corpus_documents.Document], max_words: int = MAX_WORDS) -> Iterator[Passage]:
    """Cuts documents into passages of at most `max_words` words and about equal length.

    A short document is one passage with the document's id; the pieces of a longer one are called id#0, id#1 and so on. They end at sentence
    borders; only a sentence longer than max_words is cut between words. No word is lost.

    Raises ConfigError: max_words below 1.
    """
    if max_words < 1:
        raise errors.ConfigError(f'max_words is {max_words}; it must be at least 1')
    return (passage for document in documents for passage in _split(document, max_words))


def _split(document: corpus_documents.Document, max_words: int) -> Iterator[Passage]:
    words = word_spans(document.text)
    # A passage that is a whole document can be replaced by the document's id.
    if len(words) <= max_words:
        yield Passage(document.docid, document.title, document.section, document.text.strip())
        return
    bounds = _balanced(_unit_ends(document.text, words, max_words), max_words)
    for number, (first, stop) in enumerate(bounds):
        # A slice of the document: line breaks between words stay.
        text = document.text[words[first][0]:words[stop - 1][1]]
        yield Passage(f'{document.docid}#{number}', document.title, document.section, text)


def _unit_ends(text: str, words: list[tuple[int, int]], max_words: int) -> list[int]:
    """Returns the places where a passage may end, in words from the start: after sentences, and inside sentences over max_words."""
    ends, start = [], 0
    for end in sentence_ends(text, words):
        # Equal pieces: a sentence of max_words + 1 words is halved, and leaves no piece of one word.
        pieces = math.ceil((end - start) / max_words)
        ends += [start + (end - start) * piece // pieces for piece in range(1, pieces + 1)]
        start = end
    return ends


def _balanced(ends: list[int], max_words: int) -> list[tuple[int, int]]:
    """Returns [(first word, word after the last)] of passages that end at `ends`, as close to equal lengths as can be.

    Dynamic programming over `ends`: it finds the least sum of squared deviations from the mean length.
    """
    target = ends[-1] / math.ceil(ends[-1] / max_words)
    starts = [0, *ends]
    costs, previous = [0.0], [0]  # of the best division that ends at each of `starts`, and its last passage's start
    for number, end in enumerate(ends, start=1):
        best, chosen = float('inf'), number - 1
        for candidate in range(number - 1, -1, -1):
            size = end - starts[candidate]
            if size > max_words:
                break  # the candidates before are farther away
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


def word_spans(text: str) -> list[tuple[int, int]]:
    """Returns (start, stop) of each word in characters: what white space separates, or one Chinese or Japanese character."""
    return [match.span() for match in _WORD.finditer(text)]


def sentence_ends(text: str, words: list[tuple[int, int]]) -> list[int]:
    """Returns the places where sentences end, in words from the start; the last is the number of words.

    A sentence ends before a blank line. It also ends behind . ! ? … unless the next word begins in lower case, or the full stop belongs to
    a known abbreviation or an initial.
    """
    ends = [number for number in range(1, len(words)) if _ends(text, words[number - 1], words[number])]
    return [*ends, len(words)] if words else []


def _ends(text: str, word: tuple[int, int], following: tuple[int, int]) -> bool:
    # A blank line ends a paragraph or heading, which may have no full stop.
    if text.count('\n', word[1], following[0]) > 1:
        return True
    written = text[slice(*word)]
    if _WIDE_END.search(written):  # no space follows these
        return True
    if word[1] == following[0] or not _END.search(written) or text[following[0]].islower():
        return False
    # "1." at the beginning of a line numbers a list; eight characters hold any indentation one meets there.
    numbers_a_line = written[:-1].isdigit() and text[max(0, word[0] - 8):word[0]].rstrip(' \t')[-1:] in ('', '\n')
    return not numbers_a_line and not _ABBREVIATION.search(written)
