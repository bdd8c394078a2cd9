"""The models and indexes that a server has at hand, by name, and what they do for a batch of questions."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import api
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.serving import problems
from atlas_jax.tasks import task as task_lib

SIZES = (1, 4, 16, 64)  # questions a compiled program takes: few, since each is compiled
_TOP_KS = (5, 10, 20, 50, 100)  # passages a program of the search finds; what is asked for is cut from them


@dataclasses.dataclass(eq=False)
class Holdings:
    """Models and indexes by name; the first of each is taken where a request names none.

    Attributes:
      searcher: how passages are found.
      n_context: passages that a question reads; None is what its model was trained with.
      examples: questions that the page proposes.
    """

    models: dict[str, api.Atlas]
    indexes: dict[str, api.Index]
    searcher: str = 'exact'
    n_context: int | None = None
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Placed once: a model that was read into the host's memory would go to the devices with every batch.
        self.models = {name: atlas.on_devices() for name, atlas in self.models.items()}

    def model_name(self, name: str | None) -> str:
        """Returns the name of a model. Raises ProblemError: there is none of this name."""
        return _known(self.models, name, 'model')

    def index_name(self, name: str | None) -> str:
        """Returns the name of an index. Raises ProblemError: there is none of this name."""
        return _known(self.indexes, name, 'index')

    def described(self) -> dict[str, Any]:
        """Returns the names of models and indexes, and what is known of each."""
        models = [{'name': name, 'n_context': self.passages_read(name), 'calibrated': atlas.calibration is not None}
                  for name, atlas in self.models.items()]
        infos = {name: index.index.info() for name, index in self.indexes.items()}
        indexes = [{'name': name, 'passages': info['rows'] - info['deleted']} for name, info in infos.items()]
        return {'models': models, 'indexes': indexes, 'searcher': self.searcher, 'examples': list(self.examples)}

    def passages_read(self, model: str, n_context: int = 0) -> int:
        """Returns how many passages a question reads; 0 is the default."""
        return max(n_context or self.n_context or self.models[model].config.n_context, 1)


def _known(names: Mapping[str, Any], name: str | None, what: str) -> str:
    if name is None:
        return next(iter(names))
    if name not in names:
        raise problems.ProblemError(404, f'no {what} "{name[:80]}" is served; there is {", ".join(names)}')
    return name


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, and who hears of its answer while it is made."""

    question: str
    listener: api.Listener | None = None


@dataclasses.dataclass(frozen=True)
class Answering:
    """Questions that one program answers together.

    Attributes:
      holdings: where model and index are.
      model, index: their names.
      n_context: passages to read.
      without: docids of passages that are found and not read.
      explain: says what each passage carried.
      closed_book: also answers without passages.
      heard: the questions have listeners.
      together: most questions of one batch.
    """

    holdings: Holdings
    model: str
    index: str
    n_context: int
    without: tuple[str, ...] = ()
    explain: bool = False
    closed_book: bool = False
    heard: bool = False
    together: int = 16

    def compute(self, items: Sequence[Asked]) -> list[dict[str, Any]]:
        """Returns the answers as JSON objects. Raises UserError."""
        atlas, index = self.holdings.models[self.model], self.holdings.indexes[self.index]
        # Fillers make up the rest, as in any last batch.
        size = next(size for size in SIZES if size >= len(items))
        examples = [task_lib.ask(atlas.task, item.question, number) for number, item in enumerate(items)]
        options: dict[str, Any] = {'explain': self.explain}
        if self.heard:
            options['listener'] = _Each([item.listener for item in items])
        if self.without:
            answers = [self._without(atlas, index, example, options) for example in examples]
        else:
            answers = list(atlas.answer_examples(examples, index, self.n_context, size, search=self.holdings.searcher, **options))
        rows = [_row(answer, index) for answer in answers]
        if self.closed_book:
            # Its text alone is shown; a confidence was fitted with passages, and the log would say so.
            known = atlas.answer_examples(examples, None, None, size, signals=False)
            rows = [{**row, 'closed_book': answer.text} for row, answer in zip(rows, known, strict=True)]
        return rows

    def _without(self, atlas: api.Atlas, index: api.Index, example: task_lib.TaskExample, options: dict[str, Any]) -> api.Answer:
        [found] = _searched(atlas, index, [example.question], self.n_context, self.holdings.searcher)
        # What is left is read in as many slots as before, so that one program serves all; nothing takes the place of what is left out.
        read = tuple(each.passage for each in found if each.passage.docid not in self.without)
        read = tuple(passages_lib.Passage(each.docid, each.full_title, '', each.text) for each in read)
        if not read:
            return next(iter(atlas.answer_examples([example], None, None, 1, **options)))
        given = dataclasses.replace(example, passages=read)
        return next(iter(atlas.answer_examples([given], None, self.n_context, 1, use_file_passages=True, **options)))


