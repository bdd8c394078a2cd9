"""Greedy and beam search over a tokens_to_logits callable, in one program.

Beam search follows the rules of the original's library, transformers 4.18 (docs/design.md, section 6).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax.decoding.config import DecodingConfig

Array = jax.Array

# (token [rows] int32, position scalar int32, cache) -> (logits [rows, vocab] float32, cache, record).
# rows: the batch, or batch * num_beams with the beams of an example side by side. The cache is a pytree of arrays [layers, rows, ...].
# The record is a pytree of arrays [rows, ...] that belong to this step; it is summed along every sequence.
TokensToLogits = Callable[[Array, Array, Any], tuple[Array, Any, Any]]
# (position scalar int32, token [rows] int32): sees each token as it is chosen, while the program is traced.
OnToken = Callable[[Array, Array], None]

# Score of all beams but the first at the start, or every beam would begin with the same token. Finite, as in transformers.
_HOPELESS = -1e9


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the token that starts every sequence, of the one that ends it, and of the padding after the end."""

    start: int = 0
    eos: int = 1
    pad: int = 0


class Prefix(struct.PyTreeNode):
    """Tokens that each sequence has to begin with, the start token not included.

    tokens   [rows, prefix_length] int32  0 on padding
    lengths  [rows] int32                 may be 0
    """

    tokens: Array
    lengths: Array

    def repeat(self, times: int) -> 'Prefix':
        """Repeats each row `times` times, side by side: [rows * times, prefix_length]."""
        return Prefix(jnp.repeat(self.tokens, times, axis=0), jnp.repeat(self.lengths, times))


class Decoded(struct.PyTreeNode):
    """The sequences found for each example, best first.

    tokens   [batch, sequences, max_length - 1] int32  without the start token: up to and including eos, then padding
    scores   [batch, sequences] float32                sum of log likelihoods / length ** length_penalty; None if greedy
    records  pytree of [batch, sequences, ...]         the steps' records, summed along the sequence
    """

    tokens: Array
    scores: Array | None
    records: Any


class _Hypotheses(struct.PyTreeNode):
    """Sequences [batch, beams, length] int32 with their scores [batch, beams] float32 and summed records [batch, beams, ...]."""

    tokens: Array
    scores: Array
    records: Any


class _BeamState(struct.PyTreeNode):
    """Beam search between two steps.

    position  scalar int32
    token     [batch, beams] int32, the last of each open beam
    open      scores are sums of log likelihoods
    finished  scores are divided by the length; -inf marks empty slots
    done      [batch] bool
    cache     of the open beams
    """

    position: Array
    token: Array
    open: _Hypotheses
    finished: _Hypotheses
    done: Array
    cache: Any


def decode(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig, special: SpecialTokens,
           prefix: Prefix | None = None, on_token: OnToken | None = None) -> Decoded:
    """Searches greedily if num_beams is 1, else by beams; arguments and errors as of `beam_search`, and `on_token` as of `greedy`."""
    if config.num_beams == 1:
        return greedy(tokens_to_logits, cache, batch, config, special, prefix, on_token)
    # Which beam is the best shows at the end: there is no token to tell before.
    return beam_search(tokens_to_logits, cache, batch, config, special, prefix)


