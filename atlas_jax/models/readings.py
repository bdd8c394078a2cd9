"""Encoded passages as the decoder reads them, and a second reading beside the first."""

import dataclasses
import functools

import jax
from flax import struct

from atlas_jax import types
from atlas_jax.nn import attention, t5_layers, token_stream

Array = jax.Array


class EncodedStates(struct.PyTreeNode):
    """Encoder states in place of keys and values: every decoder layer projects them itself, and
    again for its gradient.

    states    one array or more [streams, stream_tokens, embed]; for split layers copies [parts,
              streams, stream_tokens, embed]
    streams   the passages of each array; an example's passages in different arrays are joined in
              the arrays' order
    examples  number of examples; needed for several arrays, and with `first`
    first     number of passages of each example that are read; None reads all
    """

    states: tuple[Array, ...]
    streams: tuple[types.TokenStream, ...]
    examples: int = struct.field(pytree_node=False, default=1)
    first: int | None = struct.field(pytree_node=False, default=None)

    def rows(self, layer: t5_layers.DecoderLayer) -> attention.KeysValues:
        """Returns the keys and values of a layer, each [passages, longest, heads, head_dim], zeros
        past a passage's end.
        """
        rows, *others = [
            project(layer, states, stream)
            for states, stream in zip(self.states, self.streams, strict=True)]
        for more in others:
            rows = jax.tree.map(
                lambda one, other: token_stream.join_rows(one, other, self.examples), rows, more)
        first = self.first
        return rows if first is None else jax.tree.map(
            lambda each: token_stream.first_rows(each, self.examples, first), rows)


# Encoded passages for T5.decode; keys and values are each [layers, ..., heads, head_dim].
Readable = attention.KeysValues | EncodedStates
# Encoded passages for T5.decode_step: keys and values of all layers together, or a list with each
# layer's own.
ReadableByStep = attention.KeysValues | list[attention.KeysValues]


@dataclasses.dataclass(frozen=True)
class Beside:
    """A second reading of the same targets in the same loop over layers, without dropout and
    without gradient.

    Both readings share the gathered weights and the passages' keys and values.

    Attributes:
      key_mask: [groups, keys] bool, the keys that a group reads together. Each example has the same
        number of groups; each group reads the example's targets.
      examples: number of examples.
      first: number of passages of each example that are read.
      record: kinds of attention to record, names of `nn.attention.RECORDED`.
    """

    key_mask: Array
    examples: int
    first: int
    record: tuple[str, ...] = ()

    def rows(self, keys_values: attention.KeysValues) -> attention.KeysValues:
        """Returns a layer's keys and values [..., longest, heads, head_dim] of the passages that
        are read, one row a passage.
        """
        return jax.tree.map(lambda each: token_stream.first_rows(each, self.examples, self.first),
                            keys_values)


def project(layer: t5_layers.DecoderLayer, states: Array,
            stream: types.TokenStream) -> attention.KeysValues:
    """Projects encoder states to a layer's keys and values [passages, longest, heads, head_dim],
    zeros past a passage's end.

    Args:
      layer: a decoder layer, bound to its parameters.
      states: [streams, stream_tokens, embed], or for split layers copies [parts, streams,
        stream_tokens, embed].
      stream: the passages of the states.
    """
    # Projected before they are laid out by passage: rows are as wide as the longest passage.
    keys_values = layer.keys_values(states, by_part=states.ndim == 4)
    return jax.tree.map(functools.partial(token_stream.passage_rows, stream), keys_values)
