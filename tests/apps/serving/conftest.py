"""A server without a model: its answers are fake, so that requests are fast."""

import dataclasses
import types

import numpy as np
import pytest
from starlette.testclient import TestClient

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.apps.serving import app, holdings, projection, request_limits
from atlas_jax.corpus.passages import Passage
from atlas_jax.knowledge.index_with_store import FoundPassage
from atlas_jax.tasks.qa import QATask

TOKEN = 'secret'


@dataclasses.dataclass
class FakeAtlas:
    """Answers with the first word of the first passage; keeps the sizes of its batches and the programs that they need."""

    params: dict = dataclasses.field(default_factory=dict)
    batches: list = dataclasses.field(default_factory=list)
    programs: set = dataclasses.field(default_factory=set)
    config, task, calibration = types.SimpleNamespace(n_context=2), QATask('{question}', '{target}'), None

    def answer_examples(self, examples, index, n_context, batch_size, search=None, use_file_passages=False, explain=False, listener=None,
                        signals=None):
        self.batches.append((len(examples), batch_size))
        self.programs.add((batch_size, index is None, listener is not None, explain))
        for row, example in enumerate(examples):
            if 'refused' in example.question:
                raise errors.ConfigError('this question\nis refused')
            if 'broken' in example.question:
                raise RuntimeError('a fault')
            read = example.passages if use_file_passages else index.alive()[:n_context] if index else ()
            words = (('word', .5),) if explain else ()
            passages = tuple(api.AnswerPassage(each.docid, each.full_title, each.text, .5, 1 / len(read), words=words) for each in read)
            text = f'{read[0].text.split()[0] if read else "memory"} of {example.question}'
            if listener:
                listener.found(row, passages)
                for end in (1, len(text), len(text)):
                    listener.text(row, text[:end])
            yield api.Answer(example.question, text, passages)

    def search(self, questions, index, top_k, search):
        return [[FoundPassage(passage, .5) for passage in index.alive()[:top_k]] for _ in questions]

    def on_devices(self):
        return self


class FakeIndex:
    """Passages by docid, with the interface of an index and its store."""

    def __init__(self, docids=('d0', 'd1', 'a/b c')):
        self.passages = [Passage(docid, f'title {docid}', 'part', f'Text of {docid}.') for docid in docids]
        self.index = self.store = self
        self.deleted = np.zeros(len(docids), bool)

    def alive(self):
        return [passage for passage, deleted in zip(self.passages, self.deleted, strict=True) if not deleted]

    def find(self, docid):
        return max((row for row, passage in enumerate(self.passages) if passage.docid == docid), default=None)

    def rows_of(self, docids):
        return np.array([self.find(docid) for docid in docids], np.int64)

    def embeddings(self, rows):
        return np.sin(np.outer(rows + 1, [1., 2., 3.])).astype(np.float32)

    def __len__(self):
        return len(self.passages)

    def __getitem__(self, row):
        return self.passages[row]

    def info(self):
        return {'rows': len(self), 'deleted': int(self.deleted.sum())}

    def replace(self, passages, atlas, show_progress):
        assert not show_progress
        self.delete([passage.docid for passage in passages])
        self.passages += passages
        self.deleted = np.append(self.deleted, np.zeros(len(passages), bool))

    def delete(self, docids):
        self.deleted = self.deleted | np.array([passage.docid in docids for passage in self.passages])


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(projection, 'query_embedding', lambda atlas, index, question: np.ones(3, np.float32))
    held = holdings.Holdings({'project': FakeAtlas(), 'other': FakeAtlas()}, {'project': FakeIndex(), 'second': FakeIndex(['e0'])})
    service = app.Service(held, TOKEN, request_limits.Limits(body_bytes=100_000, seconds=20))
    service.batcher.start()
    yield service
    service.batcher.stop()


@pytest.fixture
def client(service):
    return TestClient(app.make(service, ['known.example']), base_url='http://localhost')
