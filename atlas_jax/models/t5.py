"""T5 v1.0 and v1.1: an encoder over token streams and a decoder over keys and values made once. Parameter names are T5X's."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import errors, types
from atlas_jax.nn import attention, dense, embedding, flash_attention, layer_scan, mlp, norm, relpos, t5_layers, token_stream

Array = jax.Array
_ReadByStep = attention.KeysValues | list[attention.KeysValues]  # what decode_step reads: layers together or apart


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and options of a T5.

    mlp_activations: ('relu',) for v1.0, ('gelu', 'linear') for v1.1; names of nn/mlp.py.
    logits_via_embedding: v1.0 shares the embedding with the output and scales by emb_dim**-0.5; v1.1 has a kernel of its own.
    dtype: of the activations; parameters, norms, softmax and logits are float32.

    Raises ConfigError for a size below 1, an unknown activation or a dropout rate outside [0, 1).
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ('gelu', 'linear')
    logits_via_embedding: bool = False
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    dropout_rate: float = 0.1
    dtype: str = 'float32'
    layer_norm_epsilon: float = 1e-6
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0

    def __post_init__(self):
        # gin and JSON hand over lists
        object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
        sizes = ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers', 'num_decoder_layers',
                 'relpos_buckets', 'relpos_max_distance')
        for name in sizes:
            if getattr(self, name) < 1:
                raise errors.ConfigError(f'T5Config.{name} is {getattr(self, name)}; it must be at least 1')
        unknown = sorted(set(self.mlp_activations) - set(mlp.ACTIVATIONS))
        if unknown or not self.mlp_activations:
            raise errors.ConfigError(f'T5Config.mlp_activations {self.mlp_activations} has to name some of {sorted(mlp.ACTIVATIONS)}')
        if not 0 <= self.dropout_rate < 1:
            raise errors.ConfigError(f'T5Config.dropout_rate is {self.dropout_rate}; it must be at least 0 and below 1')

    def layer_arguments(self) -> dict[str, Any]:
        """What every layer takes."""
        names = ('emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'mlp_activations', 'dropout_rate', 'layer_norm_epsilon', 'dtype')
        return {name: getattr(self, name) for name in names}

    def relpos_arguments(self) -> dict[str, Any]:
        """What either bias takes."""
        return {'num_heads': self.num_heads, 'num_buckets': self.relpos_buckets, 'max_distance': self.relpos_max_distance,
                'emb_dim': self.emb_dim}


def init_params(config: T5Config, key: Array) -> Any:
    """Fresh parameters, a nested dict whose leaves are boxed with their logical axes; `jax.eval_shape` it for shapes alone."""
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), stream_tokens=1, longest=1)
    return T5(config).init(key, stream, jnp.zeros((1, 1), jnp.int32))['params']


def shift_right(targets: Array, start_id: int = 0) -> Array:
    """Decoder inputs of these targets: [..., length] int32 moved by one, `start_id` first."""
    return jnp.concatenate([jnp.full_like(targets[..., :1], start_id), targets[..., :-1]], axis=-1)


class _Stack(nn.Module):
    """What encoder and decoder share: a stack of equal layers, scanned, between a position bias and a last norm."""

    config: T5Config
    remat: str = 'none'
    unroll: int = 1

    def _set_up(self, layer: type[nn.Module], num_layers: int, bidirectional: bool) -> None:
        config = self.config
        self.relpos_bias = relpos.RelativePositionBias(bidirectional=bidirectional, **config.relpos_arguments())
        self.layers = [layer(**config.layer_arguments()) for _ in range(num_layers)]
        self.dropout = nn.Dropout(config.dropout_rate)

    def _scan(self, layer: type[nn.Module], call, hidden: Array, per_layer: Any = None,
              deterministic: bool = True) -> tuple[Array, Any]:
        """Scans the layers; while the parameters are made, runs them one after another under their own names."""
        if self.is_initializing():
            for i, bound in enumerate(self.layers):
                hidden, _ = call(bound, hidden, jax.tree.map(lambda leaf, i=i: leaf[i], per_layer))
            return hidden, None
        unbound = layer(**self.config.layer_arguments(), parent=None)
        return layer_scan.scan_layers(unbound, self.variables['params'], call, hidden, per_layer,
                                      dropout_key=None if deterministic else self.make_rng('dropout'), remat=self.remat, unroll=self.unroll)


class Encoder(_Stack):
    """The layers over a stream; one position bias serves all of them and every passage."""

    flash: bool = False

    def setup(self):
        self._set_up(t5_layers.EncoderLayer, self.config.num_encoder_layers, bidirectional=True)
        self.encoder_norm = norm.RMSNorm(self.config.layer_norm_epsilon, self.config.dtype)

    def __call__(self, embedded: Array, stream: types.TokenStream, deterministic: bool) -> Array:
        """[streams, stream_tokens, embed] to the same."""
        bias, config = self.relpos_bias(stream.longest), self.config
        flash = self.flash and flash_attention.fits(stream.longest, config.num_heads, config.head_dim)
        if flash:
            bias = flash_attention.one_per_stream(bias, stream.tokens.shape[0])
        hidden, _ = self._scan(t5_layers.EncoderLayer, lambda layer, hidden, _: (layer(hidden, stream, bias, deterministic, flash), None),
                               self.dropout(embedded, deterministic=deterministic), deterministic=deterministic)
        return self.dropout(self.encoder_norm(hidden), deterministic=deterministic)


class Decoder(_Stack):
    """The layers over target tokens, up to and including the logits unless they come from the embedding."""

    def setup(self):
        self._set_up(t5_layers.DecoderLayer, self.config.num_decoder_layers, bidirectional=False)
        self.decoder_norm = norm.RMSNorm(self.config.layer_norm_epsilon, self.config.dtype)
        if not self.config.logits_via_embedding:
            self.logits_dense = dense.Dense(self.config.vocab_size, ('embed', 'vocab'))

    def keys_values(self, encoded: Array, lay_out: Callable[[Array], Array]) -> attention.KeysValues:
        """Of each layer's attention to the passages, each as `lay_out` puts it, layers first."""
        if self.is_initializing():
            pairs = [jax.tree.map(lay_out, layer.encoder_decoder_attention.keys_values(encoded)) for layer in self.layers]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
        # One layer after another: what is made or laid out for all at once lies layers last, and is transposed for every reading.
        return self._scan(t5_layers.DecoderLayer, lambda layer, states, _: (states, jax.tree.map(lay_out, layer.keys_values(states))),
                          encoded)[1]

    def __call__(self, embedded: Array, keys_values: attention.KeysValues, key_mask: Array, deterministic: bool,
                 record: Sequence[str] = ()) -> tuple[Array, dict[str, Array]]:
        """[batch, length, embed] to the final states, the same shape; and what was recorded, layers first."""
        length = embedded.shape[1]
        bias, causal_mask = self.relpos_bias(length), jnp.tril(jnp.ones((length, length), bool))
        states = keys_values[0][0] if len(keys_values) == 1 else None  # see T5.cross_keys_values

        def call(layer: t5_layers.DecoderLayer, hidden: Array, read: attention.KeysValues | None) -> tuple[Array, Any]:
            read = layer.keys_values(states) if read is None else read
            return layer(hidden, bias, causal_mask, read, key_mask, deterministic, record)

        hidden, recorded = self._scan(t5_layers.DecoderLayer, call, self.dropout(embedded, deterministic=deterministic),
                                      keys_values if states is None else None, deterministic)
        return self.dropout(self.decoder_norm(hidden), deterministic=deterministic), recorded

    def step(self, embedded: Array, position: Array, cache: attention.KeysValues, keys_values: _ReadByStep,
             key_mask: Array) -> tuple[Array, attention.KeysValues, Array]:
        """[rows, 1, embed] to the final states of one position, the cache, and the attention [batch, rows of an example, keys]."""
        bias = self.relpos_bias.row(position, cache[0].shape[2])

        def call(layer: t5_layers.DecoderLayer, hidden: Array, own: Any) -> tuple[Array, Any]:
            return layer.step(hidden, position, own[0], bias, own[1], key_mask)

        if isinstance(keys_values, list):  # of T5.step_by_step
            unbound = t5_layers.DecoderLayer(**self.config.layer_arguments(), parent=None)
            own = zip(layer_scan.split(cache), keys_values, strict=True)
            hidden, (cache, shares) = layer_scan.run_layers(unbound, self.variables['params'], call, embedded, own)
        else:
            hidden, (cache, shares) = self._scan(t5_layers.DecoderLayer, call, embedded, (cache, keys_values))
        return self.decoder_norm(hidden), cache, jnp.mean(shares, axis=0)


