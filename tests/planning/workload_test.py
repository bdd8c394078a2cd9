"""The planned program is the one that training runs; shapes alone are enough for it."""

import dataclasses

import flax.linen as nn
import jax
import pytest

from atlas_jax import api, errors, gin_utils, partitioning, train
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.planning import steps
from atlas_jax.planning import workload as workload_lib
from atlas_jax.tasks import qa
from atlas_jax.training import spec as spec_lib
from atlas_jax.training import state, step_config, train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny, word_tokenizers

OPTIMIZER = OptimizerConfig(schedule='linear', warmup_steps=2, total_steps=6)
DISTILL = spec_lib.DistillConfig(retriever_n_context=3)
STEP = step_config.StepConfig(accumulation_steps=2, remat='full', compute_dtype='bfloat16')


class _Seen(Exception):
    """Ends a training run when its first step would be compiled."""


def _lowered_by_training(monkeypatch, tmp_path):
    """(spec, text of the lowered step) of a real training run, stopped before it compiles."""
    reader_tokenizer, retriever_tokenizer = word_tokenizers.t5(), word_tokenizers.bert()
    config = atlas_lib.AtlasConfig(dataclasses.replace(tiny.READER, vocab_size=reader_tokenizer.vocab_size),
                                   dataclasses.replace(tiny.RETRIEVER, vocab_size=retriever_tokenizer.vocab_size),
                                   atlas_lib.InputConfig(text_max_tokens=40, query_max_tokens=16, target_max_tokens=4), n_context=2)
    params = jax.device_get(nn.unbox(state.init_params(config, jax.random.key(0))))
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    atlas = api.Atlas(config, params, reader_tokenizer, retriever_tokenizer, qa.QATask('{question}', '{target}'), mesh)
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', f'The thing {i} is red .') for i in range(23)]
    store = api.PassageStore.build(documents, tmp_path / 'store', progress=False)
    index = api.Index.build(store, atlas, tmp_path / 'index', show_progress=False)
    examples = [atlas.task.example({'question': f'what is thing {i} ?', 'answers': ['red']}, i) for i in range(11)]
    make, found = train_step.make_train_step, []

    def recording(spec, optimizer, seed=0):
        def step(*arguments):
            found.append((spec, make(spec, optimizer, seed).lower(*arguments).as_text(), arguments[:3]))
            raise _Seen
        return step

    monkeypatch.setattr(train_step, 'make_train_step', recording)
    with pytest.raises(_Seen):
        train.train_examples(train.RunConfig(str(tmp_path / 'run'), batch_size=4), atlas, examples, index, OPTIMIZER, DISTILL, step=STEP)
    monkeypatch.setattr(train_step, 'make_train_step', make)
    return found[0]


def test_the_planned_program_is_the_one_that_training_runs(monkeypatch, tmp_path):
    spec, text, (_, batch, knowledge) = _lowered_by_training(monkeypatch, tmp_path)
    workload = workload_lib.Workload(
        spec.config, batch_size=4, n_context=2, index_rows=23, index_dtype='float32', table_tokens=knowledge.reader_table.tokens.shape[1],
        query_tokens=batch.reader_query_tokens.shape[1], optimizer=OPTIMIZER, distill=DISTILL, step=STEP)
    step = train_step.make_train_step(spec, workload.optimizer)
    assert step.lower(*steps.train_arguments(workload, spec)).as_text() == text
    # The spec comes from training's own make_spec; tokenizers and real lengths are all that planning does without.
    planned_spec = steps.make_spec(workload, spec.mesh)
    (planned,) = steps.steps_of(workload, spec.mesh)
    same = dataclasses.replace(planned_spec, segments=spec.segments, read=spec.read, scored=spec.scored, embedded=spec.embedded)
    assert same == spec
    assert planned.run is train_step.make_train_step(planned_spec, OPTIMIZER)


def _xxl(*bindings):
    gin_utils.parse(['models/xxl.gin', 'runs/plan.gin'], bindings)
    return workload_lib.Workload(**gin_utils.arguments_of(workload_lib.Workload))


def test_the_largest_reader_is_planned_from_shapes():
    workload = _xxl()
    mesh = jax.sharding.AbstractMesh((1, 16, 4), partitioning.MESH_AXES)
    spec = steps.make_spec(workload, mesh)
    assert len(spec.read) == 1 and spec.read[0].stream_tokens == 20 * 512 and spec.read[0].longest == 512
    parameters, batch, knowledge = steps.train_arguments(workload, spec)
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters.params)) > 11e9
    assert batch.example_ids.shape == (64,) and knowledge.index.embeddings.shape == (33_000_000, 768)
    assert {type(leaf) for leaf in jax.tree.leaves((parameters, batch, knowledge))} == {jax.ShapeDtypeStruct}


def test_real_lengths_need_a_fraction_of_the_tokens():
    spec = steps.make_spec(_xxl('PASSAGE_TOKENS=(140, 35)'), jax.sharding.AbstractMesh((1, 64, 1), partitioning.MESH_AXES))
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
