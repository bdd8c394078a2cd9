"""Name tables: complete, without duplicates, and their own inverse."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from atlas_jax.conversion import hf_names
from atlas_jax.models import contriever, t5

T5 = t5.T5Config(vocab_size=11, emb_dim=6, num_heads=2, head_dim=5, mlp_dim=7, num_encoder_layers=2, num_decoder_layers=3)
TIED = t5.T5Config(**{**T5.__dict__, 'mlp_activations': ('relu',), 'logits_via_embedding': True})
CONTRIEVER = contriever.ContrieverConfig(vocab_size=11, emb_dim=6, num_heads=2, num_layers=2, mlp_dim=7)


@pytest.mark.parametrize(('table', 'init', 'config'), [
    (hf_names.table, t5.init_params, T5), (hf_names.table, t5.init_params, TIED),
    (hf_names.table, contriever.init_params, CONTRIEVER)])
def test_every_parameter_has_one_name(table, init, config):
    shapes = hf_names.flatten(nn.unbox(jax.eval_shape(lambda key: init(config, key), jax.random.key(0))))
    entries = table(config)
    assert set(entries) == set(shapes)
    assert len({entry.name for entry in entries.values()}) == len(entries)
    assert all(len(shapes[path].shape) == 2 for path, entry in entries.items() if entry.transpose)


def test_names_of_hugging_face():
    table = hf_names.table(T5)
    out = hf_names.Entry('decoder.block.2.layer.1.EncDecAttention.o.weight', True)
    assert table['decoder/layers_2/encoder_decoder_attention/out/kernel'] == out
    assert table['decoder/layers_0/mlp/wi_1/kernel'].name == 'decoder.block.0.layer.2.DenseReluDense.wi_1.weight'
    assert table['encoder/layers_1/mlp/wo/kernel'].name == 'encoder.block.1.layer.1.DenseReluDense.wo.weight'
    assert 'decoder/logits_dense/kernel' not in hf_names.table(TIED)
    norm = hf_names.table(CONTRIEVER)['bert/layers_1/post_mlp_layer_norm/scale']
    assert norm == hf_names.Entry('encoder.layer.1.output.LayerNorm.weight', False)


def test_transform_is_its_own_inverse():
    array = np.arange(6.0).reshape(2, 3)
    once = hf_names.Entry('x', True).transform(array)
    assert once.shape == (3, 2) and once.flags.c_contiguous
    np.testing.assert_array_equal(hf_names.Entry('x', True).transform(once), array)


def test_nest_undoes_flatten():
    tree = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
    assert hf_names.flatten(tree) == {'a/b': 1, 'a/c/d': 2, 'e': 3}
    assert hf_names.nest(hf_names.flatten(tree)) == tree
