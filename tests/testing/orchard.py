"""A server whose reader is made up: it finds passages by shared words and reads names from them, so that tests in a browser are cheap."""

import asyncio
import contextlib
import dataclasses
import re
import socket
import threading

import uvicorn

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.apps.serving import app, holdings, request_limits, server
from atlas_jax.corpus.passages import Passage
from atlas_jax.knowledge.index_with_store import FoundPassage
from tests.apps.serving import conftest

APPLES = Passage('apples', 'Orchard handbook', 'Apples',
                 'The old apple trees behind the barn are Boskoop. They were planted in 1934 and are picked in the second week of October.')
OLD = Passage('old', 'Handbook of 1950', '', 'The apple trees behind the barn are Gravenstein.')
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
PASSAGES = [
    APPLES,
    Passage('pears', 'Orchard handbook', 'Pears',
            'The pear trees along the wall are Conference. They are picked in September, and the fruit is stored in the north cellar.'),
    Passage('bees/hives', 'Orchard handbook', 'Bees', 'The orchard keeps eleven hives behind the wall. The bees are looked after by Martha '
            'Lind, who harvests the honey in July.'),
    Passage('press', 'Minutes of 2020', '', f'In 2020 the orchard sold its cider press to the village of Brede. {HOSTILE}')]


def _words(text):
    return re.findall(r'\w+', text.lower())


@dataclasses.dataclass
class Reader(conftest.FakeAtlas):
    """Answers with the first name of the best passage; `gate` holds an answer back while its text is half there."""

    confidence: float | None = None
    long: str = ''  # the answer, where one is given
    gate: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self):
        self.gate.set()

    @property
    def calibration(self):
        """Returns whether answers have a confidence, as /models asks."""
        return self.confidence

    def answer_examples(self, examples, index, n_context, batch_size, search=None, use_file_passages=False, explain=False, listener=None,
                        signals=None):
        for row, example in enumerate(examples):
            if 'refused' in example.question:
                raise errors.ConfigError('this question\nis refused')
            read = example.passages if use_file_passages else self._found(example.question, index)[:n_context] if index else ()
            text = self.long or (_name(read, example.question) if read else 'Golden Delicious')
            passages = tuple(_explained(each, place, len(read), text, explain) for place, each in enumerate(read))
            if listener:
                listener.found(row, passages)
                listener.text(row, text[:3])
                assert self.gate.wait(20)
                listener.text(row, text)
            yield api.Answer(example.question, text, passages, confidence=self.confidence)

    def search(self, questions, index, top_k, search):
        return [[FoundPassage(each, _score(question, each)) for each in self._found(question, index)[:top_k]] for question in questions]

    def _found(self, question, index):
        return sorted(index.alive(), key=lambda each: -_score(question, each))


def _score(question, passage):
    return len({word[:5] for word in _words(question)} & {word[:5] for word in _words(passage.text)}) / 10


def _name(read, question):
    for passage in read:
        for found in re.finditer(r'(?<=[a-z] )([A-Z]\w+(?: [A-Z]\w+)*)', passage.text):
            if found[0] not in question:
                return found[0]
    return 'nothing'


def _explained(passage, place, count, text, explain):
    attention = .6 / 2 ** place if place + 1 < count else 1 - sum(.6 / 2 ** each for each in range(place))
    read = api.AnswerPassage(passage.docid, passage.full_title, passage.text, .9 - .2 * place, attention)
    if not explain:
        return read
    weights = [9 if word.strip('.') in text else 1 + len(word) % 3 for word in passage.text.split()]
    words = tuple((word, attention * weight / sum(weights)) for word, weight in zip(passage.text.split(), weights, strict=True))
    carried = None if count == 1 else (4.21, -.87, .004, .3)[place % 4]
    return api.AnswerPassage(passage.docid, passage.full_title, passage.text, read.score, attention, carried=carried, words=words)


def indexes():
    """The orchard's index, and one of an older handbook."""
    return {'project': _index(PASSAGES), 'archive': _index([OLD])}


def _index(passages):
    made = conftest.FakeIndex([passage.docid for passage in passages])
    made.passages = list(passages)
    return made


class Running:
    """The server in a thread of its own; it can be stopped and started again at the same address."""

    def __init__(self):
        readers = {'project': Reader(), 'calibrated': Reader(confidence=.83)}
        held = holdings.Holdings(readers, indexes(), examples=('Which apples grow behind the barn?', 'Who harvests the honey?'))
        self.reader, self.service = held.models['project'], app.Service(held, conftest.TOKEN, request_limits.Limits(seconds=20))
        self.service.ready = True
        self.service.batcher.start()
        self.port = 0
        self.start()

    @property
    def address(self):
        """Where the page is."""
        return f'http://127.0.0.1:{self.port}/'

    def start(self):
        """Serves, at the port of before if there was one."""
        self._bound: socket.socket = server.bind('127.0.0.1', self.port)
        self.port = self._bound.getsockname()[1]
        config = uvicorn.Config(app.make(self.service), log_level='warning', lifespan='off', timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._bound])), daemon=True)
        self._thread.start()

    def reset(self):
        """Forgets all changes."""
        self.service.holdings.indexes = indexes()

    def stop(self):
        """Goes away, as a server that was killed."""
        self._server.should_exit = True
        self._thread.join(10)
        self._bound.close()


@contextlib.contextmanager
def running():
    """A server, until the end of the block."""
    served = Running()
    try:
        yield served
    finally:
        served.stop()
        served.service.batcher.stop()
