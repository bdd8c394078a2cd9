"""The retriever's loss and gradients against numbers recorded from the original (fixtures/parity/README.md)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.conversion import hf, hf_names
from atlas_jax.losses import distill, reader_xent
from atlas_jax.models import contriever, fid, t5
from tests.testing import streams

PARITY = streams.FIXTURES / 'parity'
RECORDS = [record for record in json.loads((PARITY / 'losses_v11.json').read_text())['records'] if record['gold_score_mode'] == 'ppmean']


@pytest.fixture(scope='module')
def step():
    """A function of the temperatures: loss, scores, gold scores, gradients by name of Hugging Face."""
    inputs = {name: values[0] for name, values in np.load(PARITY / 'inputs.npz').items()}
    reader_config, reader = hf.load_t5(PARITY / 'reader_v11')
    config, retriever = hf.load_contriever(PARITY / 'contriever', layer_norm='second_moment')
    query_stream = streams.flat(inputs['query_ids'], inputs['query_mask'].sum(axis=-1))
    lengths = inputs['passage_mask'].sum(axis=-1).reshape(-1)
    passage_stream = streams.flat(inputs['passage_ids'].reshape(15, -1), lengths, streams=3)
    reader_stream = streams.flat(inputs['reader_ids'].reshape(15, -1), inputs['reader_mask'].sum(axis=-1).reshape(-1))

    def loss(retriever, temperature_score, temperature_gold):
        embed = contriever.Contriever(config).apply
        queries, passages = embed({'params': retriever}, query_stream)[0], embed({'params': retriever}, passage_stream)
        scores = jnp.einsum('bd,bnd->bn', queries, passages) / np.sqrt(config.emb_dim)
        rows, mask = fid.encode_passages(t5.T5(reader_config), reader, reader_stream)
        logits = fid.passage_logits(t5.T5(reader_config), reader, rows, mask, inputs['decoder_input_ids'])
        targets = np.broadcast_to(np.maximum(inputs['labels'], 0)[:, None], (3, 5, 10))
        gold_scores = distill.pdist_gold_scores(reader_xent.token_nll(logits, targets), inputs['target_mask'])
        value = distill.distillation_loss(scores, gold_scores, temperature_score=temperature_score, temperature_gold=temperature_gold)
        return value, (scores, gold_scores)

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(temperature_score, temperature_gold):
        with jax.default_matmul_precision('highest'):
            (value, (scores, gold_scores)), gradients = gradient(retriever, temperature_score, temperature_gold)
        flat = hf_names.flatten(gradients)
        table = hf_names.contriever_table(config)
        return value, scores, gold_scores, {entry.name: entry.transform(np.asarray(flat[path])) for path, entry in table.items()}

    return run


@pytest.mark.parametrize('record', RECORDS, ids=lambda record: f'{record["temperature_score"]}-{record["temperature_gold"]}')
def test_losses_and_scores(step, record):
    value, scores, gold_scores, gradients = step(record['temperature_score'], record['temperature_gold'])
    assert streams.error(scores, record['retriever_score']) <= 1e-5
    assert streams.error(gold_scores, record['gold_score']) <= 1e-5
    assert float(value) == pytest.approx(record['formula_check'], rel=1e-5)
    norms = {name.removeprefix('retriever.contriever.'): norm for name, norm in record['grad_norm'].items() if 'retriever' in name}
    largest = max(norms.values())
    compared = 0
    for name, norm in norms.items():
        if name in gradients:
            assert np.linalg.norm(gradients[name]) == pytest.approx(norm, rel=5e-5, abs=5e-5 * largest), name
            compared += 1
    assert compared > 50


def test_gradients(step):
    gradients, recorded = step(0.1, 0.1)[3], np.load(PARITY / 'grads_v11.npz')
    names = [key.removeprefix('ppmean_t0.1/contriever.') for key in recorded.files if key.startswith('ppmean')]
    assert len(names) == 12
    largest = max(np.abs(recorded[f'ppmean_t0.1/contriever.{name}']).max() for name in names)
    for name in names:
        expected = recorded[f'ppmean_t0.1/contriever.{name}']
        if name.endswith('key.bias'):
            # softmax does not see it: the gradient is 0 but for rounding, on both sides
            assert np.abs(gradients[name]).max() <= 1e-6 * largest and np.abs(expected).max() <= 1e-6 * largest
        else:
            assert streams.error(gradients[name], expected) <= 5e-5, name
