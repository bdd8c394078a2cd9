"""A conversation with a model and its index: questions, what-ifs about the passages that were read, and changes of the index."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from concurrent import futures

from atlas_jax import api, errors
from atlas_jax.corpus import documents, passages
from atlas_jax.io import jsonl
from atlas_jax.tasks import task as task_lib

_ARTICLES = {'a', 'an', 'the'}
_MOST_WORDS = 3  # of a passage that are shown as looked at


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
      answer: with the passages that were read.
      closed_book: the reader's answer without passages; None where it was not asked for.
      changed: what was other than usual, such as 'without passage 2'.
      read: the passages as they were read, in order.
    """

    answer: api.Answer
    closed_book: str | None = None
    changed: str = ''
    read: tuple[passages.Passage, ...] = ()

    def row(self) -> dict:
        """Returns the turn as a row of an export."""
        row = dataclasses.asdict(self.answer)
        return {**row, 'closed_book': self.closed_book, **({'changed': self.changed} if self.changed else {})}


class Conversation:
    """Asks one model; keeps every turn.

    Attributes:
      atlas: the model.
      index: what is searched.
      turns: so far.
    """

    def __init__(self, atlas: api.Atlas, index: api.Index, searcher: str = 'exact', n_context: int | None = None, closed_book: bool = True):
        """Begins one.

        Args:
          atlas: a model that built the index.
          index: what to search.
          searcher: how.
          n_context: passages to read; None is what the model was trained with.
          closed_book: also answers without passages.
        """
        self.atlas, self.index, self.turns = atlas, index, list[Turn]()
        self._searcher, self._closed_book = searcher, closed_book
        self._n_context = max(n_context or atlas.config.n_context, 1)

    def ask(self, question: str) -> Turn:
        """Answers a question. Raises ConfigError: it is empty, or too long for one; IndexFolderError, StoreError."""
        with futures.ThreadPoolExecutor(1) as beside:
            # Either program leaves a core free while one question is decoded. Over several devices two of them may wait for each other's
            # collectives, so there the first is done before the second begins.
            # Its text alone is shown; a confidence was fitted with passages, and each question would be told so.
            known = beside.submit(self.atlas.answer, [question], signals=False) if self._closed_book else None
            if known is not None and self.atlas.mesh.size > 1:
                futures.wait([known])  # ends: the thread computes one answer
            [answer] = self.atlas.answer([question], self.index, self._n_context, search=self._searcher, explain=True)
        closed_book = None if known is None else known.result()[0].text
        read = tuple(passages.Passage(each.docid, each.title, '', each.text) for each in answer.passages)
        return self._kept(Turn(answer, closed_book, read=read))

    def without(self, place: int) -> Turn:
        """Answers the last question again without the passage at a place (from 1). Raises ConfigError: there is none."""
        last = self._last(place)
        return self._again([each for number, each in enumerate(last.read, start=1) if number != place], f'without passage {place}')

    def edit(self, place: int, text: str) -> Turn:
        """Answers the last question again with another text of a passage (from 1). The index stays. Raises ConfigError: there is none."""
        last = self._last(place)
        if not text.strip():
            raise errors.ConfigError(f'give passage {place} a text, or leave it out with :without {place}')
        read = list(last.read)
        read[place - 1] = dataclasses.replace(read[place - 1], text=text.strip())
        return self._again(read, f'passage {place} edited')

    def add(self, path: str) -> str:
        """Adds documents to the index; one with a known id replaces it. Returns what was done. Raises InputFileError, IndexFolderError."""
        # All documents are read before the first is stored: a mistake in one leaves the index as it was.
        added = list(passages.split_passages(documents.read_documents(path)))
        rows = self.index.replace(added, self.atlas)
        return f'{self.index.index.path}: added {rows} passages, such as {added[0].docid}'

    def delete(self, docid: str) -> str:
        """Takes a passage out of the index. Returns what was done. Raises IndexFolderError, StoreError: there is none."""
        # The same answer as for an id that was never there: either may be misspelt.
        row = int(self.index.store.rows_of([docid])[0])
        if row < len(self.index.index) and self.index.index.deleted[row]:
            raise errors.IndexFolderError(f'{self.index.index.path}: no passage "{docid}" in this index any more; check the docid')
        self.index.delete([docid])
        return f'{self.index.index.path}: deleted {docid}'

    def use_index(self, path: str) -> str:
        """Searches another index from now on. Returns its description. Raises IndexFolderError, StoreError: another model built it."""
        index = api.Index.open(path)
        index.check(self.atlas)
        self.index = index
        return self.described()

    def described(self) -> str:
        """Returns a line about the index."""
        info = self.index.index.info()
        return f'{self.index.index.path}: {info["rows"] - info["deleted"]} passages'

    def export(self, path: str | os.PathLike) -> str:
        """Writes all turns as JSON lines. Returns what was done. Raises ConfigError: another kind of file, or nothing was asked."""
        if pathlib.Path(path).suffix != '.jsonl' or not self.turns:
            raise errors.ConfigError(f'{path}: {"nothing was asked yet" if not self.turns else "give a name that ends in .jsonl"}')
        jsonl.write(path, (turn.row() for turn in self.turns))
        return f'{path}: {len(self.turns)} answers'

    def _last(self, place: int) -> Turn:
        if not self.turns:
            raise errors.ConfigError('ask a question first')
        if not 1 <= place <= len(self.turns[-1].read):
            raise errors.ConfigError(f'the last answer read {len(self.turns[-1].read)} passages; there is no passage {place}')
        return self.turns[-1]

    def _again(self, read: Sequence[passages.Passage], changed: str) -> Turn:
        last = self.turns[-1]
        # What-ifs add up, until another question is asked.
        changed = ', '.join(filter(None, (last.changed, changed)))
        example = task_lib.ask(self.atlas.task, last.answer.question, 0)
        # As many slots as before, so that one program serves all what-ifs; empty ones are not read.
        [answer] = self.atlas.answer_examples([dataclasses.replace(example, passages=tuple(read))], None, self._n_context, 1,
                                              use_file_passages=True, explain=True) if read else self.atlas.answer([last.answer.question])
        return self._kept(Turn(answer, last.closed_book, changed, tuple(read)))

    def _kept(self, turn: Turn) -> Turn:
        self.turns.append(turn)
        return turn


