"""Gold scores, the retriever's loss and its gradients in every recorded mode, against the original (fixtures/parity/README.md)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.conversion import hf_names
from atlas_jax.losses import attention_scores, distill, reader_xent
from atlas_jax.metrics import retrieval
from atlas_jax.models import contriever, fid, t5
from atlas_jax.steps import read
from atlas_jax.steps import spec as spec_lib
from tests.testing import loaded, streams

pytestmark = pytest.mark.optimized

PARITY = streams.FIXTURES / 'parity'
RECORDS = json.loads((PARITY / 'losses_v11.json').read_text())['records']
STORED = {'scores': 'score_storage', 'probs': 'prob_storage', 'norms': 'normalized_score_storage'}


@pytest.fixture(scope='module', autouse=True)
def highest_precision():
    with jax.default_matmul_precision('highest'):
        yield


@pytest.fixture(scope='module')
def inputs():
    return {name: values[0] for name, values in np.load(PARITY / 'inputs.npz').items()}


@pytest.fixture(scope='module')
def teacher(inputs):
    """What the reader says of the passages: losses alone, with each left out, and recorded attention to all."""
    config, params = loaded.t5(PARITY / 'reader_v11')
    model = t5.T5(config)
    stream = streams.flat(inputs['reader_ids'].reshape(15, -1), inputs['reader_mask'].sum(axis=-1).reshape(-1))
    targets = np.broadcast_to(np.maximum(inputs['labels'], 0)[:, None], (3, 5, 10))

    @jax.jit
    def read(params):
        rows, mask = fid.encode_passages(model, params, stream)
        alone = fid.passage_logits(model, params, rows, mask, inputs['decoder_input_ids'])
        others = fid.leave_one_out(model, params, rows, mask, inputs['decoder_input_ids'])
        keys_values, fused = fid.fuse(rows, mask, 3)
        _, recorded = model.apply({'params': params}, inputs['decoder_input_ids'], keys_values, fused, record=attention_scores.KINDS,
                                  method='decode_recording')
        nll = {temperature: reader_xent.token_nll(alone / temperature, targets) for temperature in (1.0, 0.1)}
        return nll, reader_xent.token_nll(others, targets), recorded

    return read(params)


@pytest.fixture(scope='module')
def retriever(inputs):
    """The retriever's scores, and a function from the gradient of a loss by them to gradients by name of Hugging Face."""
    config, params = loaded.contriever(PARITY / 'contriever', layer_norm='second_moment')
    query_stream = streams.flat(inputs['query_ids'], inputs['query_mask'].sum(axis=-1))
    lengths = inputs['passage_mask'].sum(axis=-1).reshape(-1)
    passage_stream = streams.flat(inputs['passage_ids'].reshape(15, -1), lengths, streams=3)

    def score(params):
        embed = contriever.Contriever(config).apply
        queries, passages = embed({'params': params}, query_stream)[0], embed({'params': params}, passage_stream)
        return jnp.einsum('bd,bnd->bn', queries, passages) / np.sqrt(config.emb_dim)

    @jax.jit
    def backward(params, by_score):
        scores, pull = jax.vjp(score, params)
        return scores, pull(by_score)[0]

    def gradients(by_score):
        flat = hf_names.flatten(backward(params, by_score)[1])
        return {entry.name: entry.transform(np.asarray(flat[path])) for path, entry in hf_names.table(config).items()}

    return backward(params, jnp.zeros((3, 5)))[0], gradients


def _attended(inputs, recorded, name):
    statistic = attention_scores.STATISTICS[name]
    ids, mask = inputs['reader_ids'], inputs['reader_mask'] > 0
    queries = np.where(inputs['query_mask_reader'] > 0, ids[:, 0, :12], 0)
    query_mask = read.query_mask(jnp.asarray(ids), jnp.asarray(queries), inputs['query_mask_reader'].sum(axis=-1))
    return attention_scores.passage_scores(
        jnp.asarray(recorded[statistic.kind]).reshape(3, 3, 10, 5, 48), statistic.reduction, inputs['target_mask'], mask,
        eos_mask=(ids == 1) & mask, query_mask=query_mask, padded_tokens=48)


def _gold(mode, inputs, teacher):
    nll, others, recorded = teacher
    mode = spec_lib.DistillConfig(gold_score_mode=mode)
    if mode.attention:
        return _attended(inputs, recorded, mode.attention.kind + mode.attention.reduction)
    if mode.gold_score_mode == 'loop':
        return distill.loop_gold_scores(others, inputs['target_mask'])
    return distill.pdist_gold_scores(nll[1.0], inputs['target_mask'])


def _id(record):
    return f'{record["gold_score_mode"]}-{record["temperature_score"]}'


