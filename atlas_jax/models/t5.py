"""T5 v1.0 and v1.1: an encoder over token streams, and a decoder over keys and values that are
computed once.

Parameter names are T5X's.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import errors, partitioning, types
from atlas_jax.models import limits, readings
from atlas_jax.nn import attention, flash_attention, layer_scan, layers, t5_layers, token_stream
from atlas_jax.options import option

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and options of a T5.

    Attributes:
      vocab_size: rows of the embedding, at least the number of the tokenizer's pieces.
      emb_dim: width of the states.
      num_heads, head_dim: number of attention heads of each layer, and the width of a head.
      mlp_dim: width inside the MLP.
      num_encoder_layers, num_decoder_layers: number of layers.
      mlp_activations: ('relu',) for v1.0, ('gelu', 'linear') for v1.1; names of
        nn.layers.ACTIVATIONS.
      logits_via_embedding: True computes logits with the embedding, scaled by emb_dim**-0.5, as
        v1.0 does; False with an output kernel, as v1.1 does.
      relpos_buckets: number of buckets of relative positions.
      relpos_max_distance: distances from here on share a bucket.
      dropout_rate: share of activations that training drops.
      dtype: dtype of the activations; parameters, norms, softmax and logits are float32.
      layer_norm_epsilon: number added to the second moment.
      pad_id, eos_id, decoder_start_id: token ids of padding, of the end of a sequence, and of the
        decoder's first input.

    Raises ConfigError: a field has another type or is outside its range (models/limits.py), or an
    activation or the dtype is unknown.
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
    dropout_rate: float = option(0.1, least=0, below=1)
    dtype: str = option('float32', choices=limits.DTYPES)
    layer_norm_epsilon: float = option(1e-6, least=0, below=1)
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0

    def __post_init__(self):
        # gin and JSON give lists.
        if isinstance(self.mlp_activations, list):
            object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
        limits.check(self)
        # Half of the buckets hold one distance each. The others grow logarithmically up to this
        # distance.
        if self.relpos_max_distance <= self.relpos_buckets // 2:
            raise errors.ConfigError('T5Config.relpos_max_distance is '
                                     f'{self.relpos_max_distance}; it must be above half of '
                                     f'relpos_buckets, {self.relpos_buckets}')
        for name in ('pad_id', 'eos_id', 'decoder_start_id'):
            if getattr(self, name) >= self.vocab_size:
                raise errors.ConfigError(f'T5Config.{name} is {getattr(self, name)}; it must be '
                                         f'below vocab_size, {self.vocab_size}')
        # Checked here rather than when the model is first traced.
        unknown = sorted(set(self.mlp_activations) - set(layers.ACTIVATIONS))
        if unknown or not self.mlp_activations:
            raise errors.ConfigError(f'T5Config.mlp_activations is {self.mlp_activations}; name '
                                     f'some of {sorted(layers.ACTIVATIONS)}')

    def layer_arguments(self) -> dict[str, Any]:
        """Returns the arguments of every layer."""
        names = ('emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'mlp_activations', 'dropout_rate',
                 'layer_norm_epsilon', 'dtype')
        return {name: getattr(self, name) for name in names}

    def decoder_parts(self) -> int:
        """Returns the number of parts into which the mesh axis `model` splits the decoder's layers
        (partitioning.split_in).
        """
        return partitioning.split_in(self.num_heads, self.mlp_dim)

    def relpos_arguments(self) -> dict[str, Any]:
        """Returns the arguments of the encoder's and the decoder's position bias."""
        return {
            'num_heads': self.num_heads, 'num_buckets': self.relpos_buckets,
            'max_distance': self.relpos_max_distance, 'emb_dim': self.emb_dim}


def init_params(config: T5Config, key: Array) -> Any:
    """Draws random float32 parameters: a nested dict with leaves boxed with their logical axes.

    `jax.eval_shape` of this function gives the shapes without allocating anything.
    """
    # One token is enough: parameters do not depend on the size of the inputs.
    stream = token_stream.pack(jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32),
                               stream_tokens=1, longest=1)
    return T5(config).init(key, stream, jnp.zeros((1, 1), jnp.int32))['params']


def shift_right(targets: Array, start_id: int = 0) -> Array:
    """Returns the decoder's inputs for targets [..., length] int32: the targets moved right by one,
    `start_id` first.
    """
    return jnp.concatenate([jnp.full_like(targets[..., :1], start_id), targets[..., :-1]], axis=-1)


class _Stack(nn.Module):
    """A scanned stack of equal layers with one position bias, shared by encoder and decoder.

    remat, unroll: see nn/layer_scan.py.
    """

    config: T5Config
    remat: str = 'none'
    unroll: int = 1

    def _set_up(self, layer: type[t5_layers.EncoderLayer] | type[t5_layers.DecoderLayer],
                num_layers: int, bidirectional: bool) -> None:
        """Makes the position bias, the layers and the dropout; call it in `setup`."""
        config = self.config
        self.relpos_bias = t5_layers.RelativePositionBias(bidirectional=bidirectional,
                                                          **config.relpos_arguments())
        # These layers declare the parameters. Later, `_scan` runs one unbound layer instead.
        self.layers = [layer(**config.layer_arguments()) for _ in range(num_layers)]
        self.dropout = nn.Dropout(config.dropout_rate)

    def _scan(self, layer: type[t5_layers.EncoderLayer] | type[t5_layers.DecoderLayer],
              call: Callable[..., tuple[Any, Any]], hidden: Any, per_layer: Any = None,
              deterministic: bool = True, split: bool = False) -> tuple[Any, Any]:
        """Scans the layers. During initialisation it runs the layers one after another, under their
        own names.

        See `layer_scan.scan_layers` for arguments and results.
        """
        # Bound layers name their parameters `layers_0` and so on, as T5X does.
        if self.is_initializing():
            for i, bound in enumerate(self.layers):
                hidden, _ = call(bound, hidden, jax.tree.map(lambda leaf, i=i: leaf[i], per_layer))
            return hidden, None
        # One layer stands for all; the loop binds it to each layer's parameters.
        unbound = layer(**self.config.layer_arguments(), split=split, parent=None)
        return layer_scan.scan_layers(
            unbound, self.variables['params'], call, hidden, per_layer, split=split,
            dropout_key=None if deterministic else self.make_rng('dropout'), remat=self.remat,
            unroll=self.unroll)


class Encoder(_Stack):
    """The encoder's layers over a stream. All layers and passages share one position bias.

    flash: uses the kernel of nn/flash_attention.py if it fits.
    """

    flash: bool = False

    def setup(self):
        self._set_up(t5_layers.EncoderLayer, self.config.num_encoder_layers, bidirectional=True)
        self.encoder_norm = layers.RMSNorm(self.config.layer_norm_epsilon, self.config.dtype)

    def __call__(self, embedded: Array, stream: types.TokenStream, deterministic: bool) -> Array:
        """Encodes embedded tokens [streams, stream_tokens, embed] to states of the same shape."""
        # bias [heads, longest, longest]
        bias, config = self.relpos_bias(stream.longest), self.config
        flash = self.flash and flash_attention.fits(stream.longest, config.num_heads,
                                                    config.head_dim, config.dtype,
                                                    0.0 if deterministic else config.dropout_rate)
        if flash:  # the gradient of each stream's copy stays on its device
            bias = flash_attention.one_per_stream(bias, stream.tokens.shape[0])
        hidden, _ = self._scan(
            t5_layers.EncoderLayer, lambda layer, hidden, _:
            (layer(hidden, stream, bias, deterministic, flash), None),
            self.dropout(embedded, deterministic=deterministic), deterministic=deterministic)
        return self.dropout(self.encoder_norm(hidden), deterministic=deterministic)


class Decoder(_Stack):
    """The decoder's layers over target tokens, and the output kernel if the config has one.

    If the mesh axis `model` is above 1, layers and kernel are split over it: targets are short, so
    gathering the weights would dominate the communication.
    """

    def setup(self):
        self._set_up(t5_layers.DecoderLayer, self.config.num_decoder_layers, bidirectional=False)
        self.decoder_norm = layers.RMSNorm(self.config.layer_norm_epsilon, self.config.dtype)
        if not self.config.logits_via_embedding:
            # float32 whatever the dtype of the activations: the loss takes exponentials of the
            # logits.
            self.logits_dense = layers.Dense(self.config.vocab_size, ('embed', 'vocab'),
                                             split=self._split)

    @property
    def _split(self) -> bool:
        return self.config.decoder_parts() > 1

    def keys_values(self, encoded: Array, stream: types.TokenStream) -> attention.KeysValues:
        """Projects encoder states to each layer's keys and values; see `T5.cross_keys_values`."""
        make: Callable[[Any], attention.KeysValues] = functools.partial(
            readings.project, states=encoded, stream=stream)
        if self.is_initializing():  # under the layers' own names, as in `_scan`
            return jax.tree.map(lambda *leaves: jnp.stack(leaves),
                                *(make(layer) for layer in self.layers))
        # One layer after another: otherwise XLA would lay the values out with the layers last, and
        # transpose them for every reading. The states are not carried from layer to layer, because
        # the copies for split layers have another layout than the carry.
        return self._scan(t5_layers.DecoderLayer, lambda layer, nothing, _: (nothing, make(layer)),
                          (), split=self._split)[1]

    def __call__(self, embedded: Array, readable: readings.Readable, key_mask: Array,
                 deterministic: bool, record: Sequence[str] = (),
                 beside: readings.Beside | None = None) -> list[tuple[Array, dict[str, Array]]]:
        """Decodes embedded tokens; see `T5.decode_both` for the other arguments.

        Args:
          embedded: [sequences, length, embed].

        Returns:
          For the reading, and for `beside` if it is given: final states [sequences or groups,
          length, embed], and the recorded attention, layers first.
        """
        length = embedded.shape[1]
        # A mask with another layout would make XLA move the keys and values to it.
        key_mask = partitioning.spread(key_mask, self._split)
        if beside is not None:
            beside = dataclasses.replace(beside,
                                         key_mask=partitioning.spread(beside.key_mask, self._split))
        # [heads, length, length] and [length, length]
        bias, causal_mask = self.relpos_bias(length), jnp.tril(jnp.ones((length, length), bool))

        def call(layer: t5_layers.DecoderLayer, hidden: list[Array],
                 own: attention.KeysValues | None) -> tuple[list[Array], Any]:
            # Computed inside the layer, so that remat computes it again for the gradient.
            if isinstance(readable, readings.EncodedStates):
                own = readable.rows(layer)
            assert own is not None  # keys and values go to their layers by `per_layer`
            read = [layer(hidden[0], bias, causal_mask, own, key_mask, deterministic, record)]
            if beside is not None:
                rows = beside.rows(own)
                read.append(
                    jax.lax.stop_gradient(
                        layer(hidden[1], bias, causal_mask, rows, beside.key_mask, True,
                              beside.record)))
            return [states for states, _ in read], [recorded for _, recorded in read]

        hidden = [self.dropout(embedded, deterministic=deterministic)]
        if beside is not None:
            hidden.append(
                jax.lax.stop_gradient(
                    jnp.repeat(embedded,
                               len(beside.key_mask) // len(embedded), axis=0)))
        per_layer = None if isinstance(readable, readings.EncodedStates) else readable
        hidden, recorded = self._scan(t5_layers.DecoderLayer, call, hidden, per_layer,
                                      deterministic, self._split)
        normed = [self.decoder_norm(states) for states in hidden]
        normed[0] = self.dropout(normed[0], deterministic=deterministic)
        return list(zip(normed, recorded or [{}] * len(normed), strict=True))

    def step(self, embedded: Array, position: Array, cache: attention.KeysValues,
             keys_values: readings.ReadableByStep,
             key_mask: Array) -> tuple[Array, attention.KeysValues, Array]:
        """Decodes one position; see `T5.decode_step` for the other arguments.

        Args:
          embedded: [rows, 1, embed].

        Returns:
          Final states with the same shape; the cache; and the attention to the keys, [batch, rows
          of an example, keys] float32.
        """
        bias = self.relpos_bias.row(position, cache[0].shape[2])  # [heads, 1, max_length]
        key_mask = partitioning.spread(key_mask, self._split)

        def call(layer: t5_layers.DecoderLayer, hidden: Array,
                 own: tuple[attention.KeysValues, attention.KeysValues]) -> tuple[Array, Any]:
            own_cache, own_keys_values = own
            return layer.step(hidden, position, own_cache, bias, own_keys_values, key_mask)

        if isinstance(keys_values, list):  # T5.step_by_step has split the layers
            unbound = t5_layers.DecoderLayer(**self.config.layer_arguments(), split=self._split,
                                             parent=None)
            own = zip(layer_scan.split(cache), keys_values, strict=True)
            hidden, (cache, shares) = layer_scan.run_layers(unbound, self.variables['params'], call,
                                                            embedded, own, self._split)
        else:
            hidden, (cache, shares) = self._scan(t5_layers.DecoderLayer, call, embedded,
                                                 (cache, keys_values), split=self._split)
        # shares [layers, batch, rows of an example, keys]
        return self.decoder_norm(hidden), cache, jnp.mean(shares, axis=0)


class T5(nn.Module):
    """T5 encoder and decoder. Call a part by its method: `t5.apply({'params': params}, stream,
    method='encode')`.

    remat: remat policy, a name of layer_scan.REMAT.
    unroll: number of layers in one turn of the loop over layers.
    flash: runs the encoder's attention by the kernel of nn/flash_attention.py if it fits.
    """

    config: T5Config
    remat: str = 'none'
    unroll: int = 1
    flash: bool = False

    def setup(self):
        self.token_embedder = layers.Embedding(self.config.vocab_size, self.config.emb_dim,
                                               dtype=self.config.dtype)
        self.encoder = Encoder(self.config, layer_scan.encoder_policy(self.remat), self.unroll,
                               self.flash)
        self.decoder = Decoder(self.config, layer_scan.decoder_policy(self.remat), self.unroll)

    def encode(self, stream: types.TokenStream, deterministic: bool = True) -> Array:
        """Encodes a stream to final states [streams, stream_tokens, embed] of `dtype`, meaningless
        past the last passage.
        """
        return self.encoder(self.token_embedder(stream.tokens), stream, deterministic)

    def cross_keys_values(self, encoded: Array, stream: types.TokenStream) -> readings.Readable:
        """Prepares encoder states for the decoder: projects them to keys and values, or keeps the
        states if remat is 'full' in the decoder.

        Keys and values have no positions. They are computed on the stream, then laid out by
        passage, and serve any grouping of passages.

        Args:
          encoded: [streams, stream_tokens, embed].
          stream: the passages of `encoded`.

        Returns:
          Keys and values, each [layers, streams * passages, longest, heads, head_dim]; or
          EncodedStates.
        """
        parts = self.config.decoder_parts()
        states = encoded if parts == 1 else partitioning.copied(encoded, parts)
        # The stream's indices must be on the devices of the keys and values.
        stream = jax.tree.map(lambda leaf: partitioning.spread(leaf, parts > 1), stream)
        if self.decoder.remat == 'full':
            # The keys and values of all layers and their gradients take 8 GB for one example with
            # 20 passages of 512 tokens (the largest reader).
            return readings.EncodedStates((states,), (stream,))
        return self.decoder.keys_values(states, stream)

    def decode(self, decoder_input_tokens: Array, readable: readings.Readable, key_mask: Array,
               deterministic: bool = True) -> Array:
        """Computes the logits of every target position. An example may have several adjacent
        sequences, which read the same keys.

        Args:
          decoder_input_tokens: [sequences, target_length] int32, targets shifted right; sequences
            is a multiple of batch.
          readable: the result of `cross_keys_values`, with batch * keys keys.
          key_mask: [batch, keys] bool, the keys that an example reads together; an example without
            any True key reads nothing.
          deterministic: True switches dropout off.

        Returns:
          [sequences, target_length, vocab] float32.
        """
        return self.decode_recording(decoder_input_tokens, readable, key_mask, deterministic)[0]

    def decode_recording(
        self, decoder_input_tokens: Array, readable: readings.Readable, key_mask: Array,
        deterministic: bool = True, record: Sequence[str] = ()) -> tuple[Array, dict[str, Array]]:
        """Decodes like `decode`, and records the attention to the keys.

        Args:
          decoder_input_tokens, readable, key_mask, deterministic: see `decode`.
          record: names of `nn.attention.RECORDED`.

        Returns:
          The logits; and for each name [layers, batch, positions of an example's sequences, keys]
          float32, the mean over heads before dropout, 0 where `key_mask` is False, without
          gradient.
        """
        (hidden, recorded), = self.decoder(self.token_embedder(decoder_input_tokens), readable,
                                           key_mask, deterministic, record)
        return self._logits(hidden), recorded

    def decode_both(
            self, decoder_input_tokens: Array, readable: readings.Readable, key_mask: Array,
            deterministic: bool, record: Sequence[str], beside: readings.Beside
    ) -> tuple[tuple[Array, dict[str, Array]], tuple[Array, dict[str, Array]]]:
        """Decodes one sequence an example like `decode_recording`, and a second reading beside it.

        Args:
          decoder_input_tokens, readable, key_mask, deterministic, record: see `decode_recording`.
          beside: the second reading.

        Returns:
          The result of `decode_recording` for either reading. The second has [groups, ...] logits
          and attention, and no gradient.
        """
        (hidden, recorded), (others, others_recorded) = self.decoder(
            self.token_embedder(decoder_input_tokens), readable, key_mask, deterministic, record,
            beside)
        return (self._logits(hidden), recorded), (jax.lax.stop_gradient(
            self._logits(others)), others_recorded)

    @nn.nowrap
    def step_by_step(self, params: Any, readable: readings.Readable,
                     key_mask: Array) -> tuple[Any, readings.ReadableByStep]:
        """Lays parameters, keys and values out for `decode_step`; call it once, before the loop
        over positions.

        Args:
          params: the reader's parameters, layers together.
          readable: keys and values, each [layers, ..., heads, head_dim], with batch * keys keys.
          key_mask: [batch, keys] bool.

        Returns:
          The parameters, and keys and values by head (`nn.attention.by_head`). If the loop over
          layers is unrolled, each layer has its own arrays.

        Raises ValueError: `readable` is encoder states (remat 'full').
        """
        if isinstance(readable, readings.EncodedStates):
            raise ValueError("decoding step by step needs keys and values, but remat is "
                             f"'{self.remat}'; choose another remat")
        lay_out = functools.partial(attention.by_head, key_mask=key_mask)
        if self.unroll < self.config.num_decoder_layers:
            return params, jax.vmap(lay_out)(readable)
        # With stacked arrays the loop would copy the whole decoder at every position: 36 ms a
        # position instead of 12 (size small, CPU). Keys and values are split before they are
        # transposed, so that XLA cancels the concatenation of all layers and its slices.
        apart = {**params, 'decoder': layer_scan.unstack_layers(params['decoder'])}
        return apart, [lay_out(layer) for layer in layer_scan.split(readable)]

    def decode_step(self, token: Array, position: Array, cache: attention.KeysValues,
                    keys_values: readings.ReadableByStep,
                    key_mask: Array) -> tuple[Array, attention.KeysValues, Array]:
        """Computes the logits of one position. An example has one row, or several adjacent rows
        that read the same keys.

        Args:
          token: [rows] int32, the token at `position`; rows is a multiple of batch.
          position: scalar int32, from 0.
          cache: the result of `init_cache`, filled up to `position`.
          keys_values: the result of `step_by_step`, which also gives the parameters.
          key_mask: [batch, keys] bool.

        Returns:
          [rows, vocab] float32; the cache with this position filled; and the attention to the keys,
          [rows, keys] float32, the mean over layers and heads.
        """
        embedded = self.token_embedder(token[:, None])
        hidden, cache, shares = self.decoder.step(embedded, position, cache, keys_values, key_mask)
        # [rows, vocab] and [rows, keys]
        return self._logits(hidden)[:, 0], cache, shares.reshape(len(token), -1)

    @nn.nowrap
    def init_cache(self, batch: int, max_length: int) -> attention.KeysValues:
        """Returns an empty cache for `decode_step`: keys and values, each [layers, batch,
        max_length, heads, head_dim] of `dtype`.
        """
        config = self.config
        # Keys and values can share the array, because nothing is written in place.
        zeros = jnp.zeros(
            (config.num_decoder_layers, batch, max_length, config.num_heads, config.head_dim),
            config.dtype)
        return zeros, zeros

    def __call__(self, stream: types.TokenStream, decoder_input_tokens: Array) -> Array:
        """Encodes a stream and decodes from all its passages; `init` runs this method.

        Args:
          stream: one example in each stream.
          decoder_input_tokens: [streams, target_length] int32.

        Returns:
          Logits [streams, target_length, vocab] float32.
        """
        encoded = self.encode(stream)
        mask = token_stream.row_mask(stream).reshape(stream.lengths.shape[0], -1)
        return self.decode(decoder_input_tokens, self.cross_keys_values(encoded, stream), mask)

    def _logits(self, hidden: Array) -> Array:
        """Maps final states [..., embed] to logits [..., vocab] float32."""
        # Scaled as in T5 1.0, whose embedding has variance 1.
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(hidden * self.config.emb_dim**-0.5)
        return self.decoder.logits_dense(hidden)