def as_text(turn: Turn, mark: Callable[[str], str]) -> str:
    """Returns a turn for reading in a terminal; `mark` shows the words of a passage that carry the answer."""
    answer, known = turn.answer, [] if turn.closed_book is None else [f'closed book: {turn.closed_book or "(nothing)"}']
    # None where the model was never calibrated.
    if answer.confidence is not None:
        known.insert(0, f'confidence {answer.confidence:.2f}')
    if turn.changed:
        known.insert(0, turn.changed)
    lines = [(answer.text or '(no answer)') + (f'   [{"; ".join(known)}]' if known else '')]
    for place, passage in enumerate(answer.passages, start=1):
        # Attention says where the reader looked; only leaving a passage out says what it was worth.
        carried = '' if passage.carried is None else f', carried {passage.carried:+.2f}'
        looked_at = '' if not passage.words else f'\n     looked at: {", ".join(most_attended(passage.words))}'
        lines += [f'  {place}. score {passage.score:.3f}, attention {passage.attention:.0%}{carried}  [{passage.docid}] {passage.title}',
                  f'     {marked(" ".join(passage.text.split()), answer.text, mark)}{looked_at}']
    return '\n'.join(lines)


def most_attended(words: Sequence[tuple[str, float]]) -> list[str]:
    """Returns the words of a passage that had most of the attention, most first, each once and without the marks around it."""
    shares: dict[str, float] = {}
    for word, share in words:
        if word := word.strip('.,;:!?()[]{}"“”\'…'):
            shares[word] = shares.get(word, 0.) + share
    return sorted(shares, key=lambda word: -shares[word])[:_MOST_WORDS]


def marked(text: str, answer: str, mark: Callable[[str], str]) -> str:
    """Returns a passage with the places marked where the answer stands in it, whatever the case and punctuation between its words."""
    # "the north cellar" stands in "a north cellar" too.
    words = [word for word in re.findall(r'\w+', answer) if word.lower() not in _ARTICLES]
    if not words:
        return text
    return re.sub(r'(?<!\w)' + r'\W+'.join(map(re.escape, words)) + r'(?!\w)', lambda found: mark(found[0]), text, flags=re.IGNORECASE)
