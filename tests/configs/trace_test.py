"""Every run of gin_configs/runs at its real size: its step is traced by shape, each distinct one once. Nothing is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning, train
from atlas_jax.answering import api
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.planning import planned_steps, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.evaluation import evaluate
from atlas_jax.steps import search as search_step
from atlas_jax.training import refresh
from tests.configs.gin_configs_test import RUNS, bindings_for, verb_of

MAKERS = {train.train: workload_lib.of_training, evaluate.evaluate: workload_lib.of_evaluation,
          api.build_index: workload_lib.of_index_build}


@functools.cache
def traced(workload):
    """The step, and the shapes of its results."""
    step = planned_steps.steps_of(workload, partitioning.make_mesh(devices=jax.devices()[:1]))[-1]
    return step, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.trace().out_info)


def workload_of(name):
    """The run of the largest reader, or of a retriever alone."""
    if verb_of(name) is train.train_retriever:
        gin_parse.parse(['models/contriever.gin', name], bindings_for(name))
        return workload_lib.of_contrastive(gin_parse.value_of('RETRIEVER'), gin_parse.arguments_of(train.train_retriever))
    gin_parse.parse(['models/xxl.gin', name], bindings_for(name))
    return MAKERS[verb_of(name)](gin_parse.value_of('MODEL'), gin_parse.arguments_of(verb_of(name)))


@pytest.mark.parametrize('name', RUNS)
def test_the_step_is_traced(name):
    workload = workload_of(name)
    step, out = traced(workload)
    examples, n = workload.examples_a_step, workload.n_context
    if workload.kind == 'train':
        state, metrics = out
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.arguments[0]) == state
        assert metrics['loss'] == ((), jnp.float32) and 'gradient_norm' in metrics
        assert ('retriever_loss' in metrics) == (workload.distill.retriever_training != 'frozen' and n > 0)
        assert sum(leaf.size for leaf in jax.tree.leaves(step.parameters)) > 11e9
    elif workload.kind == 'contrastive':
        state, metrics = out
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.arguments[0]) == state
        assert metrics['loss'] == metrics['accuracy'] == ((), jnp.float32) and 'gradient_norm' in metrics
    elif workload.kind == 'answer':
        assert out.tokens == ((examples, 1, workload.config.inputs.target_max_tokens), jnp.int32)
        assert out.attention == ((examples, n), jnp.float32) and out.retrieved.passage_ids == ((examples, n), jnp.int32)
    elif workload.kind == 'score':
        assert out.log_likelihoods == ((examples, 4), jnp.float32) and out.retrieved.passage_ids == ((examples, n), jnp.int32)
    else:
        embeddings, lengths = out
        assert embeddings == ((*lengths[0], 768), jnp.float32)


def test_retrieval_alone_is_traced():
    workload = workload_of('runs/nq_zero_shot.gin')
    spec = planned_steps.make_planned_spec(workload, partitioning.make_mesh(devices=jax.devices()[:1]))
    found = search_step.search_step(spec).trace(*step_arguments.answer_arguments(workload, spec)).out_info
    assert found.passage_ids.shape == (workload.batch_size, 40) and found.passage_ids.dtype == jnp.int32


@pytest.mark.parametrize('name', ['runs/nq_full.gin', 'runs/pretrain_mlm.gin'])
def test_embedding_the_index_again_is_traced(name):
    workload = workload_of(name)
    config = gin_parse.arguments_of(train.train)['refresh']
    spec = planned_steps.make_planned_spec(workload, partitioning.make_mesh(devices=jax.devices()[:1]))
    state, _, knowledge = step_arguments.train_arguments(workload, spec)
    assert config.refreshes and spec.embeds_passages
    refresher = refresh.Refresher(spec, config, workload.index_rows, workload_lib.token_lengths(workload))
    columns = [(knowledge.index.embeddings, knowledge.index.scales)]
    [(embeddings, _)] = refresher.program.trace(columns, state.params['retriever'], knowledge.retriever_table, np.int32(0), None).out_info
    assert (embeddings.shape, embeddings.dtype) == ((33_000_000, 768), jnp.bfloat16)


def test_runs_share_shapes():
    assert traced.cache_info().currsize < len(RUNS)
