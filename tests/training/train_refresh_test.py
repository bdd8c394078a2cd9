"""Runs that train both encoders' side: the index follows, its state is saved, and what is best is kept."""

import json

import jax
import numpy as np
import pytest

from atlas_jax import api, errors, train
from atlas_jax.checkpoints import run_folder
from atlas_jax.evaluation import run_page
from atlas_jax.report import run_log
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=5)
DISTILL = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3, retriever_training='joint')
REFRESH = refresh.RefreshConfig(schedule='4-9:9', rolling_fraction=0.3, block_passages=5)  # 23 rows are 5 blocks


def _train(folder, atlas, index, eval_examples=(), **options):
    run = train.RunConfig(run_dir=str(folder), batch_size=4, seed=3, checkpoint_every_steps=2,
                          evaluate_every_steps=2 if eval_examples else 0)
    return train.train_examples(run, train.Loaded(atlas, tiny_run.examples(atlas), index, eval_examples), OPTIMIZER, DISTILL, **options)


def _rows(folder):
    return [json.loads(line) for line in (folder / run_log.METRICS_FILE).read_text().splitlines()]


def _losses(folder):
    return [(row['reader_loss'], row['retriever_loss'], row['index_age_mean'], row['index_age_max']) for row in _rows(folder)]


def test_a_run_that_refreshes_is_stopped_and_goes_on_bit_by_bit(atlas, index, tmp_path, monkeypatch):
    before = index.index.embeddings(np.arange(23)).copy()
    whole = _train(tmp_path / 'whole', atlas, index, refresh=REFRESH)
    ages = [row['index_age_max'] for row in _rows(tmp_path / 'whole')]
    assert ages == [0, 1, 2, 3, 0]  # before each update; all was embedded anew before the fifth
    with monkeypatch.context() as patch:
        tiny_run.stop_at(patch, 3)
        with pytest.raises(errors.PreemptedError, match='saved at step 3; the same command goes on') as stopped:
            _train(tmp_path / 'stopped', atlas, index, refresh=REFRESH)
    assert stopped.value.exit_code == 75
    again = _train(tmp_path / 'stopped', atlas, index, refresh=REFRESH)
    assert _losses(tmp_path / 'stopped') == _losses(tmp_path / 'whole')
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.atlas.params), jax.device_get(whole.atlas.params))
    np.testing.assert_array_equal(index.index.embeddings(np.arange(23)), before)  # what is on disk is not touched
    with pytest.raises(errors.IndexFolderError):
        index.check(whole.atlas)  # and is stale
    assert len(index.knowledge(atlas).index.embeddings) == 23  # nor what others hold of it


def test_the_best_checkpoint_stays(atlas, index, tmp_path):
    _train(tmp_path, atlas, index, refresh=REFRESH, eval_examples=tiny_run.examples(atlas, 3))
    scores = {row['step']: row['eval_exact_match'] for row in _rows(tmp_path) if 'eval_exact_match' in row}
    assert sorted(scores) == [2, 4]
    with run_folder.RunCheckpoints(tmp_path, keep_best=1) as checkpoints:
        assert scores[checkpoints.best_step] == max(scores.values()) and checkpoints.latest_step == 5
    assert api.Atlas.load(tmp_path).config == atlas.config
    page = (tmp_path / run_page.FILE).read_text()
    for part in ('Loss of the reader', 'Age of the index', 'Scores while training', '>step 2<', '>step 4<', 'Last evaluation, step 4',
                 'Peak memory'):
        assert part in page, part


@pytest.mark.parametrize('training', ['query_side', 'frozen'])
def test_an_encoder_that_stays_needs_no_refresh(atlas, index, tmp_path, training):
    distill = spec_lib.DistillConfig(retriever_training=training)
    run = train.RunConfig(run_dir=str(tmp_path / 'run'), batch_size=4)
    with pytest.raises(errors.ConfigError, match='passage encoder that is trained'):
        train.train_examples(run, train.Loaded(atlas, tiny_run.examples(atlas), index), OPTIMIZER, distill, refresh=REFRESH)
    assert not (tmp_path / 'run').exists()
