"""The embedder with a stream on each of 8 devices: the same embeddings as one passage at a time."""

import jax
import numpy as np
import pytest

from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.models import contriever
from atlas_jax.nn import token_stream
from tests.testing import tiny


@pytest.mark.parametrize('rows', [3, 57])
def test_eight_streams(rows):
    assert len(jax.devices()) == 8
    table = tiny.table(rows, tiny.RETRIEVER.vocab_size, seed=1)
    params = contriever.init_params(tiny.RETRIEVER, jax.random.key(0))  # boxed with its axes, as training has it
    with jax.default_matmul_precision('highest'):
        found = PassageEmbedder(tiny.RETRIEVER, params, tiny.SEGMENTS.retriever, 37, tokens_per_batch=79).embed(table, np.arange(rows))
        tokens, lengths = np.zeros((rows, 37), np.int32), np.minimum(table.lengths + 2, 37)
        for row, length in enumerate(lengths):
            tokens[row, :length] = [2, *table.tokens[row, :length - 2], 3]
        stream = token_stream.pack(tokens[None], lengths[None], stream_tokens=int(lengths.sum()), longest=37)
        expected = jax.jit(contriever.Contriever(tiny.RETRIEVER).apply)({'params': params}, stream)[0]
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-5
