"""Cuts documents into passages of about a hundred words, at sentence ends found by rules."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from atlas_jax import errors
from atlas_jax.corpus import documents as corpus_documents

MAX_WORDS = 100  # as in DPR and Atlas
# Chinese and Japanese have no spaces between words: each character counts as a word.
UNSPACED = '\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
# A longer run of letters is no word, but a table without spaces, a sequence or an encoded picture.
# It is cut into pieces, so that a picture of 300,000 letters does not become one passage; 100
# pieces have about as many tokens as the models read.
_LONGEST_WORD, _PIECE_CHARACTERS = 100, 20
_ODD_RUN = 1000  # longer runs without a space are reported; addresses are shorter
_RUN = re.compile(f'[^\\s{UNSPACED}]+')
_WORD = re.compile(f'[{UNSPACED}][、。，：；！？」』）]*|[^\\s{UNSPACED}]+')
_CLOSING = '"\'”’»)\\]}'
_END = re.compile(f'[.!?…][{_CLOSING}]*$')
_WIDE_END = re.compile('[。！？][」』）]*$')
# A full stop after one of these, or after an initial, does not end a sentence.
_ABBREVIATION = re.compile(
    r'(?:^|[(\["\'“‘])(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|Rev|Gen|Col|Capt|Lt|Sgt'
    r'|Sen|Rep|Gov|Pres|St|Mt|Ft|Jr|Sr|Inc|Ltd|Co|Corp|No|Nos|Vol|pp?|vs?|etc|cf|ca|approx|est|Fig'
    r'|figs?|Eq|Sec|Ch|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$')


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of text that is retrieved and read; title and section may be empty.

    `docid` is its name outside the index.
    """

    docid: str
    title: str
    section: str
    text: str

    @property
    def full_title(self) -> str:
        """The title as the models see it: "title: section", or whichever is not empty."""
        return ': '.join(filter(None, (self.title, self.section)))


@dataclasses.dataclass(frozen=True)
class ScoredPassage(Passage):
    """A passage with a teacher's score, which the retriever learns.

    See DistillConfig.gold_score_mode "file".
    """

    gold_score: float = 0.0


@dataclasses.dataclass
class CutCounts:
    """Counts the documents of `split_passages`, and those that were cut.

    Also names the document with the longest run without a space.
    """

    documents: int = 0
    cut: int = 0
    longest_run: int = 0
    longest_run_docid: str = ''

    def add(self, document: corpus_documents.Document, pieces: int) -> None:
        """Counts a document that was cut into `pieces` passages."""
        self.documents += 1
        self.cut += pieces > 1
        # _RUN skips Chinese and Japanese, which have no spaces.
        is_odd = any(len(run) > _ODD_RUN for run in document.text.split())
        runs = _RUN.findall(document.text) if is_odd else ()
        if (longest := max(map(len, runs), default=0)) > max(self.longest_run, _ODD_RUN):
            self.longest_run, self.longest_run_docid = longest, document.docid

    def messages(self, max_words: int | None) -> list[str]:
        """Returns notes for the user, a line each; `max_words` is that of `split_passages`."""
        lines = []
        if self.cut:
            lines.append(f'{self.cut} of {self.documents} documents were longer than {max_words} '
                         'words and were cut; --as_passages keeps them whole')
        if self.longest_run:
            done = ('was kept whole' if max_words is None
                    else f'counts as a word for each {_PIECE_CHARACTERS} characters')
            lines.append(f'document "{self.longest_run_docid}" has {self.longest_run} characters '
                         f'without a space, which {done}; is it text?')
        return lines


def split_passages(documents: Iterable[corpus_documents.Document],
                   max_words: int | None = MAX_WORDS, overlap: int = 0,
                   counts: CutCounts | None = None) -> Iterator[Passage]:
    """Cuts documents into passages of at most `max_words` words and about equal length.

    A short document is one passage with the document's id; the pieces of a longer one are named
    id#0, id#1 and so on. They end where sentences end; only a sentence longer than max_words is cut
    between words. No word is lost.

    Args:
      documents: The documents.
      max_words: Longest passage in words; None keeps documents whole.
      overlap: Words repeated from the piece before; they count in max_words.
      counts: Counts the documents as they are cut.

    Raises ConfigError: max_words is below 1, overlap is below 0 or over half of max_words, or there
    is an overlap without max_words.
    """
    if max_words is not None and max_words < 1:
        raise errors.ConfigError(f'max_words is {max_words}; it must be at least 1')
    # A larger overlap would repeat words in three passages and more.
    if not 0 <= overlap <= (max_words or 0) // 2:
        most = ('no document is cut: leave it out' if max_words is None
                else f'it must lie between 0 and half of max_words ({max_words})')
        raise errors.ConfigError(f'overlap is {overlap}; {most}')
    return _split_all(documents, max_words, overlap, counts or CutCounts())