@pytest.mark.parametrize('record', RECORDS, ids=_id)
def test_losses_scores_and_gradients(record, inputs, teacher, retriever):
    mode, temperature_gold, temperature_score = (record[name] for name in ('gold_score_mode', 'temperature_gold', 'temperature_score'))
    scores, gradients_by = retriever
    assert streams.error(scores, record['retriever_score_f64']) <= 1e-5
    if mode == 'emdr':
        loss = lambda scores: distill.emdr_loss(scores, -teacher[0][temperature_gold], inputs['target_mask'],  # noqa: E731
                                             temperature_score=temperature_score)
    else:
        gold = _gold(mode, inputs, teacher)
        assert streams.error(gold, record['gold_score_f64']) <= _bound(record['gold_score'], record['gold_score_f64'])
        loss = lambda scores: distill.distillation_loss(scores, gold, temperature_score=temperature_score,  # noqa: E731
                                                        temperature_gold=temperature_gold)
    value, by_score = jax.value_and_grad(loss)(scores)
    exact = record['retriever_loss_f64']
    assert abs(float(value) - exact) <= abs(exact) * max(1e-5, 3 * abs(record['retriever_loss'] - exact) / abs(exact))
    _compare_norms(gradients_by(by_score), record['grad_norm_f64'])


def _bound(single, exact):
    return max(1e-5, 3 * streams.error(single, exact))


def _compare_norms(gradients, recorded):
    norms = {name.removeprefix('retriever.contriever.'): norm for name, norm in recorded.items() if 'retriever' in name}
    largest, compared = max(norms.values()), 0
    for name, norm in norms.items():
        if name in gradients:
            assert np.linalg.norm(gradients[name]) == pytest.approx(norm, rel=5e-5, abs=5e-5 * largest), name
            compared += 1
    assert compared > 50


@pytest.mark.parametrize('mode', ['ppmean', 'loop', 'emdr', 'evalnormssum'])
def test_gradients(mode, inputs, teacher, retriever):
    scores, gradients_by = retriever
    if mode == 'emdr':
        by_score = jax.grad(distill.emdr_loss)(scores, -teacher[0][0.1], inputs['target_mask'], temperature_score=0.1)
    else:
        by_score = jax.grad(distill.distillation_loss)(scores, _gold(mode, inputs, teacher), temperature_score=0.1, temperature_gold=0.1)
    gradients, recorded = gradients_by(by_score), np.load(PARITY / 'grads_v11.npz')
    prefix = f'{mode}_t0.1/contriever.'
    names = [key.removeprefix(prefix) for key in recorded.files if key.startswith(prefix)]
    assert len(names) >= 10
    largest = max(np.abs(recorded[prefix + name]).max() for name in names)
    for name in names:
        expected = recorded[prefix + name]
        if name.endswith('key.bias'):
            # softmax ignores it: the gradient is 0 up to rounding, on both sides
            assert np.abs(gradients[name]).max() <= 1e-6 * largest and np.abs(expected).max() <= 1e-6 * largest
        else:
            assert streams.error(gradients[name], expected) <= 5e-5, name


@pytest.mark.parametrize('kind', attention_scores.KINDS)
def test_recorded_attention_layer_by_layer(kind, inputs, teacher):
    found, recorded = np.asarray(teacher[2][kind]), np.load(PARITY / 'fid_v11.npz')[f'b0_n5_{STORED[kind]}']
    real = (inputs['target_mask'] > 0)[:, :, None] & (inputs['reader_mask'].reshape(3, 1, 240) > 0)
    assert streams.error(np.where(real, found, 0), np.where(real, recorded, 0)) <= 1e-5
    assert np.abs(found[:, np.broadcast_to(inputs['reader_mask'].reshape(3, 1, 240) == 0, found.shape[1:])]).max() == 0


def test_aggregated_attention(inputs, teacher):
    """Where the original kept them; its name of `norms` + `top20` is `normstop20`, and so on."""
    recorded = np.load(PARITY / 'fid_v11.npz')
    names = [name for name in attention_scores.STATISTICS if f'b0_n5_agg_{name}' in recorded]
    assert len(names) == 12
    for name in names:
        assert streams.error(_attended(inputs, teacher[2], name), recorded[f'b0_n5_agg_{name}']) <= 1e-5, name


def test_correlation_with_gold_scores(inputs, teacher):
    """The original correlates every statistic with the gold scores, over all passages of the batch at once."""
    record = next(record for record in RECORDS if record.get('compute_crossattention_stats'))
    gold = np.asarray(_gold('ppmean', inputs, teacher)).ravel().tolist()
    for name in attention_scores.STATISTICS:
        found = retrieval.pearson(gold, np.asarray(_attended(inputs, teacher[2], name)).ravel().tolist())
        assert found == pytest.approx(record['stats'][f'corr/{name}'], abs=2e-5), name
