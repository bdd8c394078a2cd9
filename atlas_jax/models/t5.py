"""T5 v1.0 and v1.1: an encoder over token streams and a decoder over keys and values made once. Parameter names are T5X's."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import errors, partitioning, types
from atlas_jax.models import limits
from atlas_jax.nn import attention, flash_attention, layer_scan, layers, t5_layers, token_stream

Array = jax.Array


class EncodedStates(struct.PyTreeNode):
    """Encoder states that stand in for keys and values: every decoder layer projects them itself, and again for its gradient.

    states    one array or more [streams, stream_tokens, embed]; for split layers copies [parts, streams, stream_tokens, embed]
    streams   the passages of each; those of an example that lie in several streams follow one another
    examples  whose passages they are; needed only for several arrays, and with `first`
    first     how many passages of each example are read; None for all
    """

    states: tuple[Array, ...]
    streams: tuple[types.TokenStream, ...]
    examples: int = struct.field(pytree_node=False, default=1)
    first: int | None = struct.field(pytree_node=False, default=None)

    def rows(self, layer: t5_layers.DecoderLayer) -> attention.KeysValues:
        """Returns the keys and values of a layer, each [passages, longest, heads, head_dim], zeros past a passage's end."""
        # Projected before they are laid out by passage: rows are as wide as the longest one.
        made = [jax.tree.map(functools.partial(token_stream.passage_rows, stream), _keys_values(layer, states))
                for states, stream in zip(self.states, self.streams, strict=True)]
        rows, first = made[0], self.first
        for more in made[1:]:
            rows = jax.tree.map(lambda one, other: token_stream.join_rows(one, other, self.examples), rows, more)
        return rows if first is None else jax.tree.map(lambda each: token_stream.first_rows(each, self.examples, first), rows)


@dataclasses.dataclass(frozen=True)
class Beside:
    """A second reading of the same targets in the same loop over layers, without dropout and without gradient.

    Both readings share the gathered weights and the passages' keys and values.

    Attributes:
      key_mask: [groups, keys] bool, the keys that are read together. As many groups for each example; each reads the example's targets.
      examples: number of examples.
      first: passages of each example that are read, the first ones.
      record: kinds of attention to record, names of `nn.attention.RECORDED`.
    """

    key_mask: Array
    examples: int
    first: int
    record: tuple[str, ...] = ()

    def rows(self, keys_values: attention.KeysValues) -> attention.KeysValues:
        """Returns a layer's keys and values [..., longest, heads, head_dim], one row a passage, of the passages that are read."""
        return jax.tree.map(lambda each: token_stream.first_rows(each, self.examples, self.first), keys_values)


# What the decoder reads of passages; keys and values are each [layers, ..., heads, head_dim].
Readable = attention.KeysValues | EncodedStates
# What decode_step reads: keys and values of all layers together, or a list of each layer's own.
ReadableByStep = attention.KeysValues | list[attention.KeysValues]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and options of a T5.

    Attributes:
      vocab_size: rows of the embedding; a model may have more than its tokenizer has pieces.
      emb_dim: width of the states.
      num_heads, head_dim: attention heads of every layer, and the width of one.
      mlp_dim: width inside the MLP.
      num_encoder_layers, num_decoder_layers: layers of either side.
      mlp_activations: ('relu',) for v1.0, ('gelu', 'linear') for v1.1; names of nn.layers.ACTIVATIONS.
      logits_via_embedding: True shares the embedding with the output and scales by emb_dim**-0.5, as v1.0 does; v1.1 has its own kernel.
      relpos_buckets: buckets of the relative positions.
      relpos_max_distance: distance from which on all positions share a bucket.
      dropout_rate: share of activations that training drops.
      dtype: of the activations; parameters, norms, softmax and logits are float32.
      layer_norm_epsilon: number added to the second moment.
      pad_id, eos_id, decoder_start_id: token ids of padding, of the end, and of the decoder's first input.

    Raises ConfigError for a field of another type or outside its range (models/limits.py), and an unknown activation or dtype.
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
        if isinstance(self.mlp_activations, list):
            object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
        limits.check(self)
        # Beyond the buckets of one distance each the distances grow logarithmically, up to this one.
        if self.relpos_max_distance <= self.relpos_buckets // 2:
            raise errors.ConfigError(f'T5Config.relpos_max_distance is {self.relpos_max_distance}; it must be above half of '
                                     f'relpos_buckets, {self.relpos_buckets}')
        for name in ('pad_id', 'eos_id', 'decoder_start_id'):
            if getattr(self, name) >= self.vocab_size:
                raise errors.ConfigError(f'T5Config.{name} is {getattr(self, name)}; it must be below vocab_size, {self.vocab_size}')
        # Unknown names are found here, not when the model is first traced.
        unknown = sorted(set(self.mlp_activations) - set(layers.ACTIVATIONS))
        if unknown or not self.mlp_activations:
            raise errors.ConfigError(f'T5Config.mlp_activations is {self.mlp_activations}; name some of {sorted(layers.ACTIVATIONS)}')

    def layer_arguments(self) -> dict[str, Any]:
        """Returns the arguments of every layer."""
        names = ('emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'mlp_activations', 'dropout_rate', 'layer_norm_epsilon', 'dtype')
        return {name: getattr(self, name) for name in names}

    def decoder_parts(self) -> int:
        """Returns in how many parts the mesh axis `model` splits the decoder's layers (partitioning.split_in)."""
        return partitioning.split_in(self.num_heads, self.mlp_dim)

    def relpos_arguments(self) -> dict[str, Any]:
        """Returns the arguments of the encoder's and the decoder's position bias."""
        return {'num_heads': self.num_heads, 'num_buckets': self.relpos_buckets, 'max_distance': self.relpos_max_distance,
                'emb_dim': self.emb_dim}


def init_params(config: T5Config, key: Array) -> Any:
    """Draws fresh float32 parameters, a nested dict whose leaves are boxed with their logical axes.

    `jax.eval_shape` of it gives the shapes without allocating anything.
    """
    # one token: parameters do not depend on the size of the inputs
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), stream_tokens=1, longest=1)
    return T5(config).init(key, stream, jnp.zeros((1, 1), jnp.int32))['params']