def greedy(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig, special: SpecialTokens,
           prefix: Prefix | None = None, on_token: OnToken | None = None) -> Decoded:
    """Takes the likeliest token at each step until every example has ended.

    Args:
      tokens_to_logits: see TokensToLogits; one row an example.
      cache: given to the first call, with room for `max_length - 1` positions.
      config: max_length and min_length count; max_length must be set.
      prefix: one row an example, or None.
      on_token: told of each step's tokens.

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
        # An example that has ended goes on with the others, in padding.
        token = jnp.where(ended, special.pad, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        if on_token is not None:
            on_token(position, token)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, position, axis=1)
        records = jax.tree.map(lambda total, new: total + jnp.where(_beside(ended, new), 0, new), records, record)
        return position + 1, ended | (token == special.eos), token, tokens, records, cache

    tokens = jnp.full((batch, steps), special.pad, jnp.int32)
    state = (jnp.zeros((), jnp.int32), jnp.zeros((batch,), bool), start, tokens, records, cache)
    *_, tokens, records, _ = jax.lax.while_loop(unfinished, step, state)
    # the axis of the sequences of an example: [batch, 1, ...]
    return Decoded(tokens[:, None], None, jax.tree.map(lambda leaf: leaf[:, None], records))


def beam_search(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig, special: SpecialTokens,
                prefix: Prefix | None = None) -> Decoded:
    """Keeps the `num_beams` likeliest open sequences at each step, and the best `num_beams` that have ended.

    Of 2 * num_beams candidates those that end count only from the first num_beams ranks. An example is done when num_beams sequences have
    ended and none of them is worse than the best candidate would be at its present length. Sequences open at max_length count as ended.
    Forbidden tokens (eos before min_length, all but the prefix) are ruled out after the softmax, and the rest is not normalised anew.

    Args:
      tokens_to_logits: see TokensToLogits; `num_beams` rows an example.
      cache: given to the first call, of batch * num_beams rows and with room for `max_length - 1` positions.
      config: all of it; max_length must be set.
      prefix: one row an example, or None.

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
        logits, cache, record = tokens_to_logits(state.token.reshape(-1), state.position, state.cache)
        # each [batch * beams, ...] to [batch, beams, ...]
        records = jax.tree.map(lambda total, new: total + new.reshape(total.shape), state.open.records, record)
        scores, parents, tokens = _candidates(logits, state, config, special, prefix)
        candidates = _extend(state.open.replace(records=records), scores, parents, tokens, state.position)
        length = (state.position + 1).astype(jnp.float32)  # the start token counted, the candidates' last one not
        finished = _add_finished(state, candidates, tokens == special.eos, length, config)
        # the best candidates that go on, in their order
        goes_on = jnp.argsort(tokens == special.eos, axis=-1, stable=True)[:, :beams]
        rows = jnp.arange(batch)[:, None] * beams + jnp.take_along_axis(parents, goes_on, axis=1)  # [batch, beams], rows of the cache
        # [batch] bool; together they make an example done
        full = jnp.all(jnp.isfinite(finished.scores), axis=-1)
        hopeless = jnp.min(finished.scores, axis=-1) >= scores[:, 0] / length**config.length_penalty
        return _BeamState(position=state.position + 1, token=jnp.take_along_axis(tokens, goes_on, axis=1),
                          open=_pick(candidates, goes_on), finished=finished, done=state.done | (full & hopeless),
                          cache=jax.tree.map(lambda leaf: jnp.take(leaf, rows.reshape(-1), axis=1), cache))

    last = jax.lax.while_loop(unfinished, step, start)
    # what is still open has reached max_length; of examples that are done nothing counts but what has ended
    open_scores = last.open.scores / jnp.float32(steps + 1)**config.length_penalty
    still_open = last.open.replace(scores=jnp.where(last.done[:, None], -jnp.inf, open_scores))
    best = _best(last.finished, still_open, config.num_return_sequences)
    return Decoded(best.tokens, best.scores, best.records)


def _first_beams(tokens_to_logits: TokensToLogits, cache: Any, batch: int, config: DecodingConfig, special: SpecialTokens) -> _BeamState:
    """Makes the state before the first step: one open beam an example, none finished."""
    beams = config.num_beams
    position = jnp.zeros((), jnp.int32)
    token = jnp.full((batch, beams), special.start, jnp.int32)
    _, _, record = jax.eval_shape(tokens_to_logits, token.reshape(-1), position, cache)
    records = jax.tree.map(lambda leaf: jnp.zeros((batch, beams, *leaf.shape[1:]), leaf.dtype), record)
    tokens = jnp.full((batch, beams, config.steps), special.pad, jnp.int32)
    first_only = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, _HOPELESS), (batch, beams)).astype(jnp.float32)
    return _BeamState(position=position, token=token, open=_Hypotheses(tokens, first_only, records),
                      finished=_Hypotheses(tokens, jnp.full((batch, beams), -jnp.inf), records), done=jnp.zeros((batch,), bool),
                      cache=cache)


