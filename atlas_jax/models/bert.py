"""BERT's encoder over token streams: positions restart in every passage, every token has type 0."""

import dataclasses

import flax.linen as nn
import jax

from atlas_jax import errors, types
from atlas_jax.nn import attention, dense, embedding, flash_attention, layer_scan, mlp, norm

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and options of a BERT; the defaults are BERT-base, uncased.

    layer_norm: 'true' or 'second_moment' (nn/norm.py); released Atlas checkpoints need the latter.
    dtype: of the activations; parameters, norms and softmax are float32.

    Raises ConfigError for a size below 1, heads that do not divide emb_dim, an unknown layer_norm or a dropout rate outside [0, 1).
    """

    vocab_size: int = 30522
    emb_dim: int = 768
    num_heads: int = 12
    num_layers: int = 12
    mlp_dim: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    layer_norm: str = 'true'
    layer_norm_epsilon: float = 1e-12
    dropout_rate: float = 0.1
    dtype: str = 'float32'

    def __post_init__(self):
        name = type(self).__name__
        for field in ('vocab_size', 'emb_dim', 'num_heads', 'num_layers', 'mlp_dim', 'max_positions', 'type_vocab_size'):
            if getattr(self, field) < 1:
                raise errors.ConfigError(f'{name}.{field} is {getattr(self, field)}; it must be at least 1')
        if self.emb_dim % self.num_heads:
            raise errors.ConfigError(f'{name}.emb_dim {self.emb_dim} must be a multiple of num_heads {self.num_heads}')
        if self.layer_norm not in norm.LAYER_NORM_KINDS:
            raise errors.ConfigError(f'{name}.layer_norm is {self.layer_norm!r}; choose one of {norm.LAYER_NORM_KINDS}')
        if not 0 <= self.dropout_rate < 1:
            raise errors.ConfigError(f'{name}.dropout_rate is {self.dropout_rate}; it must be at least 0 and below 1')


# Hugging Face's `initializer_range`
_VARIANCE = 0.02**2


class BertLayer(nn.Module):
    """Attention and MLP, each followed by dropout, residual and norm."""

    config: BertConfig
    flash: bool = False

    @nn.compact
    def __call__(self, inputs: Array, stream: types.TokenStream, deterministic: bool) -> Array:
        """[streams, stream_tokens, embed] to the same."""
        config, kernel_init = self.config, dense.normal(_VARIANCE)
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        head_dim = config.emb_dim // config.num_heads
        flash = self.flash and flash_attention.fits(stream.longest, config.num_heads, head_dim)
        attend = attention.Attention(config.num_heads, head_dim, config.emb_dim, scale=head_dim**-0.5, use_bias=True,
                                     dropout_rate=config.dropout_rate, kernel_init=kernel_init, dtype=config.dtype, name='attention')
        feed = mlp.Mlp(config.mlp_dim, ('gelu_erf',), use_bias=True, kernel_init=kernel_init, dtype=config.dtype, name='mlp')
        attended = dropout(attend.on_stream(inputs, stream, None, deterministic, flash))
        hidden = _layer_norm(config, 'post_attention_layer_norm')(inputs + attended)
        return _layer_norm(config, 'post_mlp_layer_norm')(hidden + dropout(feed(hidden)))


class Bert(nn.Module):
    """Embeddings and layers, without pooler; `remat` and `unroll` as in nn/layer_scan.py, `flash` as in models/t5.py."""

    config: BertConfig
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    @nn.compact
    def __call__(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Final states [streams, stream_tokens, embed] of `dtype`; meaningless past the last passage.

        Raises ValueError when `stream.longest` exceeds max_positions.
        """
        config = self.config

        def table(size: int, axes: tuple[str | None, str], name: str) -> embedding.Embedding:
            return embedding.Embedding(size, config.emb_dim, axes, _VARIANCE, config.dtype, name=name)

        tokens = table(config.vocab_size, ('vocab', 'embed'), 'token_embedder')(stream.tokens)
        positions = table(config.max_positions, ('length', 'embed'), 'position_embedder').by_position(stream)
        types_of_tokens = table(config.type_vocab_size, (None, 'embed'), 'type_embedder').row(0)
        hidden = _layer_norm(config, 'embedder_norm')(tokens + positions + types_of_tokens)
        hidden = nn.Dropout(config.dropout_rate)(hidden, deterministic=deterministic)
        if self.is_initializing():
            for i in range(config.num_layers):
                hidden = BertLayer(config, name=f'layers_{i}')(hidden, stream, deterministic)
            return hidden
        return layer_scan.scan_layers(
            BertLayer(config, self.flash, parent=None), self.variables['params'],
            lambda layer, hidden, _: (layer(hidden, stream, deterministic), None), hidden,
            dropout_key=None if deterministic else self.make_rng('dropout'), remat=self.remat, unroll=self.unroll)[0]


def _layer_norm(config: BertConfig, name: str) -> norm.LayerNorm:
    return norm.LayerNorm(config.layer_norm, config.layer_norm_epsilon, config.dtype, name=name)
