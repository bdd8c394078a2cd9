"""T5 v1.0 and v1.1 against transformers in float64: padded, long and lone passages, logits and gradients, both ways of conversion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.conversion import hf, hf_names
from atlas_jax.losses import reader_xent
from atlas_jax.models import t5
from tests.testing import fusion, loaded, streams

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.optimized]

VOCAB = 83
LENGTHS = [149, 1, 133, 11]  # beyond the 128 at which the position buckets end
TOKENS = streams.random_passages(LENGTHS, VOCAB, 149)
TARGETS = streams.random_passages([7, 3, 5, 1], VOCAB, 7, seed=1)


def _oracle(version: str):
    """A random model whose heads do not fill d_model, in float64."""
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=VOCAB, d_model=24, d_kv=7, num_heads=3, d_ff=29, num_layers=2, num_decoder_layers=3,
                                   feed_forward_proj='relu' if version == '1.0' else 'gated-gelu', decoder_start_token_id=0,
                                   tie_word_embeddings=version == '1.0')
    model = transformers.T5ForConditionalGeneration(config)
    if version == '1.1':
        # transformers 5 ties what it builds itself; a v1.1 has an output of its own
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 24) / 5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'layer_norm' in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().double()


@pytest.fixture(scope='module', params=['1.0', '1.1'])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('t5')
    oracle = _oracle(request.param)
    oracle.float().save_pretrained(folder)
    config, params = loaded.t5(folder)
    assert config.logits_via_embedding == (request.param == '1.0')
    return oracle.double(), config, params


def _oracle_loss(oracle):
    """Logits [4, 7, vocab] and the summed loss of each passage read alone."""
    mask = torch.from_numpy((TOKENS > 0).astype(np.int64))
    logits = oracle(input_ids=torch.from_numpy(TOKENS).long(), attention_mask=mask,
                    decoder_input_ids=torch.tensor(np.asarray(t5.shift_right(jnp.asarray(TARGETS)))).long()).logits
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), torch.from_numpy(TARGETS).long(), reduction='none')
    return logits, (nll * torch.from_numpy(TARGETS > 0)).sum() / (TARGETS > 0).sum()


def _loss(params, config, stream):
    logits = fusion.fid_logits(t5.T5(config), params, stream, t5.shift_right(jnp.asarray(TARGETS)))
    return reader_xent.reader_loss(reader_xent.token_nll(logits, TARGETS), (TARGETS > 0).astype(np.float32)), logits


@pytest.mark.parametrize('layout', [streams.padded, functools.partial(streams.flat, streams=2)])
def test_logits_and_gradients(pair, layout):
    oracle, config, params = pair
    oracle.zero_grad()
    expected, loss = _oracle_loss(oracle)
    loss.backward()
    with jax.default_matmul_precision('highest'):
        gradient = jax.jit(jax.value_and_grad(_loss, has_aux=True), static_argnums=1)
        (value, logits), gradients = gradient(params, config, layout(TOKENS, LENGTHS))
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert streams.error(logits, expected.detach()) <= 1e-5
    gradients, theirs = hf_names.flatten(gradients), dict(oracle.named_parameters())
    for path, entry in hf_names.table(config).items():
        found = entry.transform(np.asarray(gradients[path]))
        assert streams.error(found, theirs[entry.name].grad) <= 5e-5, entry.name


def test_fused_passages_equal_one_long_memory(pair):
    """FiD by hand in transformers: encode each passage, lay the states side by side, decode."""
    oracle, config, params = pair
    mask = torch.from_numpy((TOKENS > 0).astype(np.int64))
    with torch.no_grad():
        states = oracle.encoder(input_ids=torch.from_numpy(TOKENS).long(), attention_mask=mask).last_hidden_state
        memory = transformers.modeling_outputs.BaseModelOutput(states.reshape(2, -1, states.shape[-1]))
        decoder_inputs = t5.shift_right(jnp.asarray(TARGETS[:2]))
        expected = oracle(encoder_outputs=memory, attention_mask=mask.reshape(2, -1),
                          decoder_input_ids=torch.tensor(np.asarray(decoder_inputs)).long()).logits
    with jax.default_matmul_precision('highest'):
        found = jax.jit(functools.partial(fusion.fid_logits, t5.T5(config)))(params, streams.flat(TOKENS, LENGTHS), decoder_inputs)
    assert streams.error(found, expected) <= 1e-5


def test_what_we_write_transformers_reads(pair, tmp_path):
    oracle, config, params = pair
    hf.write_params(tmp_path, config, params)
    again, _ = _oracle_loss(transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval().double())
    expected, _ = _oracle_loss(oracle)
    assert streams.error(again.detach(), expected.detach()) <= 1e-6
