"""The demo's real models against transformers in float64, on token ids of real sizes."""

import functools

import jax
import numpy as np
import pytest

from atlas_jax.models import contriever, t5
from tests.testing import fusion, loaded, streams

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.optimized]

LENGTHS = [150, 1, 37]


def _torch(tokens):
    return {'input_ids': torch.from_numpy(tokens).long(), 'attention_mask': torch.from_numpy((tokens > 0).astype(np.int64))}


def test_retriever(demo_packages):
    tokens = streams.random_passages(LENGTHS, 30522, 150)
    config, params = loaded.contriever(demo_packages.retriever_dir)
    assert (config.pooling, config.normalize, config.layer_norm) == ('average', True, 'true')
    oracle = transformers.BertModel.from_pretrained(demo_packages.retriever_dir).eval().double()
    inputs = _torch(tokens)
    with torch.no_grad():
        states = oracle(**inputs).last_hidden_state
    pooled = (states * inputs['attention_mask'][..., None]).sum(dim=1) / inputs['attention_mask'].sum(dim=1, keepdim=True)
    with jax.default_matmul_precision('highest'):
        found = jax.jit(contriever.Contriever(config).apply)({'params': params}, streams.flat(tokens, LENGTHS))[0]
    assert streams.error(found, torch.nn.functional.normalize(pooled, dim=1)) <= 1e-5


def test_reader(demo_packages):
    tokens, decoder_inputs = streams.random_passages(LENGTHS, 32100, 150), streams.random_passages([5, 5, 5], 32100, 5, seed=1)
    config, params = loaded.t5(demo_packages.reader_dir)
    oracle = transformers.T5ForConditionalGeneration.from_pretrained(demo_packages.reader_dir).eval()
    inputs = {**_torch(tokens), 'decoder_input_ids': torch.from_numpy(decoder_inputs).long()}
    with torch.no_grad():
        single, expected = oracle(**inputs).logits, oracle.double()(**inputs).logits
    with jax.default_matmul_precision('highest'):
        found = jax.jit(functools.partial(fusion.fid_logits, t5.T5(config)))(params, streams.flat(tokens, LENGTHS), decoder_inputs)
    allowed = max(1e-5, 3 * streams.error(single, expected))
    assert streams.error(found, expected) <= allowed