def shift_right(targets: Array, start_id: int = 0) -> Array:
    """Moves targets [..., length] int32 right by one, `start_id` first: the decoder's inputs, the same shape."""
    return jnp.concatenate([jnp.full_like(targets[..., :1], start_id), targets[..., :-1]], axis=-1)


class _Stack(nn.Module):
    """A stack of equal layers, scanned, with one position bias: the common part of encoder and decoder.

    remat, unroll: see nn/layer_scan.py.
    """

    config: T5Config
    remat: str = 'none'
    unroll: int = 1

    def _set_up(self, layer: type[t5_layers.EncoderLayer] | type[t5_layers.DecoderLayer], num_layers: int, bidirectional: bool) -> None:
        """Makes the position bias, the layers and the dropout; `setup` of the subclasses calls it."""
        config = self.config
        self.relpos_bias = t5_layers.RelativePositionBias(bidirectional=bidirectional, **config.relpos_arguments())
        # They make the parameters; afterwards `_scan` runs one unbound layer in their place.
        self.layers = [layer(**config.layer_arguments()) for _ in range(num_layers)]
        self.dropout = nn.Dropout(config.dropout_rate)

    def _scan(self, layer: type[t5_layers.EncoderLayer] | type[t5_layers.DecoderLayer], call: Callable[..., tuple[Any, Any]],
              hidden: Any, per_layer: Any = None, deterministic: bool = True, split: bool = False) -> tuple[Any, Any]:
        """Scans the layers; while parameters are made, runs the layers one after another under their own names.

        Arguments and results as of `layer_scan.scan_layers`.
        """
        # Bound layers name their parameters `layers_0` and on, as T5X does.
        if self.is_initializing():
            for i, bound in enumerate(self.layers):
                hidden, _ = call(bound, hidden, jax.tree.map(lambda leaf, i=i: leaf[i], per_layer))
            return hidden, None
        # one layer for all of them; it is bound to its own parameters in the loop
        unbound = layer(**self.config.layer_arguments(), split=split, parent=None)
        return layer_scan.scan_layers(unbound, self.variables['params'], call, hidden, per_layer, split=split,
                                      dropout_key=None if deterministic else self.make_rng('dropout'), remat=self.remat, unroll=self.unroll)


class Encoder(_Stack):
    """The layers over a stream; one position bias serves all of them and every passage.

    flash: uses the kernel of nn/flash_attention.py if it fits.
    """

    flash: bool = False

    def setup(self):
        self._set_up(t5_layers.EncoderLayer, self.config.num_encoder_layers, bidirectional=True)
        self.encoder_norm = layers.RMSNorm(self.config.layer_norm_epsilon, self.config.dtype)

    def __call__(self, embedded: Array, stream: types.TokenStream, deterministic: bool) -> Array:
        """Encodes embedded tokens [streams, stream_tokens, embed] to states of the same shape."""
        bias, config = self.relpos_bias(stream.longest), self.config  # bias [heads, longest, longest]
        flash = self.flash and flash_attention.fits(stream.longest, config.num_heads, config.head_dim, config.dtype,
                                                    0.0 if deterministic else config.dropout_rate)
        if flash:  # the gradients of a stream's copy add up on its own device
            bias = flash_attention.one_per_stream(bias, stream.tokens.shape[0])
        hidden, _ = self._scan(t5_layers.EncoderLayer, lambda layer, hidden, _: (layer(hidden, stream, bias, deterministic, flash), None),
                               self.dropout(embedded, deterministic=deterministic), deterministic=deterministic)
        return self.dropout(self.encoder_norm(hidden), deterministic=deterministic)


