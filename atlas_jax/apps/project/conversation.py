"""A conversation with a model and its index: questions, the same question with other passages, and
changes of the index.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from concurrent import futures

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.corpus import documents, passages
from atlas_jax.io import jsonl
from atlas_jax.tasks import task as task_lib

_ARTICLES = {'a', 'an', 'the'}
_MOST_WORDS = 3  # words of a passage that are shown with their attention


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
      answer: the answer, with the passages that were read.
      closed_book: the reader's answer without passages; None if it was not asked for.
      changed: changes of the passages, such as 'without passage 2'; '' for none.
      read: the passages as they were read, in order.
    """

    answer: api.Answer
    closed_book: str | None = None
    changed: str = ''
    read: tuple[passages.Passage, ...] = ()

    def row(self) -> dict:
        """Returns the turn as a row of the exported file."""
        row = {**dataclasses.asdict(self.answer), 'closed_book': self.closed_book}
        return row | ({'changed': self.changed} if self.changed else {})


class Conversation:
    """Asks one model, and keeps every turn.

    Attributes:
      atlas: the model.
      index: the index that is searched.
      turns: the turns so far.
    """

    def __init__(self, atlas: api.Atlas, index: api.Index, searcher: str = 'exact',
                 n_context: int | None = None, closed_book: bool = True):
        """Starts a conversation without turns.

        Args:
          atlas: the model that built the index.
          index: the index to search.
          searcher: the search method.
          n_context: number of passages to read; None takes the number of the model's training.
          closed_book: also answers without passages.
        """
        self.atlas, self.index, self.turns = atlas, index, list[Turn]()
        self._searcher, self._closed_book = searcher, closed_book
        self._n_context = max(n_context or atlas.config.n_context, 1)

    def ask(self, question: str) -> Turn:
        """Answers a question.

        Raises ConfigError: it is empty or too long; IndexFolderError, StoreError.
        """
        with futures.ThreadPoolExecutor(1) as beside:
            # The two programs run side by side, because decoding one question leaves a core free.
            # On several devices they could wait for each other's collectives, so they run one after
            # the other. The closed-book answer needs no signals: the confidence was fitted with
            # passages, and every question would print a note about that.
            known = beside.submit(self.atlas.answer, [question],
                                  signals=False) if self._closed_book else None
            if known is not None and self.atlas.mesh.size > 1:
                futures.wait([known])
            [answer] = self.atlas.answer([question], self.index, self._n_context,
                                         search=self._searcher, explain=True)
        closed_book = None if known is None else known.result()[0].text
        read = tuple(passages.Passage(each.docid, each.title, '', each.text)
                     for each in answer.passages)
        return self._keep(Turn(answer, closed_book, read=read))

    def without(self, number: int) -> Turn:
        """Answers the last question again without one of its passages, counted from 1.

        Raises ConfigError: there is no such passage.
        """
        read = list(self._last(number).read)
        del read[number - 1]
        return self._again(read, f'without passage {number}')

    def edit(self, number: int, text: str) -> Turn:
        """Answers the last question again with another text of one passage, counted from 1. The
        index stays as it is.

        Raises ConfigError: there is no such passage, or the text is empty.
        """
        read = list(self._last(number).read)
        if not text.strip():
            raise errors.ConfigError(f'give passage {number} a text, or leave it out with :without '
                                     f'{number}')
        read[number - 1] = dataclasses.replace(read[number - 1], text=text.strip())
        return self._again(read, f'passage {number} edited')

    def add(self, path: str) -> str:
        """Adds documents to the index; one with a known id replaces it. Returns a line about it.

        Raises InputFileError, IndexFolderError.
        """
        # All documents are read before the first is stored: a mistake in one leaves the index
        # unchanged.
        added = list(passages.split_passages(documents.read_documents(path)))
        rows = self.index.replace(added, self.atlas)
        return f'{self.index.index.path}: added {rows} passages, such as {added[0].docid}'

    def delete(self, docid: str) -> str:
        """Takes a passage out of the index. Returns a line about it.

        Raises IndexFolderError, StoreError: there is no such passage.
        """
        # The same message as for an id that never existed: either may be misspelt.
        row = int(self.index.store.rows_of([docid])[0])
        if row < len(self.index.index) and self.index.index.deleted[row]:
            raise errors.IndexFolderError(f'{self.index.index.path}: no passage "{docid}" in this '
                                          'index any more; check the docid')
        self.index.delete([docid])
        return f'{self.index.index.path}: deleted {docid}'

    def use_index(self, path: str) -> str:
        """Searches another index from now on. Returns its description.

        Raises IndexFolderError, StoreError: it is damaged, or another model built it.
        """
        index = api.Index.open(path)
        index.check(self.atlas)
        self.index = index
        return self.description()

    def description(self) -> str:
        """Returns one line that describes the index."""
        info = self.index.index.info()
        return f'{self.index.index.path}: {info["rows"] - info["deleted"]} passages'

    def export(self, path: str | os.PathLike) -> str:
        """Writes all turns as JSON lines. Returns a line about it.

        Raises ConfigError: the file has another suffix, or nothing was asked.
        """
        if not self.turns:
            raise errors.ConfigError(f'{path}: nothing was asked yet')
        if pathlib.Path(path).suffix != '.jsonl':
            raise errors.ConfigError(f'{path}: give a name that ends in .jsonl')
        jsonl.write(path, (turn.row() for turn in self.turns))
        return f'{path}: {len(self.turns)} answers'

    def _last(self, number: int) -> Turn:
        if not self.turns:
            raise errors.ConfigError('ask a question first')
        if not 1 <= number <= len(self.turns[-1].read):
            raise errors.ConfigError(f'the last answer read {len(self.turns[-1].read)} passages; '
                                     f'there is no passage {number}')
        return self.turns[-1]

    def _again(self, read: Sequence[passages.Passage], changed: str) -> Turn:
        last = self.turns[-1]
        # Changes of the passages add up until another question is asked.
        changed = ', '.join(filter(None, (last.changed, changed)))
        if read:
            example = dataclasses.replace(task_lib.ask(self.atlas.task, last.answer.question, 0),
                                          passages=tuple(read))
            # As many slots as before, so that one compiled program serves all changes. Empty slots
            # are not read.
            [answer] = self.atlas.answer_examples([example], None, self._n_context, 1,
                                                  use_file_passages=True, explain=True)
        else:
            [answer] = self.atlas.answer([last.answer.question])
        return self._keep(Turn(answer, last.closed_book, changed, tuple(read)))

    def _keep(self, turn: Turn) -> Turn:
        self.turns.append(turn)
        return turn


