"""The program that train_test.py runs in every process: index, training, evaluation.

Arguments: folder for what all share, run folder, steps. After them `several`, where there are several processes, and `evaluate`, without
which the run ends with its training.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from atlas_jax import api, evaluate, partitioning, train
from atlas_jax.runtime import hosts
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

shared, run_dir, steps = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
is_built = (shared / 'index').exists()  # asked before the processes meet, or the quicker one has begun to build it
if 'several' in sys.argv[4:]:
    hosts.initialize()
atlas = tiny_run.atlas(dropout_rate=0.0, mesh=partitioning.make_mesh((2, 2, 2)))
index = api.Index.open(shared / 'index') if is_built else tiny_run.index(atlas, shared)
distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3)
# No warm-up to zero and no decay: a run of fewer steps is the beginning of a longer one.
optimizer = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=steps)
examples = tiny_run.examples(atlas)
# Two processes read the passages' tokens from the store, one has them on its devices.
search = SearchConfig(tokens='host' if 'several' in sys.argv[4:] else 'device')
result = train.train_examples(train.RunConfig(run_dir=run_dir, batch_size=8, seed=3, checkpoint_every_steps=2),
                              train.Loaded(atlas, examples, index), optimizer, distill, search=search,
                              refresh=refresh.RefreshConfig(rolling_fraction=0.5, block_passages=2))
answers = []
if 'evaluate' in sys.argv[4:]:
    loaded = api.Atlas.load(run_dir, mesh=atlas.mesh)
    index.force = True  # training has changed the encoder
    answers = evaluate.evaluate_examples(loaded, examples, index, batch_size=8, search=search).answers
norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(hosts.to_host(result.atlas.params)))))
if hosts.is_first():
    print('RESULT', json.dumps({
        'rows': [{name: row[name] for name in ('step', 'reader_loss', 'retriever_loss', 'gradient_norm', 'index_age_max')}
                 for row in result.history],
        'answers': [answer.text for answer in answers],
        'docids': [[passage.docid for passage in answer.passages] for answer in answers], 'norm': norm}))
