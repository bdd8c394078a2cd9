"""Batches of a training run: placed ahead by a thread where nothing of them depends on the step before, else when they are taken."""

import threading

import jax
import numpy as np
import pytest

from atlas_jax.steps import prepare
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import batches as batches_lib
from tests.testing import tiny_run

DISTILL = spec_lib.DistillConfig(retriever_n_context=3)


def batches_of(atlas, index, ahead=2, **options):
    examples = tiny_run.examples(atlas)
    prepared = prepare.prepare(atlas, examples, index, 2, 4, distill=DISTILL, **options)
    return batches_lib.TrainBatches.of(examples, prepared, 4, 3, ahead)


def test_a_batch_is_on_the_devices_before_it_is_taken(atlas, index, monkeypatch):
    made, real = [], prepare.Prepared.training_batch
    monkeypatch.setattr(prepare.Prepared, 'training_batch',
                        lambda *arguments: made.append(threading.current_thread()) or real(*arguments))
    batches = batches_of(atlas, index)
    drawn, retrieved = next(batches.iterator)
    assert batches.placed and retrieved is None and isinstance(drawn.example_ids, jax.Array)
    following, _ = batches.take(None)
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
