"""What greedy and beam search share: the callable they search over, special tokens, forced prefixes, what they return."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

# (token [rows] int32, position scalar int32, cache) -> (logits [rows, vocab] float32, cache, record).
# rows: the batch, or batch * num_beams with the beams of an example side by side. The cache is a pytree of arrays [layers, rows, ...]; the
# record one of arrays [rows, ...], what a step has to say of each row: it is summed along every sequence.
TokensToLogits = Callable[[Array, Array, Any], tuple[Array, Any, Any]]


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the token that starts every sequence, of the one that ends it, and of what stands after the end."""

    start: int = 0
    eos: int = 1
    pad: int = 0


@struct.dataclass
class Prefix:
    """What each sequence is made to begin with, the start token not included.

    tokens   [rows, prefix_length] int32  0 on padding
    lengths  [rows] int32                 may be 0
    """

    tokens: Array
    lengths: Array

    def repeat(self, times: int) -> 'Prefix':
        """Each row so many times, side by side."""
        return Prefix(jnp.repeat(self.tokens, times, axis=0), jnp.repeat(self.lengths, times))


@struct.dataclass
class Decoded:
    """The sequences found for each example, best first.

    tokens   [batch, sequences, max_length - 1] int32  without the start token: up to and including eos, then padding
    scores   [batch, sequences] float32                sum of log likelihoods / length ** length_penalty; None if greedy
    records  pytree of [batch, sequences, ...]         of each step's record the sum along the sequence
    """

    tokens: Array
    scores: Array | None
    records: Any


def allowed(logits: Array, position: Array, min_length: int, eos_id: int, prefix: Prefix | None) -> Array:
    """[rows, vocab] with -inf for what may not follow the token at `position`: eos too early, and all but a forced token, be it eos."""
    has_prefix = prefix is not None and prefix.tokens.shape[1] > 0
    if min_length <= 1 and not has_prefix:
        return logits
    token_ids = jnp.arange(logits.shape[-1])
    forbidden = (token_ids == eos_id) & (position + 1 < min_length)
    if has_prefix:
        forced = jax.lax.dynamic_index_in_dim(prefix.tokens, position, axis=1)  # [rows, 1]; past the end the last one, and not in use
        forbidden = jnp.where((position < prefix.lengths)[:, None], token_ids != forced, forbidden)
    return jnp.where(forbidden, -jnp.inf, logits)
