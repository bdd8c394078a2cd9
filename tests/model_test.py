"""A model's data: how it is loaded, what its folder says, and which batch sizes and dtypes it takes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.answering import api
from atlas_jax.model import AtlasModel, ModelSource, RetrieverSource
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.nn import layer_scan
from atlas_jax.tasks import registry
from tests.testing import tiny_run

MESH = partitioning.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0, mesh=MESH)


@pytest.fixture(scope='module')
def folder(atlas, tmp_path_factory):
    path = tmp_path_factory.mktemp('model') / 'saved'
    atlas.save(path)
    return path


def test_what_was_saved_is_loaded(atlas, folder):
    loaded = AtlasModel.load(folder, mesh=MESH)
    assert type(loaded) is AtlasModel and loaded.config == atlas.config and loaded.task == atlas.task
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded.params), atlas.params)
    assert json.loads((folder / 'model.json').read_text())['has_passage_encoder'] is False
    named = AtlasModel.load(folder / 'checkpoints' / '0', mesh=MESH)
    assert named.config == atlas.config and named.task == atlas.task
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(named.params), atlas.params)


def test_a_source_changes_task_and_formats_of_the_folder(folder):
    inputs = atlas_lib.InputConfig(text_max_tokens=31, query_max_tokens=7, target_max_tokens=5)
    task = registry.make('fever')
    loaded = ModelSource(str(folder), task=task, inputs=inputs).load(api.Atlas)
    assert isinstance(loaded, api.Atlas) and loaded.config.inputs == inputs and loaded.task == task and loaded.text_max_tokens == 31
    assert ModelSource(str(folder)).load(AtlasModel).config.inputs != inputs


@pytest.mark.parametrize('folders', [(), ('a', 'b'), ('a', None, 'c'), (None, 'b'), (None, None, 'c')])
def test_a_model_or_a_reader_with_a_retriever(folders):
    with pytest.raises(errors.ConfigError, match='give either one model folder, or a reader folder and a retriever folder'):
        ModelSource(*folders).load(AtlasModel)


def test_batches_divide_over_the_devices(atlas):
    class Eight:
        size = 8

    assert [atlas.whole_batch(size) for size in (1, 3)] == [1, 3]
    wide = dataclasses.replace(atlas)
    wide.mesh = Eight()
    assert [wide.whole_batch(size) for size in (1, 8, 9)] == [8, 8, 16]


def test_parameters_are_cast_on_the_way_to_the_devices(atlas):
    assert {leaf.dtype for leaf in jax.tree.leaves(atlas.device_params())} == {np.dtype('float32')}
    cast = atlas.device_params('bfloat16')
    assert set(cast) == {'reader', 'retriever'} and {str(leaf.dtype) for leaf in jax.tree.leaves(cast)} == {'bfloat16'}


def test_on_one_cpu_layers_lie_apart_in_the_same_memory(atlas):
    one = dataclasses.replace(atlas, mesh=partitioning.make_mesh(devices=jax.devices()[:1]))
    placed = one.device_params()
    encoder = placed['reader']['encoder']
    assert {'layers_0', 'layers_1'} <= set(encoder) and 'layers' not in encoder
    jax.tree.map(np.testing.assert_array_equal, layer_scan.stack_layers(placed), jax.tree.map(np.asarray, one.params))
    # A model that is there already, as a server has it, is the same model.
    assert one.on_devices().embedder().fingerprint == one.embedder().fingerprint
    jax.tree.map(np.testing.assert_array_equal, one.on_devices().device_params(), placed)
    stacked = {'encoder': {'layers': {'kernel': np.zeros((2, 16, 16), np.float32)}}}
    assert np.shares_memory(layer_scan.views_apart(stacked)['encoder']['layers_1']['kernel'], stacked['encoder']['layers']['kernel'])


def test_a_passage_encoder_of_its_own_makes_the_index(atlas):
    other = jax.tree.map(lambda leaf: leaf + 1, atlas.params['retriever'])
    untied = dataclasses.replace(atlas, params={**atlas.params, 'passage_encoder': other})
    assert untied.description()['has_passage_encoder'] is True and set(untied.device_params()) == {'reader', 'retriever', 'passage_encoder'}
    assert untied.embedder().fingerprint != atlas.embedder().fingerprint
    assert atlas.embedder() is atlas.embedder()


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(errors.ModelFolderError):
        AtlasModel.load(tmp_path)


def test_a_mesh_of_none_takes_all_devices(atlas):
    assert dataclasses.replace(atlas, mesh=None).mesh.size == jax.device_count()


def test_a_retriever_to_train_gets_another_pooling(tmp_path):
    tiny_run.retriever().save(tmp_path)
    assert RetrieverSource(str(tmp_path)).load().config.retriever.pooling == 'average'
    assert RetrieverSource(str(tmp_path), pooling='cls').load().config.retriever.pooling == 'cls'
    with pytest.raises(errors.ConfigError, match='RetrieverSource.pooling is "middle"; choose one of average, .*cls'):
        RetrieverSource(str(tmp_path), pooling='middle')
