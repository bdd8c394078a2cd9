"""The decoder on eight devices, whole and split over `model`: the same losses, gradients and answers as on one."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.models import fid, t5
from atlas_jax.nn import layer_scan, token_stream
from tests.testing import streams

# Sizes that no weight has, so that a collective over tokens shows in the program's text.
EXAMPLES, PASSAGES, LONGEST, STREAM_TOKENS, TARGETS = 8, 3, 37, 83, 5
READER = t5.T5Config(vocab_size=64, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=48, num_encoder_layers=1, num_decoder_layers=2,
                     dropout_rate=0.0)


def _passages():
    lengths = np.random.default_rng(0).integers(0, 27, (EXAMPLES, PASSAGES)).astype(np.int32)
    return streams.random_passages(lengths.reshape(-1), 64, LONGEST).reshape(EXAMPLES, PASSAGES, LONGEST), lengths


def _inputs():
    targets = np.random.default_rng(1).integers(2, 64, (EXAMPLES, TARGETS)).astype(np.int32)
    return (*_passages(), targets)


def _rows(reader, params, tokens, lengths, mesh):
    stream = token_stream.pack(tokens, lengths, STREAM_TOKENS, LONGEST)
    if mesh is not None:
        stream = jax.tree.map(lambda leaf: partitioning.constrain(leaf, mesh, 'streams'), stream)
    return fid.encode_passages(reader, params, stream)


def _loss(remat, mesh):
    """The loss of the fused reading, and the logits of the first two passages, each read alone."""
    reader = t5.T5(READER, remat)

    def run(params, tokens, lengths, targets):
        rows, mask = _rows(reader, params, tokens, lengths, mesh)
        beside = fid.alone(mask, EXAMPLES, 2)
        (logits, _), (alone, _) = reader.apply({'params': params}, targets, *fid.fuse(rows, mask, EXAMPLES), True, (), beside,
                                               method='decode_both')
        return jnp.mean(logits**2) + jnp.mean(jax.nn.softmax(logits)**3), alone

    def on_mesh(*arguments):
        if mesh is None:
            return run(*arguments)
        with partitioning.on_mesh(mesh):
            return run(*arguments)

    return jax.value_and_grad(on_mesh, has_aux=True)


def _answers(mesh):
    """Logits step by step, as answering computes them."""
    reader = t5.T5(READER)

    def run(params, tokens, lengths, targets):
        keys_values, mask = fid.fuse(*_rows(reader, params, tokens, lengths, mesh), EXAMPLES)
        params, by_step = reader.step_by_step(params, keys_values, mask)
        cache, logits = reader.init_cache(EXAMPLES, TARGETS), []
        for position in range(TARGETS):
            found, cache, _ = reader.apply({'params': params}, targets[:, position], jnp.int32(position), cache, by_step, mask,
                                           method='decode_step')
            logits.append(found)
        return jnp.stack(logits)

    def on_mesh(*arguments):
        if mesh is None:
            return run(*arguments)
        with partitioning.on_mesh(mesh):
            return run(*arguments)

    return on_mesh


@functools.cache
def _params():
    boxed = jax.jit(t5.init_params, static_argnums=0)(READER, jax.random.key(0))
    boxed = layer_scan.stack_layers(boxed)
    return boxed, streams.perturbed(nn.unbox(boxed))


def _placed(mesh):
    boxed, params = _params()
    shardings = partitioning.tree_shardings(mesh, boxed)
    inputs = [jax.device_put(array, partitioning.sharding(mesh, 'streams')) for array in _inputs()]
    return jax.device_put(params, shardings), inputs, shardings


@functools.cache
def _on_one_device():
    return jax.device_get(jax.jit(_loss('none', None))(_params()[1], *_inputs()))


@pytest.mark.parametrize(('shape', 'remat'), [
    ((2, 2, 2), 'encoder_mlp'),
    *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in [((1, 2, 4), 'full'), ((1, 4, 2), 'none')])])
def test_losses_and_gradients_are_those_of_one_device(shape, remat):
    assert len(jax.devices()) == 8
    (loss, alone), gradients = _on_one_device()
    mesh = partitioning.make_mesh(shape)
    placed, inputs, shardings = _placed(mesh)
    compiled = jax.jit(_loss(remat, mesh), out_shardings=((None, None), shardings)).lower(placed, *inputs).compile()
    (found, found_alone), found_gradients = compiled(placed, *inputs)
    np.testing.assert_allclose(found, loss, rtol=2e-5)
    np.testing.assert_allclose(found_alone, alone, rtol=1e-4, atol=1e-4)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    for a, b in zip(jax.tree.leaves(found_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5 * max(float(np.abs(b).max()), 1e-2 * largest), rtol=0)
    # The decoder's MLP [embed, mlp] is never whole on a device; the encoder's is.
    shapes = re.findall(r'f32\[32,48\]', compiled.as_text())
    decoders = re.findall(rf'f32\[32,{48 // shape[2]}\]', compiled.as_text())
    assert shapes and decoders


def test_answers_are_those_of_one_device():
    _, params = _params()
    expected = jax.jit(_answers(None))(params, *_inputs())
    mesh = partitioning.make_mesh((1, 2, 4))
    placed, inputs, _ = _placed(mesh)
    np.testing.assert_allclose(jax.jit(_answers(mesh))(placed, *inputs), expected, rtol=1e-4, atol=1e-4)
