"""Documents cut into passages of about a hundred words, at sentence borders found by rules."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from atlas_jax import errors
from atlas_jax.corpus import documents as corpus_documents

MAX_WORDS = 100  # as DPR's and Atlas's passages have
# Chinese and Japanese have no spaces between words: each of their characters counts as a word.
UNSPACED = '\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
# A longer run of letters is no word: a table without spaces, a sequence, an encoded picture. A picture may have 300,000 letters, and must
# not become one passage; 100 of these pieces are about as many tokens as the models read.
_LONGEST_WORD, _PIECE_CHARACTERS = 100, 20
_ODD_RUN = 1000  # characters without a space that are worth a word: addresses are shorter
_RUN = re.compile(f'[^\\s{UNSPACED}]+')
_WORD = re.compile(f'[{UNSPACED}][、。，：；！？」』）]*|[^\\s{UNSPACED}]+')
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


@dataclasses.dataclass(frozen=True)
class ScoredPassage(Passage):
    """A passage of an example with a teacher's score from its file, which the retriever learns (DistillConfig.gold_score_mode "file")."""

    gold_score: float = 0.0


@dataclasses.dataclass
class CutCounts:
    """The documents of `split_passages`, those that were longer than a passage, and the one with the longest run without a space."""

    documents: int = 0
    cut: int = 0
    longest_run: int = 0
    longest_run_docid: str = ''

    def add(self, document: corpus_documents.Document, pieces: int) -> None:
        """Counts a document that became so many passages."""
        self.documents += 1
        self.cut += pieces > 1
        # Chinese and Japanese texts are such runs by nature.
        runs = _RUN.findall(document.text) if any(len(run) > _ODD_RUN for run in document.text.split()) else ()
        if (longest := max(map(len, runs), default=0)) > max(self.longest_run, _ODD_RUN):
            self.longest_run, self.longest_run_docid = longest, document.docid

    def messages(self, max_words: int | None) -> list[str]:
        """Returns what a user should know, a line each; `max_words` as it was given to `split_passages`."""
        lines = []
        if self.cut:
            lines.append(f'{self.cut} of {self.documents} documents were longer than {max_words} words and were cut; --as_passages keeps '
                         'them whole')
        if self.longest_run:
            done = 'was kept whole' if max_words is None else f'counts as a word for each {_PIECE_CHARACTERS} characters'
            lines.append(f'document "{self.longest_run_docid}" has {self.longest_run} characters without a space, which {done}; '
                         'is it text?')
        return lines


def split_passages(documents: Iterable[corpus_documents.Document], max_words: int | None = MAX_WORDS, overlap: int = 0,
                   counts: CutCounts | None = None) -> Iterator[Passage]:
    """Cuts documents into passages of at most `max_words` words and about equal length.

    A short document is one passage with the document's id; the pieces of a longer one are called id#0, id#1 and so on. They end at sentence
    borders; only a sentence longer than max_words is cut between words. No word is lost.

    Args:
      documents: any number.
      max_words: None keeps every document whole, whatever its length.
      overlap: words that a piece repeats of the one before; they count in max_words.
      counts: counts the documents as they are cut.

    Raises ConfigError: max_words below 1, an overlap below 0 or over half of max_words, or one without max_words.
    """
    if max_words is not None and max_words < 1:
        raise errors.ConfigError(f'max_words is {max_words}; it must be at least 1')
    # With more than half, each word would stand in three passages and more.
    if not 0 <= overlap <= (max_words or 0) // 2:
        most = 'no document is cut: leave it out' if max_words is None else f'it must lie between 0 and half of max_words ({max_words})'
        raise errors.ConfigError(f'overlap is {overlap}; {most}')
    return _split_all(documents, max_words, overlap, counts or CutCounts())


def _split_all(documents: Iterable[corpus_documents.Document], max_words: int | None, overlap: int, counts: CutCounts) -> Iterator[Passage]:
    for document in documents:
        whole = [Passage(document.docid, document.title, document.section, document.text.strip())]
        pieces = whole if max_words is None else _split(document, max_words, overlap) or whole
        counts.add(document, len(pieces))
        yield from pieces


def _split(document: corpus_documents.Document, max_words: int, overlap: int) -> list[Passage]:
    """Returns the pieces of a document; none if it is short enough to stay whole."""
    words = word_spans(document.text)
    # A passage that is a whole document can be replaced by the document's id.
    if len(words) <= max_words:
        return []
    room = max_words - overlap
    bounds = _balanced(_unit_ends(document.text, words, room), room)
    pieces = []
    for number, (first, stop) in enumerate(bounds):
        # A slice of the document: line breaks between words stay.
        text = document.text[words[max(0, first - overlap)][0]:words[stop - 1][1]]
        pieces.append(Passage(f'{document.docid}#{number}', document.title, document.section, text))
    return pieces


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
    """Returns (start, stop) of each word in characters: what white space separates, or one Chinese or Japanese character.

    What is longer than any word is cut into pieces.
    """
    spans = []
    for match in _WORD.finditer(text):
        start, stop = match.span()
        if stop - start <= _LONGEST_WORD:
            spans.append((start, stop))
        else:
            spans += [(place, min(place + _PIECE_CHARACTERS, stop)) for place in range(start, stop, _PIECE_CHARACTERS)]
    return spans


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
