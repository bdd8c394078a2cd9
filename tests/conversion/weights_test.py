"""Weights: every parameter once, layers in order, together and apart; and what is said of parameters that do not fit."""

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import weights
from atlas_jax.models import t5
from atlas_jax.nn import layer_scan
from tests.testing.tiny_checkpoints import V11, assert_equal, model

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