class T5(nn.Module):
    """T5. Its parts are called by `method`: `t5.apply({'params': params}, stream, method='encode')`.

    remat: what a layer's backward pass computes again; unroll: layers in one turn of the loop. See nn/layer_scan.py.
    flash: the encoder's attention by the kernel of nn/flash_attention.py, where it fits.
    """

    config: T5Config
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    def setup(self):
        self.token_embedder = embedding.Embedding(self.config.vocab_size, self.config.emb_dim, dtype=self.config.dtype)
        self.encoder = Encoder(self.config, self.remat, self.unroll, self.flash)
        self.decoder = Decoder(self.config, self.remat, self.unroll)

    def encode(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Final encoder states, [streams, stream_tokens, embed]; meaningless past the last passage."""
        return self.encoder(self.token_embedder(stream.tokens), stream, deterministic)

    def cross_keys_values(self, encoded: Array, lay_out: Callable[[Array], Array] = lambda values: values) -> attention.KeysValues:
        """Keys and values that the decoder reads: [..., embed] to a pair of [layers, ..., heads, head_dim].

        They hold no positions, so they can be made on the stream and gathered, and serve any grouping of passages: `lay_out` takes a
        layer's [..., heads, head_dim].

        Where whole layers are computed again (remat full), the states stand in for them, [1, ..., embed] alone: every decoder layer makes
        its own, and again for its gradient. All layers' keys and values and their gradients are 8 GB for one example of the largest
        reader with 20 passages of 512 tokens. Decoding step by step needs them made.
        """
        return (lay_out(encoded)[None],) if self.remat == 'full' else self.decoder.keys_values(encoded, lay_out)

    def decode(self, decoder_input_tokens: Array, keys_values: attention.KeysValues, key_mask: Array,
               deterministic: bool = True) -> Array:
        """Logits of every target position. Several sequences of an example may stand side by side; they read the same keys.

        Args:
          decoder_input_tokens: [sequences, target_length] int32, targets shifted right; sequences a multiple of batch.
          keys_values: each [layers, ..., heads, head_dim], of batch * keys keys.
          key_mask: [batch, keys] bool, which says what is read together; an example without any True key reads nothing.

        Returns:
          [sequences, target_length, vocab] float32.
        """
        return self.decode_recording(decoder_input_tokens, keys_values, key_mask, deterministic)[0]

    def decode_recording(self, decoder_input_tokens: Array, keys_values: attention.KeysValues, key_mask: Array,
                         deterministic: bool = True, record: Sequence[str] = ()) -> tuple[Array, dict[str, Array]]:
        """`decode`, and the attention to the keys.

        Args:
          record: names of `nn.attention.RECORDED`.

        Returns:
          As `decode`; and for each name [layers, batch, target_length, keys] float32, the mean over heads, 0 where `key_mask` is False,
          before dropout and without gradient.
        """
        hidden, recorded = self.decoder(self.token_embedder(decoder_input_tokens), keys_values, key_mask, deterministic, record)
        return self._logits(hidden), recorded

    @nn.nowrap
    def step_by_step(self, params: Any, keys_values: attention.KeysValues, key_mask: Array) -> tuple[Any, _ReadByStep]:
        """Parameters, and keys and values, laid out for `decode_step`; for a loop over positions to be done before it.

        Keys and values are turned as one query at a time wants them (`nn.attention.by_head`). Where layers are unrolled every layer gets
        arrays of its own: out of stacked ones the loop would copy all of the decoder at every position (size small on a CPU: 36 ms a
        position, 12 without).

        Args:
          params: the reader's, layers together.
          keys_values: each [layers, ..., heads, head_dim], of batch * keys keys.
          key_mask: [batch, keys] bool.
        """
        def lay_out(layer: attention.KeysValues) -> attention.KeysValues:
            return attention.by_head(layer, key_mask)

        if self.unroll < self.config.num_decoder_layers:
            return params, jax.vmap(lay_out)(keys_values)
        # Split before they are turned: between the concatenation of all layers and its slices nothing may stand, then both are left out.
        apart = {**params, 'decoder': layer_scan.unstack_layers(params['decoder'])}
        return apart, [lay_out(layer) for layer in layer_scan.split(keys_values)]

    def decode_step(self, token: Array, position: Array, cache: attention.KeysValues, keys_values: _ReadByStep,
                    key_mask: Array) -> tuple[Array, attention.KeysValues, Array]:
        """Logits of one position. Rows are examples, or several sequences of each side by side, which read the same keys.

        Args:
          token: [rows] int32, rows a multiple of batch: the token at `position` (scalar int32, from 0).
          cache: of `init_cache`, filled up to `position`.
          keys_values: of `step_by_step`, with its parameters.
          key_mask: [batch, keys] bool.

        Returns:
          [rows, vocab] float32; the cache with this position filled; and attention to the keys, [rows, keys] float32, the mean over layers
          and heads.
        """
        embedded = self.token_embedder(token[:, None])
        hidden, cache, shares = self.decoder.step(embedded, position, cache, keys_values, key_mask)
        return self._logits(hidden)[:, 0], cache, shares.reshape(len(token), -1)

    @nn.nowrap
    def init_cache(self, batch: int, max_length: int) -> attention.KeysValues:
        """An empty cache for `decode_step`: keys and values, each [layers, batch, max_length, heads, head_dim] of `dtype`."""
        config = self.config
        zeros = jnp.zeros((config.num_decoder_layers, batch, max_length, config.num_heads, config.head_dim), config.dtype)
        return zeros, zeros

    def __call__(self, stream: types.TokenStream, decoder_input_tokens: Array) -> Array:
        """Encodes a stream and decodes from all of it; what `init` runs. One stream is one example: batch = streams."""
        encoded = self.encode(stream)
        return self.decode(decoder_input_tokens, self.cross_keys_values(encoded), stream.passage_indices >= 0)

    def _logits(self, hidden: Array) -> Array:
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(hidden * self.config.emb_dim**-0.5)
        return self.decoder.logits_dense(hidden)
