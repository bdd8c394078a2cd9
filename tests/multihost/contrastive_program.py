"""The program that contrastive_test.py runs in every process: a few steps of a retriever that is trained alone, by each method.

Arguments: file of passages; after it `several`, where there are several processes.
"""

import dataclasses
import json
import sys

import numpy as np

from atlas_jax.runtime import hosts
from atlas_jax.steps.spec import StepConfig
from atlas_jax.training import contrastive, contrastive_run
from atlas_jax.training.contrastive_data import RetrieverData
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

if 'several' in sys.argv[2:]:
    hosts.initialize()
# A large epsilon and a small rate: AdamW divides by the root of the second moment, and makes signs of gradients that are rounding alone.
optimizer = OptimizerConfig(retriever_learning_rate=1e-3, schedule='fixed', warmup_steps=0, total_steps=3, epsilon=1e-4)
found = {}
for method in contrastive.METHODS:
    options = contrastive.ContrastiveConfig(0.3, 0.6, method=method, queue_size=16, momentum=0.9, temperature=0.5, augmentation='mask')
    work = contrastive_run.prepare_contrastive_run(tiny_run.retriever(0.0), RetrieverData(sys.argv[1]), options, optimizer, StepConfig(), 8,
                                                   seed=3, mesh_shape=(1, 2, 2))
    # One capacity of the streams, which holds all: the others are the same program with other numbers.
    work = dataclasses.replace(work, spec=dataclasses.replace(work.spec, queries=work.spec.queries[-1:], passages=work.spec.passages[-1:]))
    state, rows = work.created(), []
    for step in range(1, 4):
        batch = work.take(state)
        state, metrics = work.step(state, *batch)
        work.after_step(state, step)
        rows.append({'loss': float(hosts.fetch(metrics['loss'])), 'examples': hosts.to_host(batch[0].example_ids).tolist()})
    found[method] = {'rows': rows, 'queue': None if state.queue is None else np.asarray(hosts.to_host(state.queue)).tolist(),
                     'own_rows': 0 if state.queue is None else sum(len(part.data) for part in state.queue.addressable_shards)}
if hosts.is_first():
    print('RESULT', json.dumps(found))
