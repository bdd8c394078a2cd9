"""A tiny Atlas without files: random weights, random passages, sizes that are prime where they can be."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import types
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.nn import layer_scan
from atlas_jax.tokenizers.formats import Segment

READER = t5.T5Config(vocab_size=101, emb_dim=24, num_heads=2, head_dim=7, mlp_dim=31, num_encoder_layers=2, num_decoder_layers=2,
                     dropout_rate=0.0)
RETRIEVER = contriever.ContrieverConfig(vocab_size=97, emb_dim=22, num_heads=2, num_layers=2, mlp_dim=29, max_positions=64,
                                        dropout_rate=0.0)
INPUTS = atlas.InputConfig(text_max_tokens=37, retriever_max_tokens=37, query_max_tokens=11, target_max_tokens=5)
SEGMENTS = atlas.Segments(
    reader=(Segment('query'), Segment('literal', (3, 5)), Segment('title'), Segment('literal', (7,)), Segment('text'),
            Segment('literal', (1,))),
    closed_book=(Segment('query'), Segment('literal', (1,))),
    retriever=(Segment('literal', (2,)), Segment('title'), Segment('text'), Segment('literal', (3,))))


def config(n_context: int = 3) -> atlas.AtlasConfig:
    """Sizes of the tiny Atlas."""
    return atlas.AtlasConfig(READER, RETRIEVER, INPUTS, n_context)


def init(make, config, seed: int = 0) -> dict:
    """Random weights without their axes, from a model's `init_params`; new arrays each time, which a step may donate."""
    return jax.tree.map(jnp.array, _init(make, config, seed))


@functools.cache
def _init(make, config, seed: int) -> dict:
    # One program in place of two hundred: compiled operation by operation, weights cost 4 CPU seconds in every process.
    return jax.device_get(nn.unbox(jax.jit(make, static_argnums=0)(config, jax.random.key(seed))))


def init_params(config: atlas.AtlasConfig, key: jax.Array) -> dict:
    """Random float32 weights {'reader', 'retriever'} with their axes; layers together, as training has them."""
    reader_key, retriever_key = jax.random.split(key)
    return layer_scan.stack_layers({'reader': t5.init_params(config.reader, reader_key),
                                    'retriever': contriever.init_params(config.retriever, retriever_key)})


def params(seed: int = 3) -> dict:
    """Random weights of the tiny Atlas."""
    return init(init_params, config(), seed)


def table(rows: int, vocab_size: int, seed: int, width: int = 128) -> types.TokenTable:
    """Passages of 0 to 43 random tokens, one of them empty, one over the limit."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 30, rows).astype(np.int32)
    lengths[1], lengths[2] = 0, 43
    tokens = np.where(np.arange(width) < lengths[:, None], generator.integers(9, vocab_size, (rows, width)), 0)
    return types.TokenTable(tokens=tokens.astype(np.uint16), title_lengths=np.minimum(lengths, 3).astype(np.int32), lengths=lengths)


def knowledge(rows: int = 56, seed: int = 0) -> types.Knowledge:
    """An index of random embeddings; the last 3 rows are invalid."""
    embeddings = np.random.default_rng(seed).standard_normal((rows, RETRIEVER.emb_dim)).astype(np.float32)
    arrays = types.IndexArrays(embeddings=embeddings, valid=np.arange(rows) < rows - 3)
    return types.Knowledge(index=arrays, reader_table=table(rows, READER.vocab_size, seed + 1),
                           retriever_table=table(rows, RETRIEVER.vocab_size, seed + 2))


def lengths(known: types.Knowledge) -> types.TokenLengths:
    """What capacities are chosen from."""
    return types.TokenLengths(np.asarray(known.reader_table.lengths), np.asarray(known.retriever_table.lengths), np.array([4, 7, 11]))


def batch(size: int, seed: int = 0, fillers: int = 0) -> types.Batch:
    """Random queries and targets of several lengths; the last `fillers` examples are fillers."""
    generator = np.random.default_rng(seed)
    real = np.arange(size) < size - fillers
    query_lengths = np.where(real, generator.integers(3, 12, size), 2).astype(np.int32)
    target_lengths = np.where(real, generator.integers(1, 6, size), 0)
    inside_query, inside_target = np.arange(11) < query_lengths[:, None], np.arange(5) < target_lengths[:, None]
    return types.Batch(
        retriever_query_tokens=np.where(inside_query, generator.integers(9, 97, (size, 11)), 0).astype(np.int32),
        retriever_query_lengths=query_lengths,
        reader_query_tokens=np.where(inside_query, generator.integers(9, 101, (size, 11)), 0).astype(np.int32),
        reader_query_lengths=query_lengths,
        decoder_target_tokens=np.where(inside_target, generator.integers(9, 101, (size, 5)), 0).astype(np.int32),
        decoder_loss_weights=inside_target.astype(np.float32),
        example_ids=np.where(real, np.arange(size), -1).astype(np.int32))
