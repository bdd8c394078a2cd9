"""The models and indexes of a server, by name, and how they answer a batch of questions."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.answering import api
from atlas_jax.apps.serving import problems
from atlas_jax.corpus import passages as passages_lib
from atlas_jax.tasks import task as task_lib

SIZES = (1, 4, 16, 64)  # batch sizes of compiled programs: few, because each must be compiled
# Passages that a compiled search finds. Requests for other numbers get the first of them.
_TOP_KS = (5, 10, 20, 50, 100)


@dataclasses.dataclass(eq=False)
class Holdings:
    """Models and indexes by name. Requests without a name get the first.

    Attributes:
      searcher: name of the searcher.
      n_context: passages that a question reads; None uses the model's own number.
      examples: questions that the page proposes.
    """

    models: dict[str, api.Atlas]
    indexes: dict[str, api.Index]
    searcher: str = 'exact'
    n_context: int | None = None
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Placed once: a model in the host's memory would be copied to the devices with every batch.
        self.models = {name: atlas.on_devices() for name, atlas in self.models.items()}

    def model_name(self, name: str | None) -> str:
        """Returns a model's name, or the first one's for None. Raises ProblemError: unknown name.
        """
        return _known(self.models, name, 'model')

    def index_name(self, name: str | None) -> str:
        """Returns an index's name, or the first one's for None. Raises ProblemError: unknown name.
        """
        return _known(self.indexes, name, 'index')

    def described(self) -> dict[str, Any]:
        """Returns the names and properties of models and indexes."""
        models = [{'name': name, 'n_context': self.passages_read(name),
                   'calibrated': atlas.calibration is not None}
                  for name, atlas in self.models.items()]
        infos = {name: index.index.info() for name, index in self.indexes.items()}
        indexes = [{'name': name, 'passages': info['rows'] - info['deleted']}
                   for name, info in infos.items()]
        return {
            'models': models, 'indexes': indexes, 'searcher': self.searcher,
            'examples': list(self.examples)}

    def passages_read(self, model: str, n_context: int = 0) -> int:
        """Returns the number of passages that a question reads; 0 means the default."""
        return max(n_context or self.n_context or self.models[model].config.n_context, 1)


def _known(names: Mapping[str, Any], name: str | None, what: str) -> str:
    if name is None:
        return next(iter(names))
    if name not in names:
        raise problems.ProblemError(404, f'no {what} "{name[:80]}" is served; there is '
                                         f'{", ".join(names)}')
    return name


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, and the listener of its answer's progress."""

    question: str
    listener: api.AnswerListener | None = None


@dataclasses.dataclass(frozen=True)
class Answering:
    """Settings of questions that one program answers together.

    Attributes:
      holdings: the server's models and indexes.
      model, index: names in `holdings`.
      n_context: passages to read.
      without: docids of found passages to leave out.
      explain: reports how much each passage contributed.
      closed_book: also answers without passages.
      streamed: True if the questions have listeners.
      together: maximum number of questions in a batch.
    """

    holdings: Holdings
    model: str
    index: str
    n_context: int
    without: tuple[str, ...] = ()
    explain: bool = False
    closed_book: bool = False
    streamed: bool = False
    together: int = 16

    def compute(self, items: Sequence[Question]) -> list[dict[str, Any]]:
        """Returns the answers as JSON objects. Raises UserError."""
        atlas, index = self.holdings.models[self.model], self.holdings.indexes[self.index]
        # Fillers complete the batch.
        size = next(size for size in SIZES if size >= len(items))
        examples = [
            task_lib.ask(atlas.task, item.question, number) for number, item in enumerate(items)]
        options: dict[str, Any] = {'explain': self.explain}
        if self.streamed:
            options['listener'] = _RowListeners([item.listener for item in items])
        if self.without:
            answers = [self._without(atlas, index, example, options) for example in examples]
        else:
            answers = list(
                atlas.answer_examples(examples, index, self.n_context, size,
                                      search=self.holdings.searcher, **options))
        rows = [_row(answer, index) for answer in answers]
        if self.closed_book:
            # Only the text is shown. Without signals: confidences were fitted with passages, and
            # the log would warn.
            known = atlas.answer_examples(examples, None, None, size, signals=False)
            rows = [{**row, 'closed_book': answer.text}
                    for row, answer in zip(rows, known, strict=True)]
        return rows

    def _without(self, atlas: api.Atlas, index: api.Index, example: task_lib.TaskExample,
                 options: dict[str, Any]) -> api.Answer:
        [found] = _searched(atlas, index, [example.question], self.n_context,
                            self.holdings.searcher)
        # The number of passage slots stays the same, so that one program serves all requests. No
        # other passages replace those left out.
        read = tuple(
            passages_lib.Passage(each.passage.docid, each.passage.full_title, '',
                                 each.passage.text)
            for each in found if each.passage.docid not in self.without)
        if not read:
            return next(iter(atlas.answer_examples([example], None, None, 1, **options)))
        given = dataclasses.replace(example, passages=read)
        answers = atlas.answer_examples([given], None, self.n_context, 1, use_file_passages=True,
                                        **options)
        return next(iter(answers))


