"""Greedy and beam search over a tokens_to_logits callable, in one program.

Beam search follows the rules of the original's library, transformers 4.18 (docs/design.md, section
6).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax.decoding.config import DecodingConfig

Array = jax.Array

# (token [rows] int32, position scalar int32, cache) -> (logits [rows, vocab] float32, cache,
# record). rows is the batch, or batch * num_beams with the beams of an example adjacent. The cache
# is a pytree of arrays [layers, rows, ...]. The record is a pytree of arrays [rows, ...] for this
# step; records are summed along every sequence.
TokensToLogits = Callable[[Array, Array, Any], tuple[Array, Any, Any]]
# (position scalar int32, token [rows] int32): called for each step's tokens while the program is
# traced.
OnToken = Callable[[Array, Array], None]

# Initial score of all beams but the first; otherwise every beam would begin with the same token.
# Finite, as in transformers.
_HOPELESS = -1e9


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the start token, the end token and the padding after it."""

    start: int = 0
    eos: int = 1
    pad: int = 0


class Prefix(struct.PyTreeNode):
    """Tokens that each sequence must begin with, without the start token.

    tokens   [rows, prefix_length] int32  0 on padding
    lengths  [rows] int32                 0 for no prefix
    """

    tokens: Array
    lengths: Array

    def repeat(self, times: int) -> 'Prefix':
        """Repeats each row `times` times: tokens [rows * times, prefix_length], copies adjacent."""
        return Prefix(jnp.repeat(self.tokens, times, axis=0), jnp.repeat(self.lengths, times))


class Decoded(struct.PyTreeNode):
    """The sequences found for each example, best first.

    tokens   [batch, sequences, max_length - 1] int32  without the start token; eos, then padding
    scores   [batch, sequences] float32                sum of log likelihoods / length **
                                                       length_penalty; None for greedy search
    records  pytree of [batch, sequences, ...]         records of all steps, summed along the
                                                       sequence
    """

    tokens: Array
    scores: Array | None
    records: Any


class _Hypotheses(struct.PyTreeNode):
    """Sequences [batch, beams, length] int32, their scores [batch, beams] float32 and summed
    records [batch, beams, ...].
    """

    tokens: Array
    scores: Array
    records: Any


class _BeamState(struct.PyTreeNode):
    """The state of beam search between two steps.

    position  scalar int32
    token     [batch, beams] int32, the last token of each open beam
    open      open beams; scores are sums of log likelihoods
    finished  finished sequences; scores are divided by the length, -inf marks empty slots
    done      [batch] bool
    cache     the cache of the open beams
    """

    position: Array
    token: Array
    open: _Hypotheses
    finished: _Hypotheses
    done: Array
    cache: Any


def decode(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig,
           special: SpecialTokens, prefix: Prefix | None = None,
           on_token: OnToken | None = None) -> Decoded:
    """Runs greedy search if num_beams is 1, else beam search; see these for arguments and errors.
    """
    if config.num_beams == 1:
        return greedy(tokens_to_logits, cache, batch, config, special, prefix, on_token)
    # No on_token: the best beam is known only at the end.
    return beam_search(tokens_to_logits, cache, batch, config, special, prefix)


def greedy(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig,
           special: SpecialTokens, prefix: Prefix | None = None,
           on_token: OnToken | None = None) -> Decoded:
    """Takes the most likely token at each step until every example has ended.

    Args:
      tokens_to_logits: see TokensToLogits; one row for each example.
      cache: cache for the first call, with room for `max_length - 1` positions.
      batch: number of examples.
      config: options; max_length must be set. Only it and min_length matter.
      special: ids of the special tokens.
      prefix: one row for each example, or None.
      on_token: called with each step's tokens.

    Returns:
      One sequence an example, without scores.

    Raises ValueError: max_length is not set.
    """
    steps = config.steps
    start = jnp.full((batch,), special.start, jnp.int32)
    _, _, record = jax.eval_shape(tokens_to_logits, start, jnp.zeros((), jnp.int32), cache)
    records = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), record)

    # position scalar, ended [batch] bool, token [batch], tokens [batch, steps], records, cache
    def unfinished(state):
        position, ended, *_ = state
        return (position < steps) & ~jnp.all(ended)

    def step(state):
        position, ended, token, tokens, records, cache = state
        logits, cache, record = tokens_to_logits(token, position, cache)
        logits = _allowed(logits, position, config.min_length, special.eos, prefix)
        # An example that has ended continues with padding.
        token = jnp.where(ended, special.pad, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        if on_token is not None:
            on_token(position, token)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, position, axis=1)
        records = jax.tree.map(lambda total, new: total + jnp.where(_beside(ended, new), 0, new),
                               records, record)
        return position + 1, ended | (token == special.eos), token, tokens, records, cache

    tokens = jnp.full((batch, steps), special.pad, jnp.int32)
    state = (jnp.zeros((), jnp.int32), jnp.zeros((batch,), bool), start, tokens, records, cache)
    *_, tokens, records, _ = jax.lax.while_loop(unfinished, step, state)
    # [batch, 1, ...]: one sequence an example
    return Decoded(tokens[:, None], None, jax.tree.map(lambda leaf: leaf[:, None], records))