def _split_all(documents: Iterable[corpus_documents.Document], max_words: int | None, overlap: int,
               counts: CutCounts) -> Iterator[Passage]:
    for document in documents:
        whole = [Passage(document.docid, document.title, document.section, document.text.strip())]
        pieces = whole if max_words is None else _split(document, max_words, overlap) or whole
        counts.add(document, len(pieces))
        yield from pieces


def _split(document: corpus_documents.Document, max_words: int, overlap: int) -> list[Passage]:
    """Returns the pieces of a document, or [] if it is short enough to stay whole."""
    words = word_spans(document.text)
    if len(words) <= max_words:
        return []
    room = max_words - overlap
    bounds = _balanced(_unit_ends(document.text, words, room), room)
    pieces = []
    for number, (first, stop) in enumerate(bounds):
        # A slice of the document keeps line breaks.
        text = document.text[words[max(0, first - overlap)][0]:words[stop - 1][1]]
        pieces.append(Passage(f'{document.docid}#{number}', document.title, document.section, text))
    return pieces


def _unit_ends(text: str, words: list[tuple[int, int]], max_words: int) -> list[int]:
    """Returns the word numbers where a passage may end: after sentences, and inside long ones."""
    ends, start = [], 0
    for end in sentence_ends(text, words):
        # Pieces of equal length: a sentence of max_words + 1 words is cut in half.
        pieces = math.ceil((end - start) / max_words)
        ends += [start + (end - start) * piece // pieces for piece in range(1, pieces + 1)]
        start = end
    return ends


def _balanced(ends: list[int], max_words: int) -> list[tuple[int, int]]:
    """Returns [(first word, word after the last)] of passages that end at some of `ends`.

    Their lengths are as equal as possible: dynamic programming minimises the sum of squared
    deviations from the mean length.
    """
    target = ends[-1] / math.ceil(ends[-1] / max_words)
    starts = [0, *ends]
    # Cost of the best division up to each of `starts`, and the start of its last passage.
    costs, previous = [0.0], [0]
    for number, end in enumerate(ends, start=1):
        best, chosen = float('inf'), number - 1
        for candidate in range(number - 1, -1, -1):
            size = end - starts[candidate]
            if size > max_words:
                break  # earlier candidates make longer passages still
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
    """Returns (start, stop) of each word in characters.

    Words are separated by white space; each Chinese or Japanese character is one. Runs longer than
    any word are cut into pieces.
    """
    spans = []
    for match in _WORD.finditer(text):
        start, stop = match.span()
        if stop - start <= _LONGEST_WORD:
            spans.append((start, stop))
        else:
            spans += [(place, min(place + _PIECE_CHARACTERS, stop))
                      for place in range(start, stop, _PIECE_CHARACTERS)]
    return spans


def sentence_ends(text: str, words: list[tuple[int, int]]) -> list[int]:
    """Returns the word numbers where sentences end; the last is the number of words.

    A sentence ends before a blank line, and after . ! ? … unless the next word is in lower case or
    the full stop belongs to a known abbreviation or an initial.
    """
    ends = [number for number in range(1, len(words))
            if _ends(text, words[number - 1], words[number])]
    return [*ends, len(words)] if words else []


def _ends(text: str, word: tuple[int, int], following: tuple[int, int]) -> bool:
    # A blank line ends a paragraph or heading, which need not have a full stop.
    if text.count('\n', word[1], following[0]) > 1:
        return True
    written = text[slice(*word)]
    if _WIDE_END.search(written):  # these are not followed by a space
        return True
    if word[1] == following[0] or not _END.search(written) or text[following[0]].islower():
        return False
    # "1." at the beginning of a line numbers a list; eight characters hold any usual indentation.
    before = text[max(0, word[0] - 8):word[0]].rstrip(' \t')[-1:]
    numbers_a_line = written[:-1].isdigit() and before in ('', '\n')
    return not numbers_a_line and not _ABBREVIATION.search(written)