class Decoder(_Stack):
    """The layers over target tokens, and the output kernel if the config has one.

    On a mesh whose axis `model` is above 1, layers and kernel are split over it: targets are few, so that weights would be most of what
    moves.
    """

    def setup(self):
        self._set_up(t5_layers.DecoderLayer, self.config.num_decoder_layers, bidirectional=False)
        self.decoder_norm = layers.RMSNorm(self.config.layer_norm_epsilon, self.config.dtype)
        if not self.config.logits_via_embedding:
            # In float32 whatever the dtype of the activations: the loss takes exponentials of the logits.
            self.logits_dense = layers.Dense(self.config.vocab_size, ('embed', 'vocab'), split=self._split)

    @property
    def _split(self) -> bool:
        return self.config.decoder_parts() > 1

    def keys_values(self, encoded: Array, stream: types.TokenStream) -> attention.KeysValues:
        """Projects encoder states to each layer's keys and values; arguments and results as of `T5.cross_keys_values`."""
        def make(layer: Any) -> attention.KeysValues:
            return jax.tree.map(functools.partial(token_stream.passage_rows, stream), _keys_values(layer, encoded))

        if self.is_initializing():  # under the layers' own names, as in `_scan`
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(make(layer) for layer in self.layers))
        # One layer after another: XLA would lay all layers' values out layers last, and transpose them for every reading. The states are no
        # part of what goes from layer to layer: copies for split layers have another layout than that.
        return self._scan(t5_layers.DecoderLayer, lambda layer, nothing, _: (nothing, make(layer)), (), split=self._split)[1]

    def __call__(self, embedded: Array, readable: Readable, key_mask: Array, deterministic: bool, record: Sequence[str] = (),
                 beside: Beside | None = None) -> list[tuple[Array, dict[str, Array]]]:
        """Decodes embedded tokens; the other arguments are those of `T5.decode_recording`.

        Args:
          embedded: [sequences, length, embed].

        Returns:
          Of the reading, and of `beside` if it is given: final states [sequences or groups, length, embed], and the recorded attention,
          layers first.
        """
        length = embedded.shape[1]
        # A mask that is laid out otherwise would take the keys and values with it.
        key_mask = partitioning.spread(key_mask, self._split)
        if beside is not None:
            beside = dataclasses.replace(beside, key_mask=partitioning.spread(beside.key_mask, self._split))
        # [heads, length, length] and [length, length]
        bias, causal_mask = self.relpos_bias(length), jnp.tril(jnp.ones((length, length), bool))

        def call(layer: t5_layers.DecoderLayer, hidden: list[Array], own: attention.KeysValues | None) -> tuple[list[Array], Any]:
            if isinstance(readable, EncodedStates):  # made inside the layer, so that remat makes it again for the gradient
                own = readable.rows(layer)
            assert own is not None  # keys and values go to their layers by `per_layer`
            read = [layer(hidden[0], bias, causal_mask, own, key_mask, deterministic, record)]
            if beside is not None:
                rows = beside.rows(own)
                read.append(jax.lax.stop_gradient(layer(hidden[1], bias, causal_mask, rows, beside.key_mask, True, beside.record)))
            return [states for states, _ in read], [recorded for _, recorded in read]

        hidden = [self.dropout(embedded, deterministic=deterministic)]
        if beside is not None:
            hidden.append(jax.lax.stop_gradient(jnp.repeat(embedded, len(beside.key_mask) // len(embedded), axis=0)))
        per_layer = None if isinstance(readable, EncodedStates) else readable
        hidden, recorded = self._scan(t5_layers.DecoderLayer, call, hidden, per_layer, deterministic, self._split)
        normed = [self.decoder_norm(states) for states in hidden]
        normed[0] = self.dropout(normed[0], deterministic=deterministic)
        return list(zip(normed, recorded or [{}] * len(normed), strict=True))

    def step(self, embedded: Array, position: Array, cache: attention.KeysValues, keys_values: ReadableByStep,
             key_mask: Array) -> tuple[Array, attention.KeysValues, Array]:
        """Decodes one position; other arguments as of `T5.decode_step`.

        Args:
          embedded: [rows, 1, embed].

        Returns:
          Final states of the same shape; the cache; and the attention to the keys, [batch, rows of an example, keys] float32.
        """
        bias = self.relpos_bias.row(position, cache[0].shape[2])  # [heads, 1, max_length]
        key_mask = partitioning.spread(key_mask, self._split)

        def call(layer: t5_layers.DecoderLayer, hidden: Array, own: tuple[attention.KeysValues, attention.KeysValues]) -> tuple[Array, Any]:
            own_cache, own_keys_values = own
            return layer.step(hidden, position, own_cache, bias, own_keys_values, key_mask)

        if isinstance(keys_values, list):  # T5.step_by_step took the layers apart
            unbound = t5_layers.DecoderLayer(**self.config.layer_arguments(), split=self._split, parent=None)
            own = zip(layer_scan.split(cache), keys_values, strict=True)
            hidden, (cache, shares) = layer_scan.run_layers(unbound, self.variables['params'], call, embedded, own, self._split)
        else:
            hidden, (cache, shares) = self._scan(t5_layers.DecoderLayer, call, embedded, (cache, keys_values), split=self._split)
        return self.decoder_norm(hidden), cache, jnp.mean(shares, axis=0)  # shares come as [layers, batch, rows of an example, keys]


class T5(nn.Module):
    """T5 encoder and decoder. Parts are called by `method`: `t5.apply({'params': params}, stream, method='encode')`.

    remat: what the backward pass of layers computes again, a name of layer_scan.REMAT.
    unroll: layers in one turn of the loop over layers.
    flash: runs the encoder's attention by the kernel of nn/flash_attention.py if it fits.
    """

    config: T5Config
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    def setup(self):
        self.token_embedder = layers.Embedding(self.config.vocab_size, self.config.emb_dim, dtype=self.config.dtype)
        self.encoder = Encoder(self.config, layer_scan.of_encoder(self.remat), self.unroll, self.flash)
        self.decoder = Decoder(self.config, layer_scan.of_decoder(self.remat), self.unroll)

    def encode(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Encodes a stream: final states [streams, stream_tokens, embed] of `dtype`; meaningless past the last passage."""
        return self.encoder(self.token_embedder(stream.tokens), stream, deterministic)

    def cross_keys_values(self, encoded: Array, stream: types.TokenStream) -> Readable:
        """Makes what the decoder reads from encoder states: keys and values, or the states themselves where its layers are computed again.

        Keys and values hold no positions, so they are made on the stream and then laid out by passage, and serve any grouping of passages.

        Args:
          encoded: [streams, stream_tokens, embed].
          stream: the passages of `encoded`.

        Returns:
          Keys and values, each [layers, streams * passages, longest, heads, head_dim]; or EncodedStates.
        """
        parts = self.config.decoder_parts()
        states = encoded if parts == 1 else partitioning.copied(encoded, parts)
        # Where the passages lie is needed where their keys and values are.
        stream = jax.tree.map(lambda leaf: partitioning.spread(leaf, parts > 1), stream)
        if self.decoder.remat == 'full':
            # All layers' keys and values and their gradients are 8 GB for one example of the largest reader with 20 passages of 512 tokens.
            return EncodedStates((states,), (stream,))
        return self.decoder.keys_values(states, stream)

    def decode(self, decoder_input_tokens: Array, readable: Readable, key_mask: Array, deterministic: bool = True) -> Array:
        """Computes the logits of every target position. Several sequences of an example may stand side by side; they read the same keys.

        Args:
          decoder_input_tokens: [sequences, target_length] int32, targets shifted right; sequences a multiple of batch.
          readable: of `cross_keys_values`, for batch * keys keys.
          key_mask: [batch, keys] bool, the keys that are read together; an example without any True key reads nothing.
          deterministic: True switches dropout off.

        Returns:
          [sequences, target_length, vocab] float32.
        """
        return self.decode_recording(decoder_input_tokens, readable, key_mask, deterministic)[0]

    def decode_recording(self, decoder_input_tokens: Array, readable: Readable, key_mask: Array, deterministic: bool = True,
                         record: Sequence[str] = ()) -> tuple[Array, dict[str, Array]]:
        """Decodes as `decode`, and records the attention to the keys.

        Args:
          decoder_input_tokens, readable, key_mask, deterministic: as of `decode`.
          record: names of `nn.attention.RECORDED`.

        Returns:
          Logits as `decode`; and for each name [layers, batch, positions of an example's sequences, keys] float32, the mean over heads,
          0 where `key_mask` is False, before dropout and without gradient.
        """
        (hidden, recorded), = self.decoder(self.token_embedder(decoder_input_tokens), readable, key_mask, deterministic, record)
        return self._logits(hidden), recorded

    def decode_both(self, decoder_input_tokens: Array, readable: Readable, key_mask: Array, deterministic: bool, record: Sequence[str],
                    beside: Beside) -> tuple[tuple[Array, dict[str, Array]], tuple[Array, dict[str, Array]]]:
        """Decodes as `decode_recording`, one sequence an example, and beside it a second reading.

        Args:
          decoder_input_tokens, readable, key_mask, deterministic, record: as of `decode_recording`.
          beside: the second reading.

        Returns:
          Of either reading what `decode_recording` returns; the second has [groups, ...] logits and attention, and no gradient.
        """
        (hidden, recorded), (others, others_recorded) = self.decoder(self.token_embedder(decoder_input_tokens), readable, key_mask,
                                                                     deterministic, record, beside)
        return (self._logits(hidden), recorded), (jax.lax.stop_gradient(self._logits(others)), others_recorded)

    @nn.nowrap
    def step_by_step(self, params: Any, readable: Readable, key_mask: Array) -> tuple[Any, ReadableByStep]:
        """Lays parameters, keys and values out for `decode_step`; to be done once, before a loop over positions.

        Args:
          params: the reader's, layers together.
          readable: keys and values, each [layers, ..., heads, head_dim], of batch * keys keys.
          key_mask: [batch, keys] bool.

        Returns:
          The parameters, and keys and values by head (`nn.attention.by_head`). If the loop over layers is unrolled, each layer has arrays
          of its own.

        Raises ValueError: encoder states (remat 'full') in place of keys and values.
        """
        if isinstance(readable, EncodedStates):
            raise ValueError(f"decoding step by step needs keys and values, but remat is '{self.remat}'; choose another remat")
        def lay_out(layer: attention.KeysValues) -> attention.KeysValues:
            return attention.by_head(layer, key_mask)

        if self.unroll < self.config.num_decoder_layers:
            return params, jax.vmap(lay_out)(readable)
        # Out of stacked arrays the loop would copy the whole decoder at every position: 36 ms a position, 12 without (size small, CPU).
        # Split before they are turned: between the concatenation of all layers and its slices nothing may stand, then both are left out.
        apart = {**params, 'decoder': layer_scan.unstack_layers(params['decoder'])}
        return apart, [lay_out(layer) for layer in layer_scan.split(readable)]

    def decode_step(self, token: Array, position: Array, cache: attention.KeysValues, keys_values: ReadableByStep,
                    key_mask: Array) -> tuple[Array, attention.KeysValues, Array]:
        """Computes the logits of one position. Rows are examples, or several sequences of each side by side, which read the same keys.

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
        # the one position, and rows of one example side by side: [rows, vocab] and [rows, keys]
        return self._logits(hidden)[:, 0], cache, shares.reshape(len(token), -1)

    @nn.nowrap
    def init_cache(self, batch: int, max_length: int) -> attention.KeysValues:
        """Returns an empty cache for `decode_step`: keys and values, each [layers, batch, max_length, heads, head_dim] of `dtype`."""
        config = self.config
        # One array serves both: nothing writes into it in place.
        zeros = jnp.zeros((config.num_decoder_layers, batch, max_length, config.num_heads, config.head_dim), config.dtype)
        return zeros, zeros

    def __call__(self, stream: types.TokenStream, decoder_input_tokens: Array) -> Array:
        """Encodes a stream and decodes from all of it: logits [streams, target_length, vocab] float32; `init` runs this.

        Args:
          stream: one example a stream.
          decoder_input_tokens: [streams, target_length] int32.
        """
        encoded = self.encode(stream)
        mask = token_stream.row_mask(stream).reshape(stream.lengths.shape[0], -1)  # an example's passages together
        return self.decode(decoder_input_tokens, self.cross_keys_values(encoded, stream), mask)

    def _logits(self, hidden: Array) -> Array:
        """Maps final states [..., embed] to logits [..., vocab] float32."""
        if self.config.logits_via_embedding:  # scaled as in T5 1.0: the embedding's rows have variance 1
            return self.token_embedder.attend(hidden * self.config.emb_dim**-0.5)
        return self.decoder.logits_dense(hidden)


def _keys_values(layer: t5_layers.DecoderLayer, states: Array) -> attention.KeysValues:
    """Projects states [streams, stream_tokens, embed], or copies of them for each part [parts, ...], to [..., heads, head_dim]."""
    return layer.keys_values(states, by_part=states.ndim == 4)