def beam_search(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig,
                special: SpecialTokens, prefix: Prefix | None = None) -> Decoded:
    """Keeps the `num_beams` most likely open sequences at each step, and the best `num_beams`
    finished ones.

    Each step has 2 * num_beams candidates; those that end count only if they are among the first
    num_beams. An example is done when num_beams sequences have ended and each of them scores at
    least as high as the best candidate at its present length. Sequences still open at max_length
    count as ended. Forbidden tokens (eos before min_length, all but the prefix) are ruled out after
    the softmax, without normalising again.

    Args:
      tokens_to_logits: see TokensToLogits; `num_beams` rows for each example.
      cache: cache for the first call, with batch * num_beams rows and room for `max_length - 1`
        positions.
      batch: number of examples.
      config: options; max_length must be set.
      special: ids of the special tokens.
      prefix: one row for each example, or None.

    Returns:
      `num_return_sequences` sequences an example.

    Raises ValueError: max_length is not set.
    """
    beams, steps = config.num_beams, config.steps
    prefix = None if prefix is None else prefix.repeat(beams)
    start = _first_beams(tokens_to_logits, cache, batch, config, special)

    def unfinished(state: _BeamState) -> Array:
        return (state.position < steps) & ~jnp.all(state.done)

    def step(state: _BeamState) -> _BeamState:
        logits, cache, record = tokens_to_logits(state.token.reshape(-1), state.position,
                                                 state.cache)
        # each [batch * beams, ...] to [batch, beams, ...]
        records = jax.tree.map(lambda total, new: total + new.reshape(total.shape),
                               state.open.records, record)
        scores, parents, tokens = _candidates(logits, state, config, special, prefix)
        candidates = _extend(state.open.replace(records=records), scores, parents, tokens,
                             state.position)
        is_eos = tokens == special.eos
        finished, done = _finish(state, candidates, is_eos, config)
        # the best candidates that go on, in their order
        goes_on = jnp.argsort(is_eos, axis=-1, stable=True)[:, :beams]
        # [batch, beams], rows of the cache
        rows = jnp.arange(batch)[:, None] * beams + jnp.take_along_axis(parents, goes_on, axis=1)
        return _BeamState(
            position=state.position + 1, token=jnp.take_along_axis(tokens, goes_on, axis=1),
            open=_pick(candidates, goes_on), finished=finished, done=done,
            cache=jax.tree.map(lambda leaf: jnp.take(leaf, rows.reshape(-1), axis=1), cache))

    last = jax.lax.while_loop(unfinished, step, start)
    # Open sequences have reached max_length. In examples that are done, only finished ones count.
    open_scores = last.open.scores / jnp.float32(steps + 1)**config.length_penalty
    still_open = last.open.replace(scores=jnp.where(last.done[:, None], -jnp.inf, open_scores))
    best = _best(last.finished, still_open, config.num_return_sequences)
    return Decoded(best.tokens, best.scores, best.records)


def _first_beams(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig,
                 special: SpecialTokens) -> _BeamState:
    """Returns the state before the first step: one open beam for each example, none finished."""
    beams = config.num_beams
    position = jnp.zeros((), jnp.int32)
    token = jnp.full((batch, beams), special.start, jnp.int32)
    _, _, record = jax.eval_shape(tokens_to_logits, token.reshape(-1), position, cache)
    records = jax.tree.map(lambda leaf: jnp.zeros((batch, beams, *leaf.shape[1:]), leaf.dtype),
                           record)
    tokens = jnp.full((batch, beams, config.steps), special.pad, jnp.int32)
    first_only = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, _HOPELESS),
                                  (batch, beams)).astype(jnp.float32)
    return _BeamState(position=position, token=token, open=_Hypotheses(tokens, first_only, records),
                      finished=_Hypotheses(tokens, jnp.full((batch, beams), -jnp.inf),
                                           records), done=jnp.zeros((batch, ), bool), cache=cache)


