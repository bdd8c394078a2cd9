"""Every run of gin_configs/runs at its real size: its step is traced by shape, each distinct one once. Nothing is compiled."""

import functools

import jax
import jax.numpy as jnp
import pytest

from atlas_jax import build_index, evaluate, gin_utils, partitioning, train
from atlas_jax.planning import steps
from atlas_jax.planning import workload as workload_lib
from tests.configs.gin_configs_test import RUNS, bindings_for, verb_of

MAKERS = {train.train: workload_lib.of_training, evaluate.evaluate: workload_lib.of_evaluation,
          build_index.build_index: workload_lib.of_index_build}


@functools.cache
def traced(workload):
    """What goes out of the step, as shapes, and the step."""
    step = steps.steps_of(workload, partitioning.make_mesh(devices=jax.devices()[:1]))[-1]
    return step, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.trace().out_info)


@pytest.mark.parametrize('name', RUNS)
def test_the_run_of_the_largest_reader_is_traced(name):
    gin_utils.parse(['models/xxl.gin', name], bindings_for(name))
    workload = MAKERS[verb_of(name)](gin_utils.value_of('MODEL'), gin_utils.arguments_of(verb_of(name)))
    step, out = traced(workload)
    examples, n = workload.examples_a_step, workload.n_context
    if workload.kind == 'train':
        state, metrics = out
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.arguments[0]) == state
        assert metrics['loss'] == ((), jnp.float32) and 'gradient_norm' in metrics
        assert ('retriever_loss' in metrics) == (workload.distill.retriever_training != 'frozen' and n > 0)
        assert sum(leaf.size for leaf in jax.tree.leaves(step.parameters)) > 11e9
    elif workload.kind == 'answer':
        assert out.tokens == ((examples, 1, workload.config.inputs.target_max_tokens), jnp.int32)
        assert out.attention == ((examples, n), jnp.float32) and out.retrieved.passage_ids == ((examples, n), jnp.int32)
    elif workload.kind == 'score':
        assert out.log_likelihoods == ((examples, 4), jnp.float32) and out.retrieved.passage_ids == ((examples, n), jnp.int32)
    else:
        embeddings, lengths = out
        assert embeddings == ((*lengths[0], 768), jnp.float32)


def test_runs_share_shapes():
    assert traced.cache_info().currsize < len(RUNS)
