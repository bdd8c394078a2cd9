"""Contriever: BERT's encoder over token streams, with states pooled to one embedding per passage.

Positions restart in every passage, and every token has type 0. Source: Izacard et al. 2021, arXiv
2112.09118.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import errors, types
from atlas_jax.models import limits
from atlas_jax.nn import attention, flash_attention, layer_scan, layers, token_stream
from atlas_jax.options import option

Array = jax.Array

POOLINGS = ('average', 'sqrt', 'cls', 'max', 'last', 'weighted')
_VARIANCE = 0.02**2  # Hugging Face's `initializer_range`, squared


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and options of a BERT; the defaults are BERT-base, uncased.

    Attributes:
      vocab_size: rows of the token embedding.
      emb_dim: width of the states.
      num_heads: number of attention heads of each layer; divides emb_dim.
      num_layers: number of encoder layers.
      mlp_dim: width inside the MLP.
      max_positions: longest input in tokens.
      type_vocab_size: rows of the segment embedding.
      layer_norm: 'true' or 'second_moment' (nn.layers.LayerNorm); released Atlas checkpoints need
        'second_moment'.
      layer_norm_epsilon: number added to the variance or second moment.
      dropout_rate: share of activations that training drops.
      dtype: dtype of the activations; parameters, norms and softmax are float32.

    Raises ConfigError: a field has another type or is outside its range (models/limits.py),
    num_heads does not divide emb_dim, or layer_norm or dtype is unknown.
    """

    vocab_size: int = 30522
    emb_dim: int = 768
    num_heads: int = 12
    num_layers: int = 12
    mlp_dim: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    layer_norm: str = option('true', choices=layers.LAYER_NORM_KINDS)
    layer_norm_epsilon: float = option(1e-12, least=0, below=1)
    dropout_rate: float = option(0.1, least=0, below=1)
    dtype: str = option('float32', choices=limits.DTYPES)

    def __post_init__(self):
        limits.check(self)
        if self.emb_dim % self.num_heads:
            raise errors.ConfigError(f'{type(self).__name__}.emb_dim {self.emb_dim} must be a '
                                     f'multiple of num_heads {self.num_heads}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrieverConfig(BertConfig):
    """Options of a Contriever: those of BERT, its prompts, and how states become an embedding.

    Attributes:
      pooling: 'average' is the sum of the states / length, 'sqrt' the sum / sqrt(length), 'cls' the
        first state, 'last' the last state, 'max' the maximum of each dimension, 'weighted' the mean
        with weights 1, 2, … by position.
      normalize: divides each embedding by its L2 norm.
      truncate_dim: keeps the first truncate_dim dimensions of an embedding (Matryoshka), before
        normalisation; None keeps all.
      max_tokens: longest input that the retriever was trained for, special tokens included; None
        takes max_positions.
      query_prompt, passage_prompt: text before every query and every passage, before InputConfig's
        formats (E5's 'query: ').

    Raises ConfigError: the same errors as BertConfig, an unknown pooling, truncate_dim outside [1,
    emb_dim], or max_tokens below 2.
    """

    pooling: str = option('average', choices=POOLINGS)
    normalize: bool = False
    truncate_dim: int | None = None
    max_tokens: int | None = None
    query_prompt: str = ''
    passage_prompt: str = ''

    def __post_init__(self):
        super().__post_init__()
        if self.truncate_dim is not None and self.truncate_dim > self.emb_dim:
            raise errors.ConfigError(f'ContrieverConfig.truncate_dim is {self.truncate_dim}; it '
                                     f'must be 1 to emb_dim {self.emb_dim}')

    @property
    def embedding_dim(self) -> int:
        """Number of dimensions of an embedding."""
        return self.truncate_dim or self.emb_dim

    @property
    def input_tokens(self) -> int:
        """Longest input in tokens, special tokens included."""
        # BERT has no position embeddings beyond max_positions.
        return min(self.max_tokens or self.max_positions, self.max_positions)


def init_params(config: ContrieverConfig, key: Array) -> Any:
    """Draws random float32 parameters: a nested dict with leaves boxed with their logical axes.

    `jax.eval_shape` of this function gives the shapes without allocating anything.
    """
    # One token is enough: parameters do not depend on the size of the inputs.
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32),
                               stream_tokens=1, longest=1)
    return Contriever(config).init(key, stream)['params']


class BertLayer(nn.Module):
    """Attention and MLP, each followed by dropout, residual and norm.

    flash: uses the kernel of nn/flash_attention.py if it fits.
    """

    config: BertConfig
    flash: bool = False

    @nn.compact
    def __call__(self, inputs: Array, stream: types.TokenStream, deterministic: bool) -> Array:
        """Maps states [streams, stream_tokens, embed] to the same shape."""
        config, kernel_init = self.config, layers.normal(_VARIANCE)
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        head_dim = config.emb_dim // config.num_heads
        flash = self.flash and flash_attention.fits(stream.longest, config.num_heads, head_dim,
                                                    config.dtype,
                                                    0.0 if deterministic else config.dropout_rate)
        attend = attention.Attention(config.num_heads, head_dim, config.emb_dim,
                                     scale=head_dim**-0.5, use_bias=True,
                                     dropout_rate=config.dropout_rate, kernel_init=kernel_init,
                                     dtype=config.dtype, name='attention')
        # BERT was trained with the exact GELU and without dropout between the two layers.
        feed = layers.Mlp(config.mlp_dim, ('gelu_erf', ), use_bias=True, kernel_init=kernel_init,
                          dtype=config.dtype, name='mlp')
        # BERT normalises after the residual, T5 before the layer.
        attended = dropout(attend.on_stream(inputs, stream, None, deterministic, flash))
        hidden = _layer_norm(config, 'post_attention_layer_norm')(inputs + attended)
        return _layer_norm(config, 'post_mlp_layer_norm')(hidden + dropout(feed(hidden)))