def _candidates(logits: Array, state: _BeamState, config: DecodingConfig, special: SpecialTokens,
                prefix: Prefix | None) -> tuple[Array, Array, Array]:
    """Finds the 2 * beams best continuations, best first, from logits [batch * beams, vocab].

    Returns:
      Summed scores float32, parent beams int32 and tokens int32, each [batch, 2 * beams].
    """
    batch, beams = state.token.shape
    # At most this many of one beam can be among the best of all.
    kept = min(2 * beams, logits.shape[-1])
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    logits = _allowed(logits, state.position, config.min_length, special.eos, prefix)
    values, tokens = jax.lax.top_k(logits, kept)  # [batch * beams, kept]
    values = (values - normaliser).reshape(batch, beams, kept) + state.open.scores[..., None]
    # Over all beams of an example: place = parent * kept + rank within the parent.
    scores, places = jax.lax.top_k(values.reshape(batch, -1), 2 * beams)
    return scores, places // kept, jnp.take_along_axis(tokens.reshape(batch, -1), places, axis=1)


def _extend(hypotheses: _Hypotheses, scores: Array, parents: Array, tokens: Array,
            position: Array) -> _Hypotheses:
    """Appends tokens [batch, candidates] to the beams `parents` and sets their scores; all three
    have the same shape.
    """
    chosen = _pick(hypotheses, parents)
    return chosen.replace(
        tokens=jax.lax.dynamic_update_index_in_dim(chosen.tokens, tokens, position, axis=2),
        scores=scores)


def _finish(state: _BeamState, candidates: _Hypotheses, is_eos: Array,
            config: DecodingConfig) -> tuple[_Hypotheses, Array]:
    """Adds the candidates that end now (is_eos [batch, candidates] bool) to the finished sequences.

    Returns:
      The best `num_beams` finished sequences; and which examples are done, [batch] bool.
    """
    # The length counts the start token, but not eos.
    length = (state.position + 1).astype(jnp.float32)
    scores = candidates.scores / length**config.length_penalty
    counts = is_eos & (jnp.arange(is_eos.shape[1]) < config.num_beams) & ~state.done[:, None]
    ended = candidates.replace(scores=jnp.where(counts, scores, -jnp.inf))
    finished = _best(state.finished, ended, config.num_beams)
    full = jnp.all(jnp.isfinite(finished.scores), axis=-1)
    hopeless = jnp.min(finished.scores, axis=-1) >= scores[:, 0]
    return finished, state.done | (full & hopeless)


def _best(one: _Hypotheses, other: _Hypotheses, count: int) -> _Hypotheses:
    """Keeps the `count` best of both, best first. Ties go to `one`, then to the earlier sequence.
    """
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), one, other)
    return _pick(together, jax.lax.top_k(together.scores, count)[1])


def _pick(hypotheses: _Hypotheses, places: Array) -> _Hypotheses:
    """Takes the beams at `places` [batch, n] int32: leaves [batch, beams, ...] become [batch, n,
    ...].
    """
    def take(leaf: Array) -> Array:
        index = places.reshape(*places.shape, *[1] * (leaf.ndim - 2))  # [batch, n, 1, ...]
        return jnp.take_along_axis(leaf, index, axis=1)

    return jax.tree.map(take, hypotheses)


def _allowed(logits: Array, position: Array, min_length: int, eos_id: int,
             prefix: Prefix | None) -> Array:
    """Sets logits [rows, vocab] to -inf for tokens that must not follow the token at `position`, a
    scalar int32.

    These are eos before min_length, and within the prefix every token but the prefix's, even if
    that one is eos.
    """
    if prefix is not None and prefix.tokens.shape[1] == 0:
        prefix = None
    if min_length <= 1 and prefix is None:
        return logits
    token_ids = jnp.arange(logits.shape[-1])
    # With eos next, the sequence has length position + 1: the start token counts, eos does not.
    forbidden = (token_ids == eos_id) & (position + 1 < min_length)
    if prefix is not None:
        # [rows, 1]; past the prefix's end the last column, which is then ignored
        forced = jax.lax.dynamic_index_in_dim(prefix.tokens, position, axis=1)
        forbidden = jnp.where((position < prefix.lengths)[:, None], token_ids != forced, forbidden)
    return jnp.where(forbidden, -jnp.inf, logits)


def _beside(rows: Array, values: Array) -> Array:
    """Reshapes [rows] to [rows, 1, ...], to broadcast with values [rows, ...]."""
    return rows.reshape(-1, *[1] * (values.ndim - 1))
