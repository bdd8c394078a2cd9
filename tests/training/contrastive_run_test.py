"""Whole runs of contrastive training on a tiny retriever: resumed as if unbroken, and usable as any other retriever."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from atlas_jax import api, errors, train
from atlas_jax.conversion import convert, loading
from atlas_jax.model import RetrieverModel, RetrieverSource
from atlas_jax.nn import layer_scan
from atlas_jax.training import contrastive, contrastive_step
from atlas_jax.training.contrastive_data import RetrieverData
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

OPTIMIZER = OptimizerConfig(retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=4)
MOCO = contrastive.ContrastiveConfig(0.3, 0.6, method='moco', queue_size=12, momentum=0.9, momentum_schedule='cosine', temperature=0.5,
                                     normalize_query=True, normalize_passage=True, augmentation='mask')


@pytest.fixture(scope='module')
def passages(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'passages.jsonl'
    tiny_run.write_passages(path)
    return path


@pytest.fixture(scope='module')
def source():
    """Gives a tiny retriever with dropout where a run would load its folder."""
    model = tiny_run.retriever()

    @dataclasses.dataclass(frozen=True)
    class Source(RetrieverSource):
        def load(self):
            return model

    return Source('tiny')


def _run(folder, **options):
    return train.RunConfig(run_dir=str(folder), batch_size=4, seed=3, checkpoint_every_steps=2, compilation_cache_dir=None,
                           mesh_shape=(1, 1, 1), **options)


@pytest.fixture(scope='module')
def finished(passages, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    return folder, train.train_retriever(_run(folder), RetrieverData(str(passages)), source, OPTIMIZER, MOCO)


def _exact(result):
    return [tuple(row[name] for name in ('step', 'loss', 'accuracy', 'gradient_norm', 'momentum', 'retriever_tokens'))
            for row in result.history]


def test_a_stopped_run_goes_on_as_if_unbroken(passages, source, finished, tmp_path, monkeypatch):
    make = contrastive_step.make_contrastive_step

    def making(*arguments):
        step, calls = make(*arguments), []

        def run(*inputs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt  # behind the checkpoint of step 2
            return step(*inputs)
        return run

    data = RetrieverData(str(passages))
    with monkeypatch.context() as patch:
        patch.setattr(contrastive_step, 'make_contrastive_step', making)
        with pytest.raises(KeyboardInterrupt):
            train.train_retriever(_run(tmp_path), data, source, OPTIMIZER, MOCO)
    resumed = train.train_retriever(_run(tmp_path), data, source, OPTIMIZER, MOCO)
    assert _exact(resumed) == _exact(finished[1]) and len(resumed.history) == 4
    assert [round(row['momentum'], 4) for row in resumed.history] == [0.9, 0.9146, 0.95, 0.9854]
    jax.tree.map(np.testing.assert_array_equal, resumed.retriever.params, finished[1].retriever.params)


def test_the_run_is_a_retriever_like_any_other(finished, tmp_path):
    folder, result = finished
    opened = loading.open_model(folder)
    assert tuple(opened.openers) == ('retriever',) and opened.step == 4
    config, params = loading.load_retriever(folder)
    assert config.normalize  # as it was trained
    jax.tree.map(np.testing.assert_array_equal, layer_scan.stack_layers(params), jax.device_get(result.retriever.params['retriever']))
    written = convert.convert(convert.Request(folder, 'hf', tmp_path / 'hf'))
    assert tuple(written) == ('retriever',)
    again = RetrieverModel.load(tmp_path / 'hf')
    assert again.config.retriever.normalize and again.tokenizer.fingerprint == result.retriever.tokenizer.fingerprint
    with pytest.raises(errors.ModelFolderError, match='holds a retriever alone; give this folder by --retriever'):
        api.Atlas.load(folder)


def test_a_retriever_alone_is_saved_and_loaded(tmp_path):
    model = tiny_run.retriever()
    model.save(tmp_path / 'alone')
    again = RetrieverModel.load(tmp_path / 'alone')
    assert again.config == model.config and again.tokenizer.fingerprint == model.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.device_get(nn.unbox(model.params)))


def test_other_data_or_options_are_refused(passages, source, finished, tmp_path):
    other = tmp_path / 'other.jsonl'
    other.write_text(passages.read_text().replace('red', 'blue'))
    with pytest.raises(errors.ConfigError, match='train_file was 9 passages'):
        train.train_retriever(_run(finished[0]), RetrieverData(str(other)), source, OPTIMIZER, MOCO)
    with pytest.raises(errors.ConfigError, match='queue_size was 12, now 24.*other arrays'):
        train.train_retriever(_run(finished[0]), RetrieverData(str(passages)), source, OPTIMIZER, dataclasses.replace(MOCO, queue_size=24))


@pytest.mark.parametrize(('options', 'batch_size', 'message'), [
    ({'queue_size': 10}, 4, 'queue_size 10 is not a multiple of batch_size 4, .*such as 12'),
    ({'chunks': 3}, 4, 'batch_size 4 does not divide over 1 devices times 3 chunks; choose a multiple of 3'),
    ({'queue_size': 20}, 10, 'batch_size is 10, and there are 9 examples; lower it to 9'),
    ({'chunk_tokens': 512, 'ratio_max': 1.0, 'min_crop_tokens': 99}, 4, r'passages.jsonl:1, .*: 9 passages have fewer than the 99 tokens')])
def test_what_does_not_fit_is_refused_before_the_run_begins(passages, source, tmp_path, options, batch_size, message):
    run = dataclasses.replace(_run(tmp_path / 'run'), batch_size=batch_size)
    with pytest.raises(errors.UserError, match=message):
        train.train_retriever(run, RetrieverData(str(passages)), source, OPTIMIZER, dataclasses.replace(MOCO, **options))
    assert not (tmp_path / 'run' / 'model.json').exists()
