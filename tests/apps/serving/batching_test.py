import dataclasses
import threading
import time

import pytest

from atlas_jax import errors
from atlas_jax.apps.serving import batching, problems


@dataclasses.dataclass(frozen=True)
class Kind:
    """Keeps its batches, and computes once it is allowed to."""

    name: str = 'a'
    together: int = 3
    batches: list = dataclasses.field(default_factory=list, compare=False)
    may: threading.Event = dataclasses.field(default_factory=threading.Event, compare=False)

    def compute(self, items):
        self.batches.append([self.name, *items])
        assert self.may.wait(5)
        if 'refused' in items:
            raise errors.ConfigError('refused')
        if 'broken' in items:
            raise RuntimeError('broken')
        return [f'{item}!' for item in items]


@pytest.fixture
def kind():
    return Kind()


@pytest.fixture
def batcher():
    batcher = batching.Batcher(6)
    batcher.start()
    yield batcher
    batcher.stop()


def busy(batcher, kind):
    """Keeps the thread busy, so that later items wait."""
    [first] = batcher.submit(kind, ['first'], 5)
    while not kind.batches:
        time.sleep(.001)
    return first


def test_what_waits_is_computed_together_by_kind(batcher, kind):
    other = dataclasses.replace(kind, name='b')
    first = busy(batcher, kind)
    futures = batcher.submit(kind, ['1', '2'], 5) + batcher.submit(other, ['3'], 5) + batcher.submit(kind, ['4', '5'], 5)
    assert batcher.depth() == 5
    kind.may.set()
    assert [future.result(5) for future in (first, *futures)] == ['first!', '1!', '2!', '3!', '4!', '5!']
    assert kind.batches == [['a', 'first'], ['a', '1', '2', '4'], ['b', '3'], ['a', '5']]


def test_no_more_wait_than_may(batcher, kind):
    busy(batcher, kind)
    batcher.submit(kind, ['1', '2', '3', '4'], 5)
    with pytest.raises(problems.ProblemError, match='4 questions wait already, at most 6 may') as raised:
        batcher.submit(kind, ['5', '6', '7'], 5)  # all or none of them
    assert raised.value.status == 429 and raised.value.retry_after >= 1 and batcher.depth() == 4
    kind.may.set()


def test_nothing_is_computed_for_nobody(batcher, kind):
    busy(batcher, kind)
    late, gone, kept = [batcher.submit(kind, [name], seconds)[0] for name, seconds in (('late', -1), ('gone', 5), ('kept', 5))]
    gone.cancel()
    kind.may.set()
    assert kept.result(5) == 'kept!' and kind.batches[1:] == [['a', 'kept']]
    assert late.exception(5).status == 503 and late.exception().retry_after == 5


def test_one_question_does_not_spoil_its_neighbours(batcher, kind, capsys):
    kind.may.set()
    good, refused = batcher.submit(kind, ['good', 'refused'], 5)
    assert good.result(5) == 'good!' and isinstance(refused.exception(5), errors.ConfigError) and capsys.readouterr().err == ''
    [broken] = batcher.submit(kind, ['broken'], 5)
    assert isinstance(broken.exception(5), RuntimeError) and 'RuntimeError: broken' in capsys.readouterr().err
    assert batcher.alive() and batcher.submit(kind, ['after'], 5)[0].result(5) == 'after!'


def test_what_waits_is_finished_before_the_end(kind):
    sizes = []
    batcher = batching.Batcher(9, sizes.append)
    batcher.start()
    futures = [busy(batcher, kind), *batcher.submit(kind, ['1', '2'], 5), *batcher.submit(batching.Alone(lambda: 'alone'), [None], 5)]
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    while not batcher.stopping:
        time.sleep(.001)
    with pytest.raises(problems.ProblemError, match='being stopped') as raised:
        batcher.submit(kind, ['3'], 5)
    assert raised.value.status == 503
    kind.may.set()
    stopping.join(5)
    assert [future.result(0) for future in futures] == ['first!', '1!', '2!', 'alone'] and sizes == [1, 2, 1] and not batcher.alive()
