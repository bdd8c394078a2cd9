"""A run folder, a store and indexes written before the modules moved into rooms (fixtures/before_rooms/README.md) are read as ever."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from atlas_jax import api, train
from atlas_jax.conversion import loading
from atlas_jax.knowledge import verify
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import streams, tiny_run

BEFORE = streams.FIXTURES / 'before_rooms'
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=6)
DISTILL = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3, retriever_training='query_side')


def test_the_run_is_loaded():
    atlas, expected = api.Atlas.load(BEFORE / 'run'), tiny_run.atlas()
    assert dataclasses.asdict(atlas.config) == dataclasses.asdict(expected.config) and atlas.task == expected.task
    assert atlas.reader_tokenizer.fingerprint == expected.reader_tokenizer.fingerprint
    assert atlas.retriever_tokenizer.fingerprint == expected.retriever_tokenizer.fingerprint
    # Only the queries' encoder was trained: the passages' is the one that the run began with.
    np.testing.assert_array_equal(atlas.params['passage_encoder']['bert']['token_embedder']['embedding'],
                                  expected.params['retriever']['bert']['token_embedder']['embedding'])


def test_its_parameters_are_read_one_at_a_time():
    opened = loading.open_model(BEFORE / 'run')
    assert opened.kind == loading.ATLAS_JAX and opened.step == 2 and set(opened.openers) == {'reader', 'retriever', 'passage_encoder'}
    path = 'encoder/layers_1/mlp/wo/kernel'
    kernel = api.Atlas.load(BEFORE / 'run').params['reader']['encoder']['layers']['mlp']['wo']['kernel']
    np.testing.assert_array_equal(opened.reader().read(path), kernel[1])


def test_the_store_is_opened():
    store = api.PassageStore.open(BEFORE / 'store')
    assert len(store) == 23 and store[8].docid == 'd8/0' and store[8].text == 'The thing 8 is green .'
    store.verify()
    atlas = api.Atlas.load(BEFORE / 'run')
    store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)


@pytest.mark.parametrize(('name', 'dtype'), [('index', 'float32'), ('index_int8', 'int8')])
def test_the_indexes_are_opened_and_whole(name, dtype):
    index = api.Index.open(BEFORE / name)
    assert index.index.dtype == dtype and len(index.index) == 23
    index.check(tiny_run.atlas())
    assert list(verify.verify(BEFORE / name)) == []


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(tmp_path):
    """Compiles a train step, that of tests/train_test.py: with a compilation cache it costs seconds."""
    shutil.copytree(BEFORE / 'run', tmp_path / 'run')
    atlas = tiny_run.atlas()
    run = train.RunConfig(run_dir=str(tmp_path / 'run'), batch_size=4, seed=3, checkpoint_every_steps=2, keep_checkpoints=1)
    result = train.train_examples(run, atlas, tiny_run.examples(atlas), api.Index.open(BEFORE / 'index'), OPTIMIZER, DISTILL)
    assert [row['step'] for row in result.history] == [1, 2, 3, 4, 5, 6]
    for row, before in zip(result.history, json.loads((BEFORE / 'losses.json').read_text()), strict=True):
        for name in ('reader_loss', 'retriever_loss'):
            assert math.isfinite(row[name]) and row[name] == pytest.approx(before[name], rel=1e-3), (row['step'], name)
