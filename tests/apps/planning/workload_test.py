"""Workloads hold what a gin file says; shapes alone are enough, and an index may be larger than 2**31 numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning, train
from atlas_jax.answering import api
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.planning import planned_steps, program, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.evaluation import evaluate
from tests.testing import tiny


def _xxl(*bindings):
    gin_parse.parse(['models/xxl.gin', 'runs/plan.gin'], bindings)
    return workload_lib.Workload(**gin_parse.arguments_of(workload_lib.Workload))


def test_the_largest_reader_is_planned_from_shapes():
    workload = _xxl()
    mesh = partitioning.make_abstract_mesh((1, 16, 4))
    spec = planned_steps.make_planned_spec(workload, mesh)
    assert len(spec.read) == 1 and spec.read[0].stream_tokens == 20 * 512 and spec.read[0].longest == 512
    parameters, batch, knowledge = step_arguments.train_arguments(workload, spec)
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters.params)) > 11e9
    assert batch.example_ids.shape == (64,) and knowledge.index.embeddings.shape == (33_001_472, 768)
    assert {type(leaf) for leaf in jax.tree.leaves((parameters, batch, knowledge))} == {jax.ShapeDtypeStruct}


def test_real_lengths_need_a_fraction_of_the_tokens():
    spec = planned_steps.make_planned_spec(_xxl('PASSAGE_TOKENS=(140, 35)'), partitioning.make_abstract_mesh((1, 64, 1)))
    assert spec.read[0].stream_tokens < 0.45 * 20 * 512 and spec.read[-1].longest <= 512


def test_lengths_of_a_store_are_taken_as_they_are():
    workload = dataclasses.replace(_xxl(), passage_lengths=((17, 41, 43), (19, 37)))
    lengths = workload_lib.token_lengths(workload)
    assert lengths.reader_passages.tolist() == [17, 41, 43] and lengths.retriever_passages.tolist() == [19, 37]


@pytest.mark.parametrize('bindings, words', [(['INDEX_DTYPE="int4"'], 'float32, bfloat16, int8'), (['BATCH_SIZE=0'], 'batch_size is 0'),
                                             (['Workload.table_tokens=200'], 'multiple of 128')])
def test_wrong_values_name_the_field(bindings, words):
    with pytest.raises(errors.ConfigError, match=words):
        _xxl(*bindings)


def test_runs_become_workloads():
    gin_parse.parse(['models/small.gin', 'runs/pretrain_mlm.gin'], stand_in='no folder')
    model = gin_parse.value_of('MODEL')
    training = workload_lib.of_training(model, gin_parse.arguments_of(train.train))
    assert (training.kind, training.examples_a_step, training.n_context, training.query_tokens) == ('train', 128, 20, 192)
    assert training.excludes_own_passages and training.search.rerank_candidates == 100 and training.config.reader.dropout_rate == 0.1
    gin_parse.parse(['models/small.gin', 'runs/mmlu_zero_shot.gin'], ['PARAM_DTYPE="bfloat16"'], stand_in='no folder')
    scoring = workload_lib.of_evaluation(model, gin_parse.arguments_of(evaluate.evaluate))
    assert (scoring.kind, scoring.batch_size, scoring.n_context, scoring.step.param_dtype) == ('score', 16, 30, 'bfloat16')
    gin_parse.parse(['runs/build_index.gin'], ['DTYPE="int8"'], stand_in='no folder')
    building = workload_lib.of_index_build(model, gin_parse.arguments_of(api.build_index))
    assert (building.kind, building.index_dtype, building.config.retriever_max_tokens) == ('index', 'int8', 512)


@pytest.mark.parametrize('task, query, target', [('multiple_choice.MultipleChoiceTask', 192, 16), ('lm.LMTask', 192, 64),
                                                 ('qa.QATask', 64, 16)])
def test_a_run_of_another_task_is_planned_with_its_limits(task, query, target):
    gin_parse.parse(['models/small.gin', 'runs/few_shot.gin'], [f'TASK=@{task}()'], stand_in='no folder')
    workload = workload_lib.of_training(gin_parse.value_of('MODEL'), gin_parse.arguments_of(train.train))
    assert (workload.query_tokens, workload.config.inputs.target_limit) == (query, target)


def test_given_passages_are_not_planned():
    gin_parse.parse(['models/small.gin', 'runs/evaluate.gin'], ['USE_FILE_PASSAGES=True', 'INDEX_DIR=None'], stand_in='no folder')
    with pytest.raises(errors.ConfigError, match='own passages is not planned'):
        workload_lib.of_evaluation(gin_parse.value_of('MODEL'), gin_parse.arguments_of(evaluate.evaluate))


def test_of_a_large_store_quantiles_stand_for_its_lengths():
    reader = np.random.default_rng(0).normal(140, 30, 100_000).astype(np.int32).clip(1)
    workload = workload_lib.of_store(_xxl(), reader, reader[:7] + 300)
    assert workload.index_rows == 100_000 and workload.table_tokens == 512
    mesh = partitioning.make_abstract_mesh((1, 64, 1))
    whole = dataclasses.replace(workload, passage_lengths=(tuple(reader.tolist()), workload.passage_lengths[1]))
    assert len(workload.passage_lengths[0]) == 20_000 and max(workload.passage_lengths[0]) == reader.max()
    assert planned_steps.make_planned_spec(workload, mesh).read == planned_steps.make_planned_spec(whole, mesh).read


@pytest.mark.parametrize('searcher', ['int8', 'exact', 'approx'])
@pytest.mark.parametrize('kind', ['train', 'answer'])
def test_400_million_passages_overflow_no_index(kind, searcher):
    """400 million rows of 256 tokens are 10**11 numbers: rows must be taken by row number, which fits an int32."""
    search = workload_lib.search_config.SearchConfig(searcher=searcher)
    workload = workload_lib.Workload(tiny.config(), kind=kind, batch_size=4, n_context=3, index_rows=400_000_000, index_dtype='int8',
                                     search=search)
    (step,) = planned_steps.steps_of(workload, partitioning.make_mesh(devices=jax.devices()[:1]))
    assert step.index.reader_table.tokens.size > 2**31 and step.index.index.embeddings.size > 2**31
    sides = (side for equation in program.walk(step.trace().jaxpr) for var in equation.outvars for side in getattr(var.aval, 'shape', ()))
    largest = max(sides)
    assert 400_000_000 <= largest < 2**31


def test_a_run_that_only_retrieves_is_planned_as_a_search():
    gin_parse.parse(['models/small.gin', 'runs/evaluate.gin'], ['RETRIEVE_ONLY=True', 'N_CONTEXT=7'], stand_in='no folder')
    workload = workload_lib.of_evaluation(gin_parse.value_of('MODEL'), gin_parse.arguments_of(evaluate.evaluate))
    assert (workload.kind, workload.n_context) == ('search', 7) and not workload.trains
    with pytest.raises(errors.ConfigError, match='n_context is 0; it must be at least 1 to find passages'):
        dataclasses.replace(workload, n_context=0)
