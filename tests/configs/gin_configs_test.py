"""Every shipped gin file parses, says in its header what must be set, and its model's train step can be traced."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, train, types
from atlas_jax.answering import api
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.evaluation import evaluate
from atlas_jax.models import atlas, parameters
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training import train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

VERBS = {'train': train.train, 'train alone': train.train_retriever, 'evaluate': evaluate.evaluate, 'index build': api.build_index}
# not runs of their own: what others include, and plan's questions
PARTS = ('runs/formats.gin', 'runs/paper.gin', 'runs/plan.gin', 'runs/search.gin', 'runs/tasks.gin')
RUNS = [name for name in gin_parse.known_files() if name.startswith('runs/') and name not in PARTS]
PAPER = ('nq_full', 'nq_64_shot', 'nq_zero_shot', 'triviaqa_full', 'triviaqa_64_shot', 'triviaqa_zero_shot', 'fever_full', 'fever_64_shot',
         'fever_15_shot', 'mmlu_zero_shot', 'mmlu_5_shot', 'mmlu_multi_task', 'mmlu_full', 'templama', 'pretrain_mlm', 'pretrain_lm',
         'pretrain_section', *(f'kilt_{task}' for task in ('aida', 'trex', 'zsre', 'fever', 'nq', 'hotpotqa', 'triviaqa', 'wow')),
         *(f'ablation_{loss}' for loss in ('pdist', 'adist', 'emdr', 'loop', 'fixed')))
SIZES = ('tiny', 'small', 'base', 'large', 'xl', 'xxl', '3b', '11b')
# Parameters of the reader alone: T5 1.1, and the two largest of T5 1.0, as released, embeddings included.
PARAMETERS = {'small': 76_961_152, 'base': 247_577_856, 'large': 783_150_080, 'xl': 2_849_757_184, 'xxl': 11_135_332_352,
              '3b': 2_851_598_336, '11b': 11_307_321_344}


def text_of(name: str) -> str:
    return gin_parse.find_file(name).read_text(encoding='utf-8')


def required_macros(name: str) -> list[str]:
    return re.findall(r'^(\w+) = %gin\.REQUIRED$', text_of(name), re.MULTILINE)


def bindings_for(name: str) -> list[str]:
    return [f'{macro}="somewhere"' for macro in required_macros(name)]


def model_of(size: str) -> atlas.AtlasConfig:
    gin_parse.parse([f'models/{size}.gin'])
    return gin_parse.value_of('MODEL')


def verb_of(name: str):
    """The function that a run's command calls."""
    # A retriever alone is trained by the same command, and only the file says so.
    if 'contrastive_data' in text_of(name):
        return train.train_retriever
    command = text_of(name).split('# Command:')[1]
    return next(function for verb, function in VERBS.items() if f'atlas-jax {verb} --gin_file {name}' in command)


def test_there_is_a_file_for_every_size_verb_and_experiment_of_the_paper():
    known = set(gin_parse.known_files())
    assert {f'models/{size}.gin' for size in (*SIZES, 'contriever')} <= known and set(PARTS) <= known
    assert {f'runs/{name}.gin' for name in PAPER} <= known and {verb_of(name) for name in RUNS} == set(VERBS.values())


@pytest.mark.parametrize('name', [f'runs/{name}.gin' for name in PAPER])
def test_runs_of_the_paper_name_purpose_and_score(name):
    lines = text_of(name).splitlines()
    assert lines[0].startswith('# ') and any(line.startswith('# Paper: ') for line in lines)


@pytest.mark.parametrize('name', RUNS)
def test_runs_give_all_arguments(name):
    gin_parse.parse([name], bindings_for(name))
    arguments = gin_parse.arguments_of(verb_of(name))
    assert any('somewhere' in str(value) for value in arguments.values())
    assert gin_parse.operative_config(verb_of(name))


@pytest.mark.parametrize('name', RUNS)
def test_headers_name_what_must_be_set(name):
    header = text_of(name).split('# Often set:')[0]
    listed = re.findall(r'^#(?: Must be set:)? +([A-Z][A-Z_]+)  +\S', header, re.MULTILINE)
    assert sorted(listed) == sorted(required_macros(name))
    for macro in listed:
        with pytest.raises(errors.ConfigError, match=rf'must be set: {macro} '):
            gin_parse.parse([name], [binding for binding in bindings_for(name) if not binding.startswith(f'{macro}=')])


@pytest.mark.parametrize('name', RUNS)
def test_header_ends_with_a_command_that_parses(name):
    command = text_of(name).split('# Command:')[1].split('from __gin__')[0]
    assert f'--gin_file {name}' in command
    assert sorted(re.findall(r'--gin\.(\w+)=', command)) == sorted(required_macros(name))


def test_formats_serve_index_training_and_evaluation_alike():
    inputs = []
    for name, extra in (('runs/few_shot.gin', []), ('runs/build_index.gin', []), ('runs/evaluate.gin', ['runs/formats.gin'])):
        gin_parse.parse([name, *extra], bindings_for(name))
        inputs.append(gin_parse.arguments_of(verb_of(name))['model'].inputs)
    assert inputs[0] == inputs[1] == inputs[2] and isinstance(inputs[0], atlas.InputConfig)


@pytest.mark.parametrize('size', PARAMETERS)
def test_readers_have_the_published_size(size):
    shapes = parameters.abstract_params(model_of(size))['reader']
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == PARAMETERS[size]


@pytest.mark.slow  # every size is traced whole: shapes that do not fit show nowhere else without the weights
@pytest.mark.parametrize('size', SIZES)
def test_train_step_can_be_traced(size):
    config = model_of(size)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    optimizer = OptimizerConfig(warmup_steps=1, total_steps=3)
    length = np.full(7, 40)
    spec = spec_lib.make_step_spec(config, tiny.SEGMENTS, mesh, types.TokenLengths(length, length, np.full(3, 11)), 2,
                              spec_lib.DistillConfig(retriever_n_context=1))
    # One capacity: the others are the same program with other numbers, and tracing 48 layers takes long enough.
    spec = dataclasses.replace(spec, read=spec.read[-1:], embedded=spec.embedded[-1:])
    state = state_lib.abstract(spec, train_step.optimizer_for(spec, optimizer))
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tiny.batch(2))
    table = types.TokenTable(tokens=jax.ShapeDtypeStruct((64, 128), jnp.uint16), title_lengths=jax.ShapeDtypeStruct((64,), jnp.int32),
                             lengths=jax.ShapeDtypeStruct((64,), jnp.int32))
    arrays = types.IndexArrays(embeddings=jax.ShapeDtypeStruct((64, config.retriever.emb_dim), jnp.float32),
                               valid=jax.ShapeDtypeStruct((64,), jnp.bool_))
    knowledge = types.Knowledge(index=arrays, reader_table=table, retriever_table=table)
    after, metrics = jax.eval_shape(train_step.make_train_step(spec, optimizer), state, batch, knowledge)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert {'loss', 'reader_loss', 'retriever_loss'} <= metrics.keys()
