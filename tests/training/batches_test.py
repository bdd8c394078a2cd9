"""Batches of a training run: placed ahead by a thread where nothing of them depends on the step before, else when they are taken."""

import threading

import jax
import numpy as np
import pytest

from atlas_jax.answering import prepare
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import batches as batches_lib
from tests.testing import tiny_run

DISTILL = spec_lib.DistillConfig(retriever_n_context=3)
FROZEN = spec_lib.DistillConfig(retriever_training='frozen')


def batches_of(atlas, index, ahead=2, distill=DISTILL, **options):
    examples = tiny_run.examples(atlas)
    prepared = prepare.prepare_examples(atlas, examples, index, 2, 4, distill=distill, **options)
    return batches_lib.TrainBatches.of(examples, prepared, 4, 3, ahead)


def test_a_batch_is_on_the_devices_before_it_is_taken(atlas, index, monkeypatch):
    made, real = [], PreparedExamples.training_batch
    monkeypatch.setattr(PreparedExamples, 'training_batch',
                        lambda *arguments: made.append(threading.current_thread()) or real(*arguments))
    batches = batches_of(atlas, index)
    drawn, retrieved = next(batches.iterator)
    assert batches.placed and retrieved is None and isinstance(drawn.example_ids, jax.Array)
    following, _ = batches.take(None)
    assert not batches.searches_ahead
    assert following.example_ids.shape == (4,) and following.example_ids.tolist() != drawn.example_ids.tolist()
    assert made and threading.current_thread() not in made


@pytest.mark.parametrize('options', [{}, {'search': 'bm25'}], ids=str)
def test_the_same_batches_come_whoever_makes_them(atlas, index, options):
    ahead, plain = batches_of(atlas, index, 2, **options), batches_of(atlas, index, 0, **options)
    assert ahead.placed and plain.placed
    for _ in range(4):  # into the second epoch
        jax.tree.map(np.testing.assert_array_equal, ahead.take(None), plain.take(None))
        assert ahead.iterator.get_state() == plain.iterator.get_state()


@pytest.mark.parametrize('options', [{'search': 'hybrid'}, {'force_host': True}], ids=str)
def test_what_is_searched_by_the_parameters_waits_for_them(atlas, index, options):
    batches = batches_of(atlas, index, **options)
    assert not batches.placed and batches.prepared.needs_params
    seen = []
    real = batches.prepared.begin
    batches.prepared.begin = lambda drawn, size, params: seen.append(params) or real(drawn, size, params)
    batch, retrieved = batches.take(params := atlas.device_params())
    assert seen == [params] and retrieved.scores.shape[0] == 4 and batch.example_ids.shape == (4,)


def test_accumulated_batches_are_one(atlas, index):
    batches = batches_of(atlas, index, step=spec_lib.StepConfig(accumulation_steps=2))
    assert batches.rows == 8 and batches.take(None)[0].example_ids.shape == (8,)


def taken(batches, params, count):
    """The examples of so many batches and the scores and tokens that were found for them."""
    found = [jax.device_get(batches.take(params)) for _ in range(count)]
    return [(batch.example_ids.tolist(), retrieved.scores.tolist(), retrieved.reader_rows.tokens.tolist()) for batch, retrieved in found]


@pytest.mark.parametrize('search', [SearchConfig(tokens='host'), SearchConfig('hybrid', tokens='host')], ids=str)
def test_a_frozen_retriever_searches_ahead_and_finds_the_same(atlas, index, search):
    params = atlas.device_params()
    ahead, plain = (batches_of(atlas, index, search=search, distill=FROZEN) for _ in range(2))
    assert ahead.searches_ahead
    plain.searches_ahead = False
    expected = taken(plain, params, 5)
    assert taken(ahead, params, 2) == expected[:2]
    # The next batch is drawn and searched for by now, and yet the position is behind the second.
    state = ahead.state()
    ahead.search_again()
    assert taken(ahead, params, 3) == expected[2:]
    again = batches_of(atlas, index, search=search, distill=FROZEN)
    again.restore(state)
    assert taken(again, params, 3) == expected[2:] and again.state() == ahead.state() == plain.state()


def test_a_trained_retriever_searches_ahead_only_where_it_may_be_an_update_old(atlas, index):
    old = {'retriever': atlas.device_params()['retriever']}
    new = jax.tree.map(lambda leaf: -leaf, old)
    exact = batches_of(atlas, index, search=SearchConfig(tokens='host'))
    assert not exact.searches_ahead and not exact.placed
    ahead = batches_of(atlas, index, search=SearchConfig(tokens='host', overlap=True))
    expected = taken(exact, old, 2) + taken(exact, new, 2)
    first, second = taken(ahead, old, 1), taken(ahead, new, 1)  # the second was searched for with the first's
    assert first + second == expected[:2]
    assert taken(ahead, new, 1) == expected[2:3]
    # A run that continues from a checkpoint has no search under way, so the run that saved it searches again, too.
    state = ahead.state()
    ahead.search_again()
    resumed = batches_of(atlas, index, search=SearchConfig(tokens='host', overlap=True))
    resumed.restore(state)
    assert taken(ahead, old, 1) == taken(resumed, old, 1) != taken(exact, new, 1)


def test_the_host_reads_while_the_devices_go_on(atlas, index, monkeypatch):
    threads, read = [], prepare.TokenRows.read
    monkeypatch.setattr(prepare.TokenRows, 'read', lambda *arguments: threads.append(threading.current_thread()) or read(*arguments))
    batches = batches_of(atlas, index, search=SearchConfig(tokens='host'), distill=FROZEN)
    taken(batches, atlas.device_params(), 2)
    assert threads[0] is threading.current_thread() and threads[1] is not threads[0]
