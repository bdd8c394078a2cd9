"""Reader and retriever together: layers first, axes named, shapes without values, a second encoder."""

import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec

from atlas_jax import partitioning
from atlas_jax.models import contriever, parameters, t5
from tests.testing import tiny

CONFIG = tiny.config()
MESH = partitioning.make_abstract_mesh((1, 2, 1))


def test_layers_come_first_and_axes_are_named():
    boxed = parameters.abstract_params(CONFIG)
    assert set(boxed) == {'reader', 'retriever'}
    kernel = boxed['reader']['encoder']['layers']['mlp']['wo']['kernel']
    assert kernel.names == ('layers', 'mlp', 'embed') and kernel.value.shape == (2, 31, 24)
    assert boxed['retriever']['bert']['layers']['attention']['query']['bias'].names == ('layers', 'joined_kv')
    assert {type(leaf) for leaf in jax.tree.leaves(partitioning.unboxed_shapes(boxed))} == {jax.ShapeDtypeStruct}


@pytest.mark.parametrize('config, init', [(dataclasses.replace(CONFIG.reader, num_encoder_layers=3), t5.init_params),
                                          (dataclasses.replace(CONFIG.retriever, num_layers=3), contriever.init_params)])
def test_one_layer_stands_for_all(config, init):
    found, wanted = parameters.abstract_part(config), jax.eval_shape(lambda: init(config, jax.random.key(0)))
    assert jax.tree.structure(found) == jax.tree.structure(wanted) and jax.tree.leaves(found) == jax.tree.leaves(wanted)


def test_items_of_a_checkpoint_have_shapes_and_shardings():
    items = parameters.abstract_param_items(CONFIG, MESH, passage_encoder=False)
    assert set(items) == {'reader', 'retriever'}
    embedding = items['reader']['token_embedder']['embedding']
    assert embedding.shape == (101, 24) and embedding.sharding.spec == PartitionSpec('model', 'fsdp')
    both = parameters.abstract_param_items(CONFIG, MESH, passage_encoder=True)
    assert set(both) == {*items, 'passage_encoder'} and both['passage_encoder'] == both['retriever'] == items['retriever']
    assert parameters.param_shardings(CONFIG, MESH)['reader'] == jax.tree.map(lambda leaf: leaf.sharding, items['reader'])
