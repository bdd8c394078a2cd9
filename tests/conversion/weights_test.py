"""Weights: every parameter once, layers in order, together and apart; and messages about parameters that do not fit."""

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import weights
from atlas_jax.models import t5
from atlas_jax.nn import layer_scan
from tests.testing.tiny_checkpoints import BERT, V10, V11, assert_equal, model

MANY = t5.T5Config(vocab_size=5, emb_dim=3, num_heads=1, head_dim=2, mlp_dim=2, num_encoder_layers=11, num_decoder_layers=1)


def test_layers_of_a_parameter_follow_each_other():
    shapes = weights.expected_shapes(MANY)
    order = weights.Weights(MANY, shapes, lambda path: np.zeros(shapes[path])).order()
    assert sorted(order) == sorted(shapes)
    start = order.index('encoder/layers_0/mlp/wo/kernel')
    assert order[start:start + 11] == [f'encoder/layers_{i}/mlp/wo/kernel' for i in range(11)]


def test_together_and_apart():
    opened = model(V11)
    together = opened.stacked_params()
    expected = layer_scan.stack_layers(opened.params())
    assert jax.tree.structure(together) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, together, expected)
    assert_equal(weights.of_params(V11, together), opened)


def test_parameters_that_do_not_fit_are_named():
    with pytest.raises(errors.ModelFolderError, match=r'x: lacks parameters b \[2\], expected by y'):
        weights.check('x', {'a': (1,)}, {'a': (1,), 'b': (2,)}, 'y')
    with pytest.raises(errors.ModelFolderError, match=r'x: has unknown parameters b \[2\], c \[\], d \[1, 1\] and 1 more, not expected by'):
        weights.check('x', {'a': (1,), 'b': (2,), 'c': (), 'd': (1, 1), 'e': ()}, {'a': (1,)})
    with pytest.raises(errors.ModelFolderError, match=r'x: a has shape \[1, 2\], expected \[2, 1\] by config.json'):
        weights.check('x', {'a': (1, 2)}, {'a': (2, 1)})
    weights.check('x', {'a': (1, 2)}, {'a': (1, 2)})


def test_weights_know_their_kind():
    assert weights.reader(model(V11)).config is V11 and weights.retriever(model(BERT)).config is BERT
    with pytest.raises(TypeError, match='expected the weights of a T5, found those of a ContrieverConfig'):
        weights.reader(model(BERT))
    with pytest.raises(TypeError, match='expected the weights of a Contriever, found those of a T5Config'):
        weights.retriever(model(V11))


@pytest.mark.parametrize('config', [V11, V10, MANY], ids=['gated', 'tied', 'eleven layers'])
def test_a_configuration_is_read_off_the_shapes(config):
    assert weights.infer_t5('x', weights.expected_shapes(config)) == config
    assert weights.infer_t5('x', weights.expected_shapes(config), tied=True).logits_via_embedding


@pytest.mark.parametrize(('changes', 'message'), [
    ({'token_embedder/embedding': None}, 'x: token_embedder/embedding is missing, expected a matrix'),
    ({'token_embedder/embedding': (3,)}, r'token_embedder/embedding has shape \[3\]'),
    ({'encoder/relpos_bias/rel_embedding': (3, 32)}, 'has 10 columns, expected a multiple of the 3 heads'),
    ({'encoder/relpos_bias/rel_embedding': (0, 32)}, 'the 0 heads')])
def test_shapes_that_are_no_t5(changes, message):
    shapes = {path: shape for path, shape in {**weights.expected_shapes(V11), **changes}.items() if shape is not None}
    with pytest.raises(errors.ModelFolderError, match=message) as caught:
        weights.infer_t5('x', shapes)
    assert '\n' not in str(caught.value)