class Bert(nn.Module):
    """BERT's embeddings and layers, without its pooler.

    remat, unroll: see nn/layer_scan.py.
    flash: uses the kernel of nn/flash_attention.py if it fits.
    """

    config: BertConfig
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    @nn.compact
    def __call__(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Encodes a stream to final states [streams, stream_tokens, embed] of `dtype`, meaningless
        past the last passage.

        Raises ValueError: `stream.longest` exceeds max_positions.
        """
        config = self.config

        def table(size: int, axes: tuple[str | None, str], name: str) -> layers.Embedding:
            return layers.Embedding(size, config.emb_dim, axes, _VARIANCE, config.dtype, name=name)

        tokens = table(config.vocab_size, ('vocab', 'embed'), 'token_embedder')(stream.tokens)
        positions = table(config.max_positions, ('length', 'embed'),
                          'position_embedder').by_position(stream)
        # Contriever's inputs have one segment, so every token has type 0: one row, broadcast.
        types_of_tokens = table(config.type_vocab_size, (None, 'embed'), 'type_embedder').row(0)
        hidden = _layer_norm(config, 'embedder_norm')(tokens + positions + types_of_tokens)
        hidden = nn.Dropout(config.dropout_rate)(hidden, deterministic=deterministic)
        if self.is_initializing():  # layers apart, with T5X's names; scan_layers stacks them
            for i in range(config.num_layers):
                hidden = BertLayer(config, name=f'layers_{i}')(hidden, stream, deterministic)
            return hidden
        # One unbound layer stands for all; the loop binds it to each layer's parameters.
        return layer_scan.scan_layers(
            BertLayer(config, self.flash, parent=None), self.variables['params'],
            lambda layer, hidden, _: (layer(hidden, stream, deterministic), None), hidden,
            dropout_key=None if deterministic else self.make_rng('dropout'), remat=self.remat,
            unroll=self.unroll)[0]


def _layer_norm(config: BertConfig, name: str) -> layers.LayerNorm:
    return layers.LayerNorm(config.layer_norm, config.layer_norm_epsilon, config.dtype, name=name)


class Contriever(nn.Module):
    """The retriever's encoder, for queries and passages.

    remat: remat policy, a name of layer_scan.REMAT.
    unroll, flash: see Bert.
    """

    config: ContrieverConfig
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    @nn.compact
    def __call__(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Embeds the passages of a stream; returns [streams, passages, embedding_dim] float32,
        zeros for an empty passage.

        Raises ValueError: `stream.longest` exceeds max_positions.
        """
        hidden = Bert(self.config, layer_scan.encoder_policy(self.remat), self.unroll, self.flash,
                      name='bert')(stream, deterministic)
        # [streams, passages, longest, embed], zeros past each passage's end. float32, because sums
        # over hundreds of tokens would lose digits in bfloat16.
        rows = token_stream.to_rows(stream, hidden.astype(jnp.float32))
        pooled = _pool(rows, stream.lengths, self.config.pooling)[..., :self.config.embedding_dim]
        return unit_length(pooled) if self.config.normalize else pooled


def _pool(rows: Array, lengths: Array, pooling: str) -> Array:
    """Pools states [streams, passages, longest, embed] to [streams, passages, embed].

    Args:
      rows: the states, zeros past each passage's end.
      lengths: [streams, passages].
      pooling: one of POOLINGS.
    """
    count = jnp.maximum(lengths, 1)[..., None].astype(jnp.float32)  # [streams, passages, 1]
    if pooling == 'cls':
        return rows[:, :, 0]
    if pooling == 'average':
        return jnp.sum(rows, axis=2) / count
    if pooling == 'sqrt':
        return jnp.sum(rows, axis=2) / jnp.sqrt(count)
    numbers = jnp.arange(rows.shape[2])  # [longest]
    if pooling == 'last':
        # A product instead of a gather, whose gradient would be a scatter.
        return jnp.einsum('spld,spl->spd', rows,
                          (numbers == lengths[..., None] - 1).astype(jnp.float32))
    if pooling == 'weighted':
        # The weights of n positions sum to n (n + 1) / 2.
        return jnp.einsum('spld,l->spd', rows, numbers + 1.0) / (count * (count + 1) / 2)
    inside = (numbers < lengths[..., None])[..., None]  # [streams, passages, longest, 1]
    greatest = jnp.max(jnp.where(inside, rows, -jnp.inf), axis=2)
    # An empty passage would give -inf.
    return jnp.where(lengths[..., None] > 0, greatest, 0.0)


def unit_length(embeddings: Array) -> Array:
    """Scales [..., embedding_dim] float32 to L2 norm 1; zeros stay zeros, with gradient 0."""
    squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
    # The bound keeps the square root's gradient finite for an empty passage.
    return embeddings * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
