"""The work of a joint run as its loop sees it, on stand-ins: positions, refreshes, and what the host knows of a step."""

import types as python_types

import pytest

from atlas_jax.training import refresh, work


class _Batches:
    """Batches that are names, and a record of the requests."""

    def __init__(self):
        self.asked = []

    def take(self, params):
        """Gives the batch of its number."""
        self.asked.append(('take', params))
        return python_types.SimpleNamespace(example_ids=[7]), 'found'

    def state(self):
        """A position."""
        return {'at': len(self.asked)}

    def search_again(self):
        """Remembers that it was called."""
        self.asked.append('again')


class _Refresher:
    """A refresher whose index has an age."""

    def ages(self, step):
        """The age at a step."""
        return {'index_age_max': float(step)}

    def after_update(self, knowledge, params, step):
        """Another index."""
        return f'{knowledge} after {step}'

    def state(self):
        """A position of its own."""
        return {'block': 3}


def _work(refresher=None):
    prepared = python_types.SimpleNamespace(knowledge='index', encoder=python_types.SimpleNamespace(queries_cut=0.25), spec='spec')
    return work.AtlasWork(prepared, _Batches(), None, None, {}, refresher)


def test_a_step_takes_the_batch_that_was_found_by_its_parameters():
    made = _work()
    batch, *others = made.take(python_types.SimpleNamespace(params='old'))
    assert made.batches.asked == [('take', 'old')] and batch.example_ids == [7] and others == ['index', 'found'] and made.layout == 'spec'
    assert made.after_step(python_types.SimpleNamespace(params='new'), 5) == {'queries_cut': 0.25}
    assert made.program == 'train_step'


@pytest.mark.parametrize('refreshes', [False, True])
def test_a_checkpoint_has_the_position_of_examples_and_refresh(refreshes, monkeypatch):
    monkeypatch.setattr(refresh, 'numbers_of', lambda knowledge: f'numbers of {knowledge}')
    made = _work(_Refresher() if refreshes else None)
    made.take(python_types.SimpleNamespace(params='old'))
    known = made.after_step(python_types.SimpleNamespace(params='new'), 2)
    position, index = made.position()
    # The position first: searches begun ahead belong after it.
    assert position['examples'] == {'at': 1} and made.batches.asked[-1] == 'again'
    if not refreshes:
        assert index is None and set(position) == {'examples'} and made.prepared.knowledge == 'index'
        return
    assert position['refresh'] == {'block': 3} and index == {'index': 'numbers of index after 2'}
    assert known == {'queries_cut': 0.25, 'index_age_max': 1.0}
