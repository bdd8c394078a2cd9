"""Contriever: BERT states pooled to one embedding per passage. Source: Izacard et al. 2021, arXiv 2112.09118."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import errors, types
from atlas_jax.models import bert
from atlas_jax.nn import token_stream

Array = jax.Array

POOLINGS = ('average', 'sqrt', 'cls')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrieverConfig(bert.BertConfig):
    """BERT's options, and how its states become an embedding.

    pooling: 'average' is the sum of the states / length, 'sqrt' the sum / sqrt(length), 'cls' the first state.
    normalize: divide each embedding by its L2 norm.

    Raises ConfigError as BertConfig, and for an unknown pooling.
    """

    pooling: str = 'average'
    normalize: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.pooling not in POOLINGS:
            raise errors.ConfigError(f'ContrieverConfig.pooling is {self.pooling!r}; choose one of {POOLINGS}')


def init_params(config: ContrieverConfig, key: Array) -> Any:
    """Fresh parameters, a nested dict whose leaves are boxed with their logical axes; `jax.eval_shape` it for shapes alone."""
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), stream_tokens=1, longest=1)
    return Contriever(config).init(key, stream)['params']


class Contriever(nn.Module):
    """The retriever's encoder, for queries and passages alike; `remat` and `unroll` as in nn/layer_scan.py, `flash` as in models/t5.py."""

    config: ContrieverConfig
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    @nn.compact
    def __call__(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Embeddings [streams, passages, emb_dim] float32; zeros for a passage of length 0.

        Raises ValueError when `stream.longest` exceeds max_positions.
        """
        hidden = bert.Bert(self.config, self.remat, self.unroll, self.flash, name='bert')(stream, deterministic).astype(jnp.float32)
        rows = token_stream.to_rows(stream, hidden)  # [streams, passages, longest, embed], zeros past each passage's end
        lengths = jnp.maximum(stream.lengths, 1)[..., None].astype(jnp.float32)
        if self.config.pooling == 'cls':
            pooled = rows[:, :, 0]
        else:
            pooled = jnp.sum(rows, axis=2) / (lengths if self.config.pooling == 'average' else jnp.sqrt(lengths))
        return _unit_length(pooled) if self.config.normalize else pooled


def _unit_length(embeddings: Array) -> Array:
    """Rows of L2 norm 1; a row of zeros stays zeros, with gradient 0."""
    squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
