"""Contriever against transformers' BERT in float64: padded, long and lone passages, embeddings and gradients, both ways of conversion."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax.conversion import hf, hf_names
from atlas_jax.models import contriever
from tests.testing import loaded, streams

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.optimized]

LENGTHS = [149, 1, 7, 131]
TOKENS = streams.random_passages(LENGTHS, 83, 149)
WEIGHTS = np.random.default_rng(0).standard_normal((4, 22))


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=83, hidden_size=22, num_hidden_layers=2, num_attention_heads=2, intermediate_size=29,
                                     max_position_embeddings=151, hidden_act='gelu', initializer_range=0.2)
    oracle = transformers.BertModel(config).eval()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if 'LayerNorm' in name or name.endswith('bias'):
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp('bert')
    oracle.save_pretrained(folder)
    return oracle.double(), *loaded.contriever(folder)


def _oracle_embeddings(oracle):
    mask = torch.from_numpy((TOKENS > 0).astype(np.int64))
    states = oracle(input_ids=torch.from_numpy(TOKENS).long(), attention_mask=mask).last_hidden_state
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


@pytest.mark.parametrize('layout', [streams.padded, streams.flat])
def test_embeddings_and_gradients(pair, layout):
    oracle, config, params = pair
    assert config.layer_norm == 'true'
    oracle.zero_grad()
    expected = _oracle_embeddings(oracle)
    (expected * torch.from_numpy(WEIGHTS)).sum().backward()

    def loss(params, stream):
        found = contriever.Contriever(config).apply({'params': params}, stream).reshape(4, 22)
        return (found * WEIGHTS.astype(np.float32)).sum(), found

    with jax.default_matmul_precision('highest'):
        gradients, found = jax.jit(jax.grad(loss, has_aux=True))(params, layout(TOKENS, LENGTHS))
    assert streams.error(found, expected.detach()) <= 1e-5
    gradients, theirs = hf_names.flatten(gradients), dict(oracle.named_parameters())
    largest = max(float(theirs[name].grad.abs().max()) for name in theirs if theirs[name].grad is not None)
    for path, entry in hf_names.table(config).items():
        gradient = entry.transform(np.asarray(gradients[path]))
        if entry.name.endswith('key.bias'):
            # softmax ignores it: 0 up to rounding
            assert np.abs(gradient).max() <= 1e-6 * largest
        else:
            assert streams.error(gradient, theirs[entry.name].grad) <= 5e-5, entry.name


class _SecondMoment(torch.nn.LayerNorm):
    """Atlas's norm: the mean is taken off, the root of the second moment divides."""

    def forward(self, inputs):
        scale = torch.rsqrt(inputs.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return (inputs - inputs.mean(dim=-1, keepdim=True)) * scale * self.weight + self.bias


def _with_second_moment(oracle):
    """A copy with every norm replaced."""
    oracle = copy.deepcopy(oracle)
    for module in list(oracle.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.LayerNorm):
                norm = _SecondMoment(child.normalized_shape, child.eps, dtype=torch.float64)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return oracle


@pytest.mark.parametrize('layer_norm', ['true', 'second_moment'])
def test_every_pooling_with_either_norm(pair, layer_norm):
    oracle, config, params = pair
    oracle = _with_second_moment(oracle) if layer_norm == 'second_moment' else oracle
    mask = torch.from_numpy((TOKENS > 0).astype(np.int64))
    with torch.no_grad():
        states = oracle(input_ids=torch.from_numpy(TOKENS).long(), attention_mask=mask).last_hidden_state
    total, count = (states * mask[..., None]).sum(dim=1), mask.sum(dim=1, keepdim=True)
    expected = {'average': total / count, 'sqrt': total / count.sqrt(), 'cls': states[:, 0]}
    models = {(pooling, normalize): contriever.Contriever(
        dataclasses.replace(config, layer_norm=layer_norm, pooling=pooling, normalize=normalize))
        for pooling in expected for normalize in (False, True)}
    assert config.dropout_rate > 0  # and off, attention's too
    with jax.default_matmul_precision('highest'):
        stream = streams.flat(TOKENS, LENGTHS)
        found = jax.jit(lambda params: {key: model.apply({'params': params}, stream)[0] for key, model in models.items()})(params)
    for (pooling, normalize), embeddings in found.items():
        wanted = torch.nn.functional.normalize(expected[pooling], dim=1) if normalize else expected[pooling]
        assert streams.error(embeddings, wanted) <= 1e-5, (pooling, normalize)


def test_an_empty_passage_changes_nothing(pair):
    oracle, config, params = pair
    tokens = np.concatenate([TOKENS[:2], np.zeros((1, 149), np.int32), TOKENS[2:]])
    stream = streams.flat(tokens, [*LENGTHS[:2], 0, *LENGTHS[2:]])
    with jax.default_matmul_precision('highest'):
        found = np.asarray(jax.jit(contriever.Contriever(config).apply)({'params': params}, stream)[0])
    np.testing.assert_array_equal(found[2], 0)
    assert streams.error(np.delete(found, 2, axis=0), _oracle_embeddings(oracle).detach()) <= 1e-5


def test_what_we_write_transformers_reads(pair, tmp_path):
    oracle, config, params = pair
    hf.write_params(tmp_path, dataclasses.replace(config, dropout_rate=0.0), params)
    again = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval().double()
    assert streams.error(_oracle_embeddings(again).detach(), _oracle_embeddings(oracle).detach()) <= 1e-6
