"""Evidence for a generated answer: its log likelihood with all passages and without each, and the
attention to each token of a passage.

It is computed from the keys and values that generated the answer, in the same program, so the
encoder runs once. The likelihood without any passage has another reader input, and so a program of
its own (answering/closed_book.py).
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from atlas_jax.losses import reader_xent
from atlas_jax.models import fid, t5
from atlas_jax.steps import read
from atlas_jax.steps.spec import StepSpec

Array = jax.Array
SHORT_ANSWER_TOKENS = 6  # answers of up to this many tokens are read at a narrower width
# examples times readings that go through the decoder at once: with a few tokens each, reading its
# weights takes most of the time
_AT_ONCE = 16
# The evidence that an answer step computes: none, the answer's log likelihood, or also the
# contribution of each passage and word.
Wanted = Literal['nothing', 'likelihood', 'passages']


class Evidence(struct.PyTreeNode):
    """The evidence for the best sequence of each example.

    log_likelihood   [batch] float32            log likelihood of its tokens, with eos and without a
                                                forced prefix
    tokens           [batch] int32              number of these tokens
    without          [batch, n] float32         log likelihood of the same tokens if one passage is
                                                left out; None if not requested
    token_attention  [batch, n, width] float32  share of the cross attention by reader token, sums
                                                to 1; None if not requested
    reader_tokens    [batch, n, width] int32    the reader's inputs; None if not requested
    """

    log_likelihood: Array
    tokens: Array
    without: Array | None = None
    token_attention: Array | None = None
    reader_tokens: Array | None = None


def counted(tokens: Any, prefix_lengths: Any, eos_id: int) -> Any:
    """Marks the tokens that a likelihood counts: [batch, length] bool, from the end of the forced
    prefix to the first eos.

    Args:
      tokens: [batch, length] int32, generated; numpy or jax.
      prefix_lengths: [batch] int32, number of forced tokens; None without a prefix.
      eos_id: the reader's eos.
    """
    is_eos = tokens == eos_id
    # The first eos counts; padding follows it.
    inside = is_eos.cumsum(axis=-1) - is_eos == 0
    return inside if prefix_lengths is None else inside & (np.arange(tokens.shape[-1])
                                                           >= prefix_lengths[:, None])


def of_answer(params: Any, tokens: Array, prefix_lengths: Array | None,
              passages: read.EncodedPassages, spec: StepSpec,
              wanted: Wanted) -> tuple[Array, Array, Array | None]:
    """Scores a generated sequence with all passages and, where `wanted`, with all but one.

    Args:
      params: the reader's parameters.
      tokens: [batch, length] int32, the best sequence of each example.
      prefix_lengths: see `counted`.
      passages: passages from `read.encode` that the sequence was generated from.
      spec: static side of the step.
      wanted: 'likelihood' or 'passages'.

    Returns:
      Log likelihoods [batch] float32, numbers of tokens [batch] int32, and log likelihoods without
      each passage [batch, n] or None.
    """
    weights = counted(tokens, prefix_lengths, spec.config.reader.eos_id)

    def score(width: int, params: Any) -> tuple[Array, Array | None]:
        targets = tokens[:, :width]
        inputs = t5.shift_right(targets, spec.config.reader.decoder_start_id)

        def likelihood(logits: Array) -> Array:  # [batch, width, vocab] to [batch]
            return -jnp.sum(reader_xent.token_nll(logits, targets) * weights[:, :width], axis=-1)

        if wanted == 'likelihood':
            return likelihood(read.decode_recording(params, inputs, passages, spec)[0]), None
        # Reduced inside the loop: the logits of all readings would be n times as large as one's.
        at_once = max(min(_AT_ONCE // len(tokens), spec.passages_read + 1), 1)
        scored = fid.leave_one_out(spec.reader, params, *passages, inputs, likelihood, whole=True,
                                   at_once=at_once)
        return scored[:, 0], scored[:, 1:]

    longest = tokens.shape[-1]
    # Most answers have a few tokens: reading padding would cost more than reading the answer.
    short = min(SHORT_ANSWER_TOKENS, longest)
    fits = ~jnp.any(weights[:, short:])
    if short < longest:
        whole, without = jax.lax.cond(fits, functools.partial(score, short),
                                      functools.partial(score, longest), params)
    else:
        whole, without = score(longest, params)
    return whole, jnp.sum(weights, axis=-1, dtype=jnp.int32), without


def of_width(attention: Array, width: int) -> Array:
    """Cuts or pads attention [..., longest] to [..., width] tokens; no passage is longer than
    `width`.
    """
    # Rows are narrower than the reader's input at a small capacity, and wider at a padded one.
    padding = [(0, 0)] * (attention.ndim - 1) + [(0, max(width - attention.shape[-1], 0))]
    return jnp.pad(attention, padding)[..., :width]


def token_shares(attention: Array) -> Array:
    """Returns attention [batch, n, width] as shares of each example's sum; 0 without passages."""
    # The small number keeps an example without passages at 0.
    return attention / jnp.maximum(attention.sum(axis=(1, 2), keepdims=True), 1e-9)
