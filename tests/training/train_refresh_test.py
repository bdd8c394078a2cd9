"""Runs that train the passage encoder: the index follows, its state is saved, and the best checkpoint is kept."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from atlas_jax import errors, train
from atlas_jax.answering import api
from atlas_jax.evaluation import guard, run_page
from atlas_jax.report import run_log
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=5)
DISTILL = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3, retriever_training='joint')
REFRESH = refresh.RefreshConfig(schedule='4-9:9', rolling_fraction=0.3, block_passages=5)  # 23 rows are 5 blocks


def _train(folder, atlas, index, eval_examples=(), best_by='score', keep_checkpoints=2, **options):
    run = train.RunConfig(run_dir=str(folder), batch_size=4, seed=3, checkpoint_every_steps=2, keep_checkpoints=keep_checkpoints,
                          evaluate_every_steps=2 if eval_examples else 0, best_by=best_by)
    return train.train_examples(run, train.Loaded(atlas, tiny_run.examples(atlas), index, eval_examples), OPTIMIZER, DISTILL, **options)


def _rows(folder):
    return [json.loads(line) for line in (folder / run_log.METRICS_FILE).read_text().splitlines()]


def _losses(folder):
    return [(row['reader_loss'], row['retriever_loss'], row['index_age_mean'], row['index_age_max']) for row in _rows(folder)]


def test_a_run_that_refreshes_is_stopped_and_goes_on_bit_by_bit(atlas, index, tmp_path, monkeypatch):
    before = index.index.embeddings(np.arange(23)).copy()
    whole = _train(tmp_path / 'whole', atlas, index, refresh=REFRESH)
    ages = [row['index_age_max'] for row in _rows(tmp_path / 'whole')]
    assert ages == [0, 1, 2, 3, 0]  # before each update; everything was embedded again before the fifth
    with monkeypatch.context() as patch:
        tiny_run.stop_at(patch, 3)
        with pytest.raises(errors.PreemptedError, match='saved at step 3; the same command goes on') as stopped:
            _train(tmp_path / 'stopped', atlas, index, refresh=REFRESH)
    assert stopped.value.exit_code == 75
    again = _train(tmp_path / 'stopped', atlas, index, refresh=REFRESH)
    assert _losses(tmp_path / 'stopped') == _losses(tmp_path / 'whole')
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.atlas.params), jax.device_get(whole.atlas.params))
    np.testing.assert_array_equal(index.index.embeddings(np.arange(23)), before)  # the index on disk is not touched
    with pytest.raises(errors.IndexFolderError):
        index.check(whole.atlas)  # and is stale
    assert len(index.knowledge(atlas).index.embeddings) == 23  # nor what others hold of it


def test_the_best_checkpoint_stays_and_a_retriever_that_gets_worse_is_told(atlas, index, tmp_path, monkeypatch, capsys):
    measured, found = guard.measured, []

    def falling(step, rows, top_k):
        found.append(measured(step, rows, top_k))
        return dataclasses.replace(found[-1], score=step / 10, hits='1' * (20 - 5 * step) + '0' * 5 * step)

    monkeypatch.setattr(guard, 'measured', falling)
    _train(tmp_path, atlas, index, refresh=REFRESH, eval_examples=tiny_run.examples(atlas, 3), best_by='recall', keep_checkpoints=1)
    rows = {row['step']: row for row in _rows(tmp_path) if 'eval_exact_match' in row}
    # The given weights too; each from the answers that the evaluation has.
    assert [*rows] == [each.step for each in found] == [0, 2, 4] and rows[0].keys() == {'step'} | {
        name for name in rows[2] if name.startswith('eval_')}
    assert [(rows[each.step]['eval_gold_recall_at_2'], rows[each.step]['eval_exact_match'], each.recall) for each in found] == [
        (each.share, each.score, 'gold_recall_at_2') for each in found]
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '5']  # the best of those that were saved
    lines = [line for line in capsys.readouterr().err.splitlines() if 'getting worse' in line]
    assert len(lines) == 2 and f'{tmp_path}: step 4: the retriever is getting worse' in lines[1] and 'refresh the index' in lines[1]
    page = (tmp_path / run_page.FILE).read_text()
    for part in ('Loss of the reader', 'Age of the index', 'Scores while training', '>step 0<', '>step 4<', 'Last evaluation, step 4',
                 'Step 4: the retriever is getting worse', 'Peak memory'):
        assert part in page, part
    assert api.Atlas.load(tmp_path).config == atlas.config


def test_the_best_by_a_recall_that_there_is_none_of_is_refused_before_the_first_step(atlas, index, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, 'measured', lambda *_: None)
    with pytest.raises(errors.ConfigError, match='best_by is "recall", and eval_file has none: its questions need gold_docids that are'):
        _train(tmp_path, atlas, index, refresh=REFRESH, eval_examples=tiny_run.examples(atlas, 3), best_by='recall')
    assert _rows(tmp_path) == []


@pytest.mark.parametrize('training', ['query_side', 'frozen'])
def test_an_encoder_that_stays_needs_no_refresh(atlas, index, tmp_path, training):
    distill = spec_lib.DistillConfig(retriever_training=training)
    run = train.RunConfig(run_dir=str(tmp_path / 'run'), batch_size=4)
    with pytest.raises(errors.ConfigError, match='passage encoder that is trained'):
        train.train_examples(run, train.Loaded(atlas, tiny_run.examples(atlas), index), OPTIMIZER, distill, refresh=REFRESH)
    assert not (tmp_path / 'run').exists()
