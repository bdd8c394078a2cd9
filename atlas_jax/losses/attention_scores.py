"""One score for each passage from the decoder's cross attention. Source: Izacard et al. 2022,
section 2.2 (ADist); the original's options.

Attention is given per layer, target token and passage token, and is 0 on padding. A reduction turns
it into one score a passage. S is the sum over layers, and L the number of layers:

  sum      S over all tokens / (256 L targets)
  avg      S over all tokens / (passage tokens * L * targets)
  first    S of the first target token / (passage tokens * L)
  nosep    S on eos only / (256 L targets), despite the name
  woquery  S on tokens after the query / (256 L targets)
  top<k>   the k largest S for each target token / (k L targets)
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array

# Logits, probabilities, and probabilities times the norm of the value.
KINDS = ('scores', 'probs', 'norms')
REDUCTIONS = ('sum', 'avg', 'first', 'nosep', 'woquery', 'top5', 'top10', 'top20')
_TOKENS = 256  # the original divides by this constant instead of a passage's number of tokens


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A kind of attention, one of KINDS, and a reduction, one of REDUCTIONS."""

    kind: str
    reduction: str


STATISTICS = {
    kind + reduction: Statistic(kind, reduction) for kind in KINDS for reduction in REDUCTIONS}


def passage_scores(attention: Array, reduction: str, target_weights: Array, token_mask: Array, *,
                   eos_mask: Array | None = None, query_mask: Array | None = None,
                   padded_tokens: int | None = None) -> Array:
    """Reduces recorded attention to one score a passage.

    Args:
      attention: [layers, batch, target_length, n, longest] float32, the mean over heads.
      reduction: one of REDUCTIONS.
      target_weights: [batch, target_length] float32, 1 on target tokens and 0 elsewhere.
      token_mask: [batch, n, longest] bool, True on a passage's tokens.
      eos_mask: [batch, n, longest] bool, True on eos; `nosep` needs it.
      query_mask: [batch, n, longest] bool, True on the query; `woquery` needs it.
      padded_tokens: width to which the original pads a passage (its text_maxlength). Padding has
        attention 0 and competes for the top k. None takes `longest`.

    Returns:
      [batch, n] float32; 0 for a passage without tokens, and for an example without targets.

    Raises ValueError: the reduction needs a mask that was not given.
    """
    layers, longest = attention.shape[0], attention.shape[-1]
    is_target = target_weights > 0
    inside = is_target[:, :, None, None] & token_mask[:, None]  # [batch, target_length, n, longest]
    summed = jnp.where(inside, jnp.sum(attention, axis=0), 0.0)
    targets = jnp.maximum(jnp.sum(is_target, axis=-1), 1)[:, None]  # [batch, 1]
    tokens = jnp.maximum(jnp.sum(token_mask, axis=-1), 1)  # [batch, n]
    if reduction.startswith('top'):
        wanted = int(reduction.removeprefix('top'))
        width = min(longest + wanted, padded_tokens or longest)
        return _top(summed, wanted, width) / (wanted * layers * targets)
    if reduction == 'first':
        return jnp.sum(summed[:, 0], axis=-1) / (tokens * layers)
    if reduction == 'nosep':
        if eos_mask is None:
            raise ValueError('reduction "nosep" needs eos_mask')
        summed = jnp.where(eos_mask[:, None], summed, 0.0)
    elif reduction == 'woquery':
        if query_mask is None:
            raise ValueError('reduction "woquery" needs query_mask')
        summed = jnp.where(query_mask[:, None], 0.0, summed)
    total = jnp.sum(summed, axis=(1, 3))  # [batch, n]
    return total / (tokens * layers * targets if reduction == 'avg' else _TOKENS * layers * targets)


def _top(summed: Array, wanted: int, width: int) -> Array:
    """Sums the `wanted` largest values for each passage and target token, after padding with zeros
    to `width`.

    Args:
      summed: [batch, target_length, n, longest] float32.

    Returns:
      [batch, n] float32, the sum over target tokens.
    """
    longest = summed.shape[-1]
    # Logits may be negative, and padding is then larger. At most `wanted` zeros matter.
    padded = jnp.pad(summed, ((0, 0),) * 3 + ((0, max(width - longest, 0)),))[..., :width]
    return jnp.sum(jax.lax.top_k(padded, min(wanted, width))[0], axis=(1, 3))
