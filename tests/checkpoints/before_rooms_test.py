"""A run folder, a store and indexes written before the modules moved into rooms (fixtures/before_rooms/README.md) are read as ever."""

import json
import math
import shutil

import jax
import numpy as np
import pytest

from atlas_jax import train
from atlas_jax.answering import api
from atlas_jax.conversion import loading
from atlas_jax.knowledge import verify
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import qa
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import streams, tiny_run, word_tokenizers

BEFORE = streams.FIXTURES / 'before_rooms'
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=6)
DISTILL = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3, retriever_training='query_side')


@pytest.fixture(scope='module')
def atlas():
    return api.Atlas.load(BEFORE / 'run')


def test_the_run_is_loaded(atlas):
    assert atlas.config.n_context == 2 and atlas.config.inputs.text_max_tokens == 40 and atlas.config.reader.dropout_rate == 0.1
    assert atlas.task == qa.QATask('{question}', '{target}')
    assert atlas.reader_tokenizer.fingerprint == word_tokenizers.t5().fingerprint
    assert atlas.retriever_tokenizer.fingerprint == word_tokenizers.bert().fingerprint
    assert set(atlas.params) == {'reader', 'retriever', 'passage_encoder'}
    assert sum(leaf.size for leaf in jax.tree.leaves(atlas.params)) == 36_612 + 10_420  # and the passages' encoder


def test_its_parameters_are_read_one_at_a_time(atlas):
    opened = loading.open_model(BEFORE / 'run')
    assert opened.kind == loading.ATLAS_JAX and opened.step == 2 and set(opened.openers) == {'reader', 'retriever', 'passage_encoder'}
    kernel = atlas.params['reader']['encoder']['layers']['mlp']['wo']['kernel']
    np.testing.assert_array_equal(opened.reader().read('encoder/layers_1/mlp/wo/kernel'), kernel[1])


def test_the_store_is_opened(atlas):
    store = api.PassageStore.open(BEFORE / 'store')
    assert len(store) == 23 and store[8].docid == 'd8' and store[8].text == 'The thing 8 is green .'
    store.verify()
    store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)


@pytest.mark.parametrize(('name', 'dtype'), [('index', 'float32'), ('index_int8', 'int8')])
def test_the_indexes_are_opened_and_whole(atlas, name, dtype):
    index = api.Index.open(BEFORE / name)
    assert len(index.index) == 23 and json.loads((BEFORE / name / 'manifest.json').read_text())['dtype'] == dtype
    index.check(atlas)  # the encoder that embedded the passages is the one in the run's checkpoint
    assert not list(verify.verify(BEFORE / name))


@pytest.mark.slow  # only a step that is run shows that optimizer and generator go on from the folder
def test_training_goes_on_from_its_checkpoint(atlas, tmp_path):
    """Compiles a train step, that of tests/train_test.py: with a compilation cache it costs seconds."""
    shutil.copytree(BEFORE / 'run', tmp_path / 'run')
    loaded = train.Loaded(atlas, tiny_run.examples(atlas), api.Index.open(BEFORE / 'index'))
    run = train.RunConfig(run_dir=str(tmp_path / 'run'), batch_size=4, seed=3, checkpoint_every_steps=2)
    result = train.train_examples(run, loaded, OPTIMIZER, DISTILL)
    assert [row['step'] for row in result.history] == [1, 2, 3, 4, 5, 6]
    for row, before in zip(result.history, json.loads((BEFORE / 'losses.json').read_text()), strict=True):
        for name in ('reader_loss', 'retriever_loss'):
            assert math.isfinite(row[name]) and row[name] == pytest.approx(before[name], rel=1e-3), (row['step'], name)
