"""Encoders over eight streams on eight devices: the same gradients, and no token leaves its device."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.models import contriever, t5
from atlas_jax.nn import token_stream
from tests.testing import streams

# Sizes that no weight has, so that a collective over tokens shows in the program's text.
PASSAGES, LONGEST, STREAM_TOKENS = 5, 37, 149
READER = t5.T5Config(vocab_size=64, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2, num_decoder_layers=1,
                     dropout_rate=0.0)
RETRIEVER = contriever.ContrieverConfig(vocab_size=64, emb_dim=32, num_heads=4, num_layers=2, mlp_dim=64, max_positions=64,
                                        dropout_rate=0.0)


def _reader_loss(params, stream, flash=False):
    encoded = t5.T5(READER, flash=flash).apply({'params': params}, stream, method='encode')
    return jnp.sum(jnp.where(stream.passage_indices[..., None] >= 0, encoded, 0)**3)


def _retriever_loss(params, stream, flash=False):
    return jnp.sum(contriever.Contriever(RETRIEVER, flash=flash).apply({'params': params}, stream)**3)


def _passages():
    lengths = np.random.default_rng(0).integers(0, 30, (8, PASSAGES)).astype(np.int32)
    lengths[2, 3] = 0
    tokens = streams.random_passages(lengths.reshape(-1), 64, LONGEST).reshape(8, PASSAGES, LONGEST)
    return tokens, np.minimum(lengths, STREAM_TOKENS // PASSAGES)


def _gradient(loss, mesh, flash=False):
    def run(params, tokens, lengths):
        stream = token_stream.pack(tokens, lengths, STREAM_TOKENS, LONGEST)
        if mesh is None:
            return loss(params, stream, flash)
        with partitioning.on_mesh(mesh):
            return loss(params, jax.tree.map(lambda leaf: partitioning.constrain(leaf, mesh, 'streams'), stream), flash)

    return jax.grad(run)


@functools.cache
def _on_one_device(init, config, loss):
    """The parameters, with and without their axes' names, and the gradients."""
    boxed = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    params = streams.perturbed(nn.unbox(boxed))
    return boxed, params, jax.device_get(jax.jit(_gradient(loss, None))(params, *_passages()))


@pytest.mark.parametrize(('init', 'config', 'loss'), [(t5.init_params, READER, _reader_loss),
                                                      (contriever.init_params, RETRIEVER, _retriever_loss)])
@pytest.mark.parametrize(('shape', 'flash'), [
    ((2, 2, 2), False), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in [((1, 8, 1), False), ((2, 2, 2), True)])])
def test_gradients_are_those_of_one_device(init, config, loss, shape, flash):
    assert len(jax.devices()) == 8
    boxed, params, expected = _on_one_device(init, config, loss)
    mesh = partitioning.make_mesh(shape)
    shardings = partitioning.tree_shardings(mesh, boxed)
    spread = [jax.device_put(array, partitioning.sharding(mesh, 'streams')) for array in _passages()]
    compiled = jax.jit(_gradient(loss, mesh, flash), out_shardings=shardings).lower(jax.device_put(params, shardings), *spread).compile()
    found = compiled(jax.device_put(params, shardings), *spread)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5 * max(float(np.abs(b).max()), 1e-2 * largest), rtol=0)
    moved = re.findall(r'= \(?([^=]*?) (?:all-gather|all-to-all|collective-permute)\(', compiled.as_text())
    # Token ids may move, for the embedding's gradient; states [streams, tokens, embed] may not.
    states = [text for text in moved if re.search(rf'f32\[(\d+,)+({LONGEST}|{STREAM_TOKENS}|{PASSAGES * LONGEST}),', text)]
    assert moved and not states, states
