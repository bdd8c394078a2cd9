"""Evidence for a generated answer: its log likelihood, the same without each passage, and the attention to each token of a passage.

All of it reads the keys and values that the answer was generated from, in the same program: the encoder runs once. The likelihood without
any passage has another reader input, so it is a small program of its own.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from atlas_jax.losses import reader_xent
from atlas_jax.model import AtlasModel
from atlas_jax.models import fid, t5
from atlas_jax.runtime import hosts
from atlas_jax.steps import prepare, read
from atlas_jax.steps import score as score_step
from atlas_jax.steps.spec import StepConfig, StepSpec
from atlas_jax.tasks.task import TaskExample

Array = jax.Array
_SHORT = 6  # answers of at most so many tokens are read in a narrower program
_AT_ONCE = 16  # examples times readings that go through the decoder together: of a few tokens each, its weights are what takes time
# What an answer step computes besides: nothing, the log likelihood of the answer, or also what each passage and word did for it.
Wanted = Literal['nothing', 'likelihood', 'passages']


class Evidence(struct.PyTreeNode):
    """The evidence for the best sequence of each example.

    log_likelihood   [batch] float32            of its tokens, eos included and a forced prefix not
    tokens           [batch] int32              their number
    without          [batch, n] float32         the log likelihood of the same tokens when a passage is left out; None unless asked for
    token_attention  [batch, n, width] float32  share of the cross attention by reader token, sums to 1; None unless asked for
    reader_tokens    [batch, n, width] int32    the tokens that were read; None unless asked for
    """

    log_likelihood: Array
    tokens: Array
    without: Array | None = None
    token_attention: Array | None = None
    reader_tokens: Array | None = None


def counted(tokens: Any, prefix_lengths: Any, eos_id: int) -> Any:
    """Marks the tokens that a likelihood counts: [batch, length] bool, from the end of the forced prefix to the first eos.

    Args:
      tokens: [batch, length] int32, generated; numpy or jax.
      prefix_lengths: [batch] int32, tokens that were forced; None for none.
      eos_id: of the reader.
    """
    is_eos = tokens == eos_id
    # The first eos counts; what follows it is padding.
    inside = is_eos.cumsum(axis=-1) - is_eos == 0
    return inside if prefix_lengths is None else inside & (np.arange(tokens.shape[-1]) >= prefix_lengths[:, None])


def of_answer(params: Any, tokens: Array, prefix_lengths: Array | None, passages: read.EncodedPassages, spec: StepSpec,
              wanted: Wanted) -> tuple[Array, Array, Array | None]:
    """Scores a generated sequence with all passages and, where `wanted`, with all but one.

    Args:
      params: the reader's.
      tokens: [batch, length] int32, the best sequence of each example.
      prefix_lengths: as of `counted`.
      passages: of `read.encode`, those that the sequence was generated from.
      spec: static side of the step.
      wanted: 'likelihood' or 'passages'.

    Returns:
      Log likelihoods [batch] float32, numbers of tokens [batch] int32, and log likelihoods without each passage [batch, n] or None.
    """
    weights = counted(tokens, prefix_lengths, spec.config.reader.eos_id)

    def score(width: int, params: Any) -> tuple[Array, Array | None]:
        targets = tokens[:, :width]
        inputs = t5.shift_right(targets, spec.config.reader.decoder_start_id)

        def likelihood(logits: Array) -> Array:  # [batch, width, vocab] to [batch]
            return -jnp.sum(reader_xent.token_nll(logits, targets) * weights[:, :width], axis=-1)

        if wanted == 'likelihood':
            return likelihood(read.decode_recording(params, inputs, passages, spec)[0]), None
        # Reduced inside the loop: the logits of all readings together would be n times as large as those of one.
        at_once = max(min(_AT_ONCE // len(tokens), spec.passages_read + 1), 1)
        scored = fid.leave_one_out(spec.reader, params, *passages, inputs, likelihood, whole=True, at_once=at_once)
        return scored[:, 0], scored[:, 1:]

    longest = tokens.shape[-1]
    # Answers are mostly a few tokens, and reading padding would cost more than reading the answer.
    short = min(_SHORT, longest)
    fits = ~jnp.any(weights[:, short:])
    if short < longest:
        whole, without = jax.lax.cond(fits, functools.partial(score, short), functools.partial(score, longest), params)
    else:
        whole, without = score(longest, params)
    return whole, jnp.sum(weights, axis=-1, dtype=jnp.int32), without


def of_width(attention: Array, width: int) -> Array:
    """Cuts or pads attention [..., longest] to [..., width] tokens; no passage is longer than `width`."""
    # Rows of a small capacity are narrower than the reader's input, those of a padded one wider.
    padding = [(0, 0)] * (attention.ndim - 1) + [(0, max(width - attention.shape[-1], 0))]
    return jnp.pad(attention, padding)[..., :width]


def token_shares(attention: Array) -> Array:
    """Returns attention [batch, n, width] as shares of each example's sum; 0 where nothing was read."""
    # The small number keeps an example without passages at 0.
    return attention / jnp.maximum(attention.sum(axis=(1, 2), keepdims=True), 1e-9)


class ClosedBook:
    """Scores given answers by the reader's memory alone: the likelihood that a question's passages have to be compared with."""

    def __init__(self, atlas: AtlasModel, examples: Sequence[TaskExample], batch_size: int, step: StepConfig | None = None):
        """Prepares the closed book of these examples; `batch_size` divides over the mesh, `step` has the dtypes."""
        self._prepared = prepare.prepare(atlas, examples, None, 0, batch_size, step=step)
        self._step, self._size = score_step.make_score_step(self._prepared.spec), batch_size

    def log_likelihoods(self, params: Any, examples: Sequence[TaskExample], tokens: np.ndarray) -> np.ndarray:
        """Returns the log likelihood, [batch size] float32, of tokens [batch size, length] int32 that were generated for the examples."""
        batch, _ = self._prepared.batch(examples, self._size, params)
        weights = counted(tokens, hosts.to_host(batch.decoder_prompt_lengths), self._prepared.spec.config.reader.eos_id)
        sharding = self._prepared.sharding(self._size)
        rows = list(hosts.local_rows(sharding, self._size))
        # As in `of_answer`: padding would cost more than a short answer.
        if tokens.shape[-1] > _SHORT and not weights[:, _SHORT:].any():
            tokens, weights = tokens[:, :_SHORT], weights[:, :_SHORT]
        # The generated tokens themselves, and not their text encoded again: other pieces may spell the same text.
        choices = {'choice_tokens': tokens[rows, None], 'choice_weights': weights[rows, None].astype(np.float32)}
        choices = hosts.from_local(choices, sharding, self._size)
        scored = self._step(params, batch.replace(**choices), None)
        return hosts.to_host(scored.log_likelihoods)[:, 0]
