"""Beam search, by the rules that the original's library had (transformers 4.18; docs/design.md, section 6)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax.decoding import sequences
from atlas_jax.decoding.config import DecodingConfig

Array = jax.Array

_HOPELESS = -1e9  # of all beams but the first at the start, or every beam would begin with the same token


@struct.dataclass
class _Hypotheses:
    """Sequences [batch, beams, ...] with their scores [batch, beams] float32 and summed records."""

    tokens: Array
    scores: Array
    records: Any


@struct.dataclass
class _State:
    """Open beams score the sum of their log likelihoods; finished ones are divided by their length, -inf where there is none yet."""

    position: Array  # scalar int32
    token: Array  # [batch, beams] int32, the last of each open beam
    open: _Hypotheses
    finished: _Hypotheses
    done: Array  # [batch] bool
    cache: Any


def beam_search(tokens_to_logits: sequences.TokensToLogits, cache: Any, batch: int, config: DecodingConfig,
                special: sequences.SpecialTokens, prefix: sequences.Prefix | None = None) -> sequences.Decoded:
    """Keeps the `num_beams` likeliest open sequences at each step, and the best `num_beams` that have ended.

    Of 2 * num_beams candidates those that end count only from the first num_beams ranks. An example is done when as many sequences have
    ended and none of them is worse than the best candidate would be at its present length. What is open at max_length counts as ended.
    What may not come (eos before min_length, all but the prefix) is ruled out after the softmax: the rest is not normalised anew.

    Args:
      tokens_to_logits: see sequences.py; `num_beams` rows an example.
      cache: what the first call gets, of batch * num_beams rows and with room for `max_length - 1` positions.
      config: all of it; max_length must be set.
      prefix: one row an example, or None.

    Returns:
      `num_return_sequences` sequences an example.
    """
    beams, steps = config.num_beams, config.max_length - 1
    prefix = None if prefix is None else prefix.repeat(beams)
    token = jnp.full((batch, beams), special.start, jnp.int32)
    _, _, record = jax.eval_shape(tokens_to_logits, token.reshape(-1), jnp.zeros((), jnp.int32), cache)
    records = jax.tree.map(lambda leaf: jnp.zeros((batch, beams, *leaf.shape[1:]), leaf.dtype), record)
    tokens = jnp.full((batch, beams, steps), special.pad, jnp.int32)
    first_only = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, _HOPELESS), (batch, beams)).astype(jnp.float32)
    start = _State(position=jnp.zeros((), jnp.int32), token=token, open=_Hypotheses(tokens, first_only, records),
                   finished=_Hypotheses(tokens, jnp.full((batch, beams), -jnp.inf), records), done=jnp.zeros((batch,), bool), cache=cache)

    def unfinished(state: _State):
        return (state.position < steps) & ~jnp.all(state.done)

    def step(state: _State) -> _State:
        logits, cache, record = tokens_to_logits(state.token.reshape(-1), state.position, state.cache)
        records = jax.tree.map(lambda total, new: total + new.reshape(total.shape), state.open.records, record)
        scores, parents, tokens = _candidates(logits, state, config, special, prefix)
        candidates = _extend(state.open.replace(records=records), scores, parents, tokens, state.position)
        length = (state.position + 1).astype(jnp.float32)  # the start token counted, the candidates' last one not
        finished = _add_finished(state, candidates, tokens == special.eos, length, config)
        # the best candidates that go on, in their order
        goes_on = jnp.argsort(tokens == special.eos, axis=-1, stable=True)[:, :beams]
        rows = jnp.arange(batch)[:, None] * beams + jnp.take_along_axis(parents, goes_on, axis=1)
        full = jnp.all(jnp.isfinite(finished.scores), axis=-1)
        hopeless = jnp.min(finished.scores, axis=-1) >= scores[:, 0] / length**config.length_penalty
        return _State(position=state.position + 1, token=jnp.take_along_axis(tokens, goes_on, axis=1),
                      open=_pick(candidates, goes_on), finished=finished, done=state.done | (full & hopeless),
                      cache=jax.tree.map(lambda leaf: jnp.take(leaf, rows.reshape(-1), axis=1), cache))

    last = jax.lax.while_loop(unfinished, step, start)
    open_scores = last.open.scores / jnp.float32(config.max_length)**config.length_penalty
    still_open = last.open.replace(scores=jnp.where(last.done[:, None], -jnp.inf, open_scores))
    best = _best(last.finished, still_open, config.num_return_sequences)
    return sequences.Decoded(best.tokens, best.scores, best.records)


def _candidates(logits: Array, state: _State, config: DecodingConfig, special: sequences.SpecialTokens, prefix: sequences.Prefix | None):
    """The 2 * beams likeliest continuations, best first: summed scores, parent beams and tokens, each [batch, 2 * beams]."""
    batch, beams = state.token.shape
    kept = min(2 * beams, logits.shape[-1])  # of each beam
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    logits = sequences.allowed(logits, state.position, config.min_length, special.eos, prefix)
    values, tokens = jax.lax.top_k(logits, kept)  # [batch * beams, kept]
    values = (values - normaliser).reshape(batch, beams, kept) + state.open.scores[..., None]
    scores, places = jax.lax.top_k(values.reshape(batch, -1), 2 * beams)
    return scores, places // kept, jnp.take_along_axis(tokens.reshape(batch, -1), places, axis=1)


def _extend(hypotheses: _Hypotheses, scores: Array, parents: Array, tokens: Array, position: Array) -> _Hypotheses:
    chosen = _pick(hypotheses, parents)
    return chosen.replace(tokens=jax.lax.dynamic_update_index_in_dim(chosen.tokens, tokens, position, axis=2), scores=scores)


def _add_finished(state: _State, candidates: _Hypotheses, is_eos: Array, length: Array, config: DecodingConfig) -> _Hypotheses:
    ranks = jnp.arange(is_eos.shape[1])
    counts = is_eos & (ranks < config.num_beams) & ~state.done[:, None]
    ended = candidates.replace(scores=jnp.where(counts, candidates.scores / length**config.length_penalty, -jnp.inf))
    return _best(state.finished, ended, config.num_beams)


def _best(one: _Hypotheses, other: _Hypotheses, count: int) -> _Hypotheses:
    """The `count` best of both, best first; of equals the one that was there before."""
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), one, other)
    return _pick(together, jax.lax.top_k(together.scores, count)[1])


def _pick(hypotheses: _Hypotheses, places: Array) -> _Hypotheses:
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, places.reshape(*places.shape, *(1,) * (leaf.ndim - 2)), axis=1), hypotheses)
