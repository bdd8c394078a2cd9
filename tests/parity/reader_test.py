"""The reader against numbers recorded from the original and from T5X (fixtures/*/README.md)."""

import functools
import json

import jax
import numpy as np
import pytest

from atlas_jax.conversion import hf_names
from atlas_jax.losses import reader_xent
from atlas_jax.models import fid, t5
from atlas_jax.nn import token_stream
from tests.testing import fusion, loaded, streams

pytestmark = pytest.mark.optimized

PARITY, T5X = streams.FIXTURES / 'parity', streams.FIXTURES / 't5x' / 't5_1_1'
TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5


@pytest.fixture(scope='module', autouse=True)
def highest_precision():
    with jax.default_matmul_precision('highest'):
        yield


@pytest.fixture(scope='module')
def reader():
    config, params = loaded.t5(PARITY / 'reader_v11')
    return t5.T5(config), params


def _batch(n_context: int = 5):
    """Batch 0: a stream of the first passages of each example, and the rest of the recorded inputs."""
    inputs = np.load(PARITY / 'inputs.npz')
    ids, mask = inputs['reader_ids'][0, :, :n_context], inputs['reader_mask'][0, :, :n_context]
    stream = streams.flat(ids.reshape(-1, 48), mask.sum(axis=-1).reshape(-1), streams=3)
    return stream, {name: inputs[name][0] for name in ('reader_mask', 'decoder_input_ids', 'labels', 'target_mask')}


def test_encoder(reader):
    model, params = reader
    stream, inputs = _batch()
    encoded = jax.jit(functools.partial(model.apply, method='encode'))({'params': params}, stream)
    rows = np.asarray(token_stream.to_rows(stream, encoded)).reshape(3, 240, 64)
    real = inputs['reader_mask'].reshape(3, 240) > 0
    assert streams.error(rows[real], np.load(PARITY / 'fid_v11.npz')['b0_n5_encoder'][real]) <= TOLERANCE


@pytest.mark.parametrize('n_context', [5, 3])
def test_logits_and_loss(reader, n_context):
    stream, inputs = _batch(n_context)
    recorded = np.load(PARITY / 'fid_v11.npz')
    logits = jax.jit(functools.partial(fusion.fid_logits, reader[0]))(reader[1], stream, inputs['decoder_input_ids'])
    assert streams.error(logits, recorded[f'b0_n{n_context}_logits']) <= TOLERANCE
    loss = reader_xent.reader_loss(reader_xent.token_nll(logits, np.maximum(inputs['labels'], 0)), inputs['target_mask'])
    expected = recorded[f'b0_n{n_context}_reader_loss']
    if n_context == 5:
        expected = json.loads((PARITY / 'losses_v11.json').read_text())['fid']['b0_n5_reader_loss_f64']
    assert float(loss) == pytest.approx(float(expected), rel=TOLERANCE)


def test_cross_attention_probabilities(reader):
    model, params = reader
    stream, inputs = _batch()

    @jax.jit
    def record(params, stream):
        keys_values, mask = fid.fuse(*fid.encode_passages(model, params, stream), 3)
        return model.apply({'params': params}, inputs['decoder_input_ids'], keys_values, mask, record=('probs',), method='decode_recording')

    found = record(params, stream)[1]['probs']  # by layer, example, target token and key, the mean over heads
    recorded = np.load(PARITY / 'fid_v11.npz')['b0_n5_prob_storage']
    target = inputs['target_mask'][..., None] > 0
    assert streams.error(np.where(target, found, 0), np.where(target, recorded, 0)) <= TOLERANCE


def test_gradients(reader):
    model, params = reader
    stream, inputs = _batch()

    def loss(params):
        logits = fusion.fid_logits(model, params, stream, inputs['decoder_input_ids'])
        return reader_xent.reader_loss(reader_xent.token_nll(logits, np.maximum(inputs['labels'], 0)), inputs['target_mask'])

    gradients = hf_names.flatten(jax.jit(jax.grad(loss))(params))
    recorded = np.load(PARITY / 'grads_v11.npz')
    by_name = {entry.name: entry.transform(np.asarray(gradients[path])) for path, entry in hf_names.table(model.config).items()}
    names = [key.removeprefix('reader/') for key in recorded.files if key.startswith('reader/')]
    assert len(names) == 14
    for name in names:
        assert streams.error(by_name[name], recorded[f'reader/{name}']) <= GRADIENT_TOLERANCE, name


@pytest.mark.parametrize('case', ['a', 'b'])
@pytest.mark.parametrize('layout', [streams.flat, streams.padded])
def test_t5x(case, layout):
    """Up to 160 tokens, beyond the 128 at which the position buckets end; T5X itself is float32 and no original: 2e-5 absolute."""
    config, params = loaded.t5(T5X / 'hf')
    recorded = np.load(T5X / 'io.npz')
    tokens, mask = recorded[f'{case}_encoder_input_tokens'], recorded[f'{case}_encoder_mask'] > 0
    model, stream = t5.T5(config), layout(tokens, mask.sum(axis=-1))
    encoded = jax.jit(functools.partial(model.apply, method='encode'))({'params': params}, stream)
    rows = np.asarray(token_stream.to_rows(stream, encoded)).reshape(*tokens.shape, -1)
    np.testing.assert_allclose(rows[mask], recorded[f'{case}_t5x_encoder_out'][mask], atol=2e-5, rtol=0)
    logits = jax.jit(functools.partial(fusion.fid_logits, model))(params, stream, recorded[f'{case}_decoder_input_tokens'])
    real = recorded[f'{case}_decoder_mask'] > 0
    np.testing.assert_allclose(np.asarray(logits)[real], recorded[f'{case}_t5x_logits'][real], atol=2e-5, rtol=0)