@dataclasses.dataclass(frozen=True)
class Retrieving:
    """Settings of queries that are searched together; see `Answering`."""

    holdings: Holdings
    model: str
    index: str
    top_k: int
    together: int = 64

    def compute(self, items: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Returns the passages found for each query, with scores. Raises UserError."""
        atlas, index = self.holdings.models[self.model], self.holdings.indexes[self.index]
        size = next(size for size in SIZES if size >= len(items))
        # Fillers are copies of a query.
        queries = [*items, *[items[-1]] * (size - len(items))]
        found = _searched(atlas, index, queries, self.top_k, self.holdings.searcher)[:len(items)]
        return [[_found_row(each) for each in row] for row in found]


def _found_row(found: api.FoundPassage) -> dict[str, Any]:
    passage = found.passage
    document = {'id': passage.docid, 'contents': f'"{passage.full_title}"\n{passage.text}'}
    return {'document': document, 'score': found.score}


def _searched(atlas: api.Atlas, index: api.Index, questions: Sequence[str], top_k: int,
              searcher: str) -> list[list[api.FoundPassage]]:
    # Cut after the search, so that not every number of passages needs a compiled program.
    most = next((most for most in _TOP_KS if most >= top_k), top_k)
    return [row[:top_k] for row in atlas.search(questions, index, most, searcher)]


class _RowListeners:
    """Passes each row's events to its question's listener."""

    def __init__(self, listeners: Sequence[api.AnswerListener | None]):
        self._listeners = listeners

    def found(self, row: int, passages: tuple[api.AnswerPassage, ...]) -> None:
        """Reports the passages found."""
        if (listener := self._listeners[row]) is not None:
            listener.found(row, passages)

    def text(self, row: int, text: str) -> None:
        """Reports the text so far."""
        if (listener := self._listeners[row]) is not None:
            listener.text(row, text)


def _row(answer: api.Answer, index: api.Index) -> dict[str, Any]:
    passages = [passage_row(each, index) for each in answer.passages]
    return {
        'question': answer.question, 'text': answer.text, 'confidence': answer.confidence,
        'passages': passages}


def passage_row(read: api.AnswerPassage, index: api.Index) -> dict[str, Any]:
    """Returns a read passage as a JSON object, with the index's title and section."""
    # A read passage has title and section joined, as the models see them.
    found = find(index, read.docid)
    title, section = (read.title, '') if found is None else (found.title, found.section)
    row: dict[str, Any] = {
        'docid': read.docid, 'title': title, 'section': section, 'text': read.text,
        'score': read.score, 'attention': read.attention}
    # Absent, rather than null, unless requested.
    if read.words:
        row |= {'carried': read.carried, 'words': [list(pair) for pair in read.words]}
    return row


def find(index: api.Index, docid: str) -> passages_lib.Passage | None:
    """Returns the passage of a docid; None if it is unknown or deleted."""
    row = index.store.find(docid)
    # Searches cannot find a row that is not in the index yet.
    if row is None or row >= len(index.index) or index.index.deleted[row]:
        return None
    return index.store[row]


def etag(passage: passages_lib.Passage) -> str:
    """Returns the version of a passage, as an HTTP entity tag."""
    # From the content, not the time: undoing an edit restores the version.
    fields = json.dumps(dataclasses.astuple(passage)).encode()
    return f'"{hashlib.sha256(fields).hexdigest()[:16]}"'