@dataclasses.dataclass(frozen=True)
class Retrieving:
    """Queries that are searched for together; `answering`'s model, index and searcher."""

    holdings: Holdings
    model: str
    index: str
    top_k: int
    together: int = 64

    def compute(self, items: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Returns the passages found for each query, with their scores. Raises UserError."""
        atlas, index = self.holdings.models[self.model], self.holdings.indexes[self.index]
        size = next(size for size in SIZES if size >= len(items))
        # Fillers are copies, since a search for nothing is one too.
        queries = [*items, *[items[-1]] * (size - len(items))]
        found = _searched(atlas, index, queries, self.top_k, self.holdings.searcher)[:len(items)]
        return [[{'document': {'id': each.passage.docid, 'contents': f'"{each.passage.full_title}"\n{each.passage.text}'},
                  'score': each.score} for each in row] for row in found]


def _searched(atlas: api.Atlas, index: api.Index, questions: Sequence[str], top_k: int, searcher: str) -> list[list[api.Found]]:
    # Cut behind the search, so that each number of passages is not another program.
    most = next((most for most in _TOP_KS if most >= top_k), top_k)
    return [row[:top_k] for row in atlas.search(questions, index, most, searcher)]


class _Each:
    """Tells each question's listener about its row."""

    def __init__(self, listeners: Sequence[api.Listener | None]):
        self._listeners = listeners

    def found(self, row: int, passages: tuple[api.AnswerPassage, ...]) -> None:
        """Tells the row's listener."""
        if (listener := self._listeners[row]) is not None:
            listener.found(row, passages)

    def text(self, row: int, text: str) -> None:
        """Tells the row's listener."""
        if (listener := self._listeners[row]) is not None:
            listener.text(row, text)


def _row(answer: api.Answer, index: api.Index) -> dict[str, Any]:
    passages = [passage_row(each, index) for each in answer.passages]
    return {'question': answer.question, 'text': answer.text, 'confidence': answer.confidence, 'passages': passages}


def passage_row(read: api.AnswerPassage, index: api.Index) -> dict[str, Any]:
    """Returns a passage that was read as a JSON object, with title and section as they were indexed."""
    # What was read has title and section joined, as the models see them.
    found = find(index, read.docid)
    title, section = (read.title, '') if found is None else (found.title, found.section)
    # Strings and numbers alone, in the order in which people read them.
    row: dict[str, Any] = {'docid': read.docid, 'title': title, 'section': section, 'text': read.text, 'score': read.score,
                           'attention': read.attention}
    # What was not asked for is not there, rather than null.
    if read.words:
        row |= {'carried': read.carried, 'words': [list(pair) for pair in read.words]}
    return row


def find(index: api.Index, docid: str) -> passages_lib.Passage | None:
    """Returns the passage of a docid as searches find it; None where there is none, or it was deleted."""
    row = index.store.find(docid)
    # A row that the index does not have yet is none that is found.
    if row is None or row >= len(index.index) or index.index.deleted[row]:
        return None
    return index.store[row]


def etag(passage: passages_lib.Passage) -> str:
    """Returns the version of a passage, as an HTTP entity tag."""
    # Of what it says, not of when: an edit that is taken back has the version from before.
    fields = json.dumps(dataclasses.astuple(passage)).encode()
    return f'"{hashlib.sha256(fields).hexdigest()[:16]}"'
