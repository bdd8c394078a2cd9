"""Training where the host has a part between search and step: its searchers, and passages that it reads."""

import numpy as np
import pytest

from atlas_jax import errors, train
from atlas_jax.searchers import codes_building
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.answering.api_test import atlas, indexes
from tests.testing import tiny_run

assert atlas and indexes  # fixtures


def test_training_reads_what_the_host_finds(atlas, indexes, tmp_path):
    pytest.importorskip('bm25s')
    examples = [atlas.task.example({'question': f'what is thing {i} ?', 'answers': [tiny_run.COLOURS[i % 7]]}, i) for i in range(5)]
    optimizer = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=2)
    distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=2, retriever_training='query_side')
    run = train.RunConfig(run_dir=str(tmp_path / 'run'), batch_size=2, checkpoint_every_steps=2)
    result = train.train_examples(run, train.Loaded(atlas, examples, list(indexes[1:])), optimizer, distill, search=SearchConfig('bm25'))
    assert len(result.history) == 2 and all(np.isfinite(row['loss']) for row in result.history)


def test_tokens_on_the_host_train_as_those_on_the_devices(atlas, indexes, tmp_path):
    examples = tiny_run.examples(atlas, 5)
    optimizer = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=3)
    distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3)
    names, rows = ('loss', 'retriever_loss', 'gradient_norm', 'truncated_passages', 'model_flops'), []
    for where in ('device', 'host'):
        run = train.RunConfig(run_dir=str(tmp_path / where), batch_size=2, checkpoint_every_steps=3)
        result = train.train_examples(run, train.Loaded(atlas, examples, indexes[0]), optimizer, distill, search=SearchConfig(tokens=where),
                                      refresh=refresh.RefreshConfig(rolling_fraction=0.5, block_passages=5))
        rows.append([[row[name] for name in names] for row in result.history])
    assert rows[0][0][2] > 0  # the retriever learns
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-6)


def test_codes_are_searched_in_training_unless_the_index_is_refreshed(atlas, tmp_path):
    index, examples = tiny_run.index(atlas, tmp_path), tiny_run.examples(atlas, 5)  # 23 passages: enough for a code of 22 numbers
    codes_building.compress(index.index, codes_building.CodesSettings(8, accept_recall=True), show_progress=False)
    optimizer = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=2)
    distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3)

    def trained(refreshed: float):
        run = train.RunConfig(run_dir=str(tmp_path / f'run{refreshed}'), batch_size=2, checkpoint_every_steps=2)
        return train.train_examples(run, train.Loaded(atlas, examples, index), optimizer, distill, search=SearchConfig('codes'),
                                    refresh=refresh.RefreshConfig(rolling_fraction=refreshed, block_passages=5))

    with pytest.raises(errors.ConfigError, match='scans codes of the index as it is on disk, and a refresh embeds it again'):
        trained(0.5)
    result = trained(0.0)
    assert len(result.history) == 2 and all(np.isfinite(row['loss']) and row['gradient_norm'] > 0 for row in result.history)