def as_text(turn: Turn, mark: Callable[[str], str]) -> str:
    """Returns a turn as text for a terminal. `mark` marks the words of a passage that hold the
    answer.
    """
    answer, notes = turn.answer, [turn.changed] if turn.changed else []
    if answer.confidence is not None:  # the model is calibrated
        notes.append(f'confidence {answer.confidence:.2f}')
    if turn.closed_book is not None:
        notes.append(f'closed book: {turn.closed_book or "(nothing)"}')
    lines = [(answer.text or '(no answer)') + (f'   [{"; ".join(notes)}]' if notes else '')]
    for rank, passage in enumerate(answer.passages, start=1):
        # Attention shows where the reader looked. `carried` shows what the answer loses without
        # the passage.
        carried = '' if passage.carried is None else f', carried {passage.carried:+.2f}'
        lines += [f'  {rank}. score {passage.score:.3f}, attention '
                  f'{passage.attention:.0%}{carried}  [{passage.docid}] {passage.title}',
                  f'     {marked(" ".join(passage.text.split()), answer.text, mark)}']
        if passage.words:
            lines.append(f'     looked at: {", ".join(most_attended(passage.words))}')
    return '\n'.join(lines)


def most_attended(words: Sequence[tuple[str, float]]) -> list[str]:
    """Returns the words of a passage with the most attention, most first. Each appears once,
    without punctuation around it.
    """
    shares: dict[str, float] = {}
    for word, share in words:
        if word := word.strip('.,;:!?()[]{}"“”\'…'):
            shares[word] = shares.get(word, 0.) + share
    return sorted(shares, key=lambda word: -shares[word])[:_MOST_WORDS]


def marked(text: str, answer: str, mark: Callable[[str], str]) -> str:
    """Returns a passage with every occurrence of the answer marked. Case, and punctuation between
    the words, are ignored.
    """
    # Articles are ignored: "a north cellar" contains "the north cellar".
    words = [word for word in re.findall(r'\w+', answer) if word.lower() not in _ARTICLES]
    if not words:
        return text
    return re.sub(r'(?<!\w)' + r'\W+'.join(map(re.escape, words)) + r'(?!\w)',
                  lambda found: mark(found[0]), text, flags=re.IGNORECASE)
