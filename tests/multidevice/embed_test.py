"""The embedder with a stream on each of 8 devices: the same embeddings as one passage at a time."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from atlas_jax import types
from atlas_jax.index import embed
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


def test_streams_stay_on_their_devices_and_a_kernel_is_not_left_to_the_compiler(monkeypatch):
    mesh, table = embed.encoder_mesh(jax.devices()), tiny.table(16, tiny.RETRIEVER.vocab_size, seed=1)
    part = types.TokenTable(table.tokens.reshape(8, 2, -1), table.title_lengths.reshape(8, 2), table.lengths.reshape(8, 2))
    params = jax.tree.map(np.asarray, contriever.init_params(tiny.RETRIEVER, jax.random.key(0)))
    options = {'config': tiny.RETRIEVER, 'segments': tiny.SEGMENTS.retriever, 'longest': 37, 'mesh': mesh}

    def traced(stream_tokens):
        inputs = jax.device_put((part, np.ones((8, 2), bool)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data')))
        return embed.embed_pack.trace(nn.meta.unbox(params), *inputs, stream_tokens=stream_tokens, **options)

    compiled = traced(79).lower().compile().as_text()
    assert not [word for word in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute') if word in compiled]
    # The compiler for TPUs refuses to split a kernel over devices; a shard_map says which stream each of them has.
    monkeypatch.setattr(contriever, 'Contriever', functools.partial(contriever.Contriever, flash=True))
    assert 'shard_map' in str(traced(80).jaxpr)
