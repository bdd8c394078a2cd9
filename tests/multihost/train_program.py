"""The program that train_test.py runs in every process: index, training, evaluation.

Arguments: a folder for the index and the run, and the steps after which training ends, `2,4` for two runs, one going on from the other.
After them `several`, where there are several processes, `evaluate`, without which it ends with the training, and `then FOLDER STEPS`, to go
on with the run of another folder.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from atlas_jax import partitioning, train
from atlas_jax.answering import api
from atlas_jax.evaluation import evaluate
from atlas_jax.runtime import hosts
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

shared, options = pathlib.Path(sys.argv[1]), sys.argv[3:]
is_built = (shared / 'index').exists()  # asked before the processes meet, or the quicker one has begun to build it
if 'several' in options:
    hosts.initialize()
atlas = tiny_run.atlas(dropout_rate=0.0, mesh=partitioning.make_mesh((2, 2, 2)))
index = api.Index.open(shared / 'index') if is_built else tiny_run.index(atlas, shared)
distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3)
examples = tiny_run.examples(atlas)
# Two processes read the passages' tokens from the store, one has them on its devices.
search = SearchConfig(tokens='host' if 'several' in options else 'device')


def run(folder: pathlib.Path, steps: int) -> train.TrainResult:
    """Trains until so many steps, from where the run in the folder stands."""
    # No warm-up to zero and no decay: a run of fewer steps is the beginning of a longer one.
    optimizer = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=steps)
    return train.train_examples(train.RunConfig(run_dir=str(folder / 'run'), batch_size=8, seed=3, checkpoint_every_steps=2),
                                train.Loaded(atlas, examples, index), optimizer, distill, search=search,
                                refresh=refresh.RefreshConfig(rolling_fraction=0.5, block_passages=2))


def rows(result: train.TrainResult) -> list[dict]:
    """What is compared of each step."""
    return [{name: row[name] for name in ('step', 'reader_loss', 'retriever_loss', 'gradient_norm', 'index_age_max')}
            for row in result.history]


runs = [run(shared, int(steps)) for steps in sys.argv[2].split(',')]
answers = []
if 'evaluate' in options:
    loaded = api.Atlas.load(shared / 'run', mesh=atlas.mesh)
    index.force = True  # training has changed the encoder
    answers = evaluate.evaluate_examples(loaded, examples, index, batch_size=8, search=search).answers
norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(hosts.to_host(runs[-1].atlas.params)))))
if 'then' in options:
    runs.append(run(pathlib.Path(options[-2]), int(options[-1])))
if hosts.is_first():
    print('RESULT', json.dumps({
        'rows': [rows(result) for result in runs],
        'answers': [answer.text for answer in answers],
        'docids': [[passage.docid for passage in answer.passages] for answer in answers], 'norm': norm}))