def _candidates(logits: Array, state: _BeamState, config: DecodingConfig, special: SpecialTokens,
                prefix: Prefix | None) -> tuple[Array, Array, Array]:
    """Finds the 2 * beams likeliest continuations, best first, from logits [batch * beams, vocab].

    Returns:
      Summed scores float32, parent beams int32 and tokens int32, each [batch, 2 * beams].
    """
    batch, beams = state.token.shape
    kept = min(2 * beams, logits.shape[-1])  # of each beam: more of one are never among the best of all
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    logits = _allowed(logits, state.position, config.min_length, special.eos, prefix)
    values, tokens = jax.lax.top_k(logits, kept)  # [batch * beams, kept]
    values = (values - normaliser).reshape(batch, beams, kept) + state.open.scores[..., None]
    # over all beams of an example at once: place = parent * kept + rank within the parent
    scores, places = jax.lax.top_k(values.reshape(batch, -1), 2 * beams)
    return scores, places // kept, jnp.take_along_axis(tokens.reshape(batch, -1), places, axis=1)


def _extend(hypotheses: _Hypotheses, scores: Array, parents: Array, tokens: Array, position: Array) -> _Hypotheses:
    """Appends tokens [batch, candidates] to the beams `parents` of the same shape, with these new scores."""
    chosen = _pick(hypotheses, parents)
    return chosen.replace(tokens=jax.lax.dynamic_update_index_in_dim(chosen.tokens, tokens, position, axis=2), scores=scores)


def _add_finished(state: _BeamState, candidates: _Hypotheses, is_eos: Array, length: Array, config: DecodingConfig) -> _Hypotheses:
    """Adds candidates that end now (is_eos [batch, candidates] bool) to the finished ones, and keeps the best."""
    ranks = jnp.arange(is_eos.shape[1])
    counts = is_eos & (ranks < config.num_beams) & ~state.done[:, None]
    ended = candidates.replace(scores=jnp.where(counts, candidates.scores / length**config.length_penalty, -jnp.inf))
    return _best(state.finished, ended, config.num_beams)


def _best(one: _Hypotheses, other: _Hypotheses, count: int) -> _Hypotheses:
    """Keeps the `count` best of both, best first; of equals, those of `one` and earlier ones go first."""
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), one, other)
    return _pick(together, jax.lax.top_k(together.scores, count)[1])


def _pick(hypotheses: _Hypotheses, places: Array) -> _Hypotheses:
    """Takes the beams at `places` [batch, n] int32: every leaf [batch, beams, ...] becomes [batch, n, ...]."""
    def take(leaf: Array) -> Array:
        index = places.reshape(*places.shape, *[1] * (leaf.ndim - 2))  # [batch, n, 1, ...]
        return jnp.take_along_axis(leaf, index, axis=1)

    return jax.tree.map(take, hypotheses)


def _allowed(logits: Array, position: Array, min_length: int, eos_id: int, prefix: Prefix | None) -> Array:
    """Sets logits [rows, vocab] to -inf for tokens that may not follow the one at `position`, a scalar int32.

    Forbidden are eos before min_length, and all but the prefix's token while there is one, even if that is eos.
    """
    if prefix is not None and prefix.tokens.shape[1] == 0:
        prefix = None
    if min_length <= 1 and prefix is None:
        return logits
    token_ids = jnp.arange(logits.shape[-1])
    # With eos next, the sequence would be position + 1 long: the start token counts and eos does not.
    forbidden = (token_ids == eos_id) & (position + 1 < min_length)
    if prefix is not None:
        # [rows, 1]; past the prefix's end the last column, which is not used then
        forced = jax.lax.dynamic_index_in_dim(prefix.tokens, position, axis=1)
        forbidden = jnp.where((position < prefix.lengths)[:, None], token_ids != forced, forbidden)
    return jnp.where(forbidden, -jnp.inf, logits)


def _beside(rows: Array, values: Array) -> Array:
    """Reshapes [rows] to [rows, 1, ...], to be broadcast with values [rows, ...]."""
    return rows.reshape(-1, *[1] * (values.ndim - 1))
