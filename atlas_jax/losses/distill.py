"""Losses by which the retriever learns from the reader: distillation of gold scores, and EMDR2.

Source: Izacard et al. 2022, section 2.2; EMDR2: Sachan et al. 2021, arXiv 2106.05346.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

# Far below any log probability, and finite: differences must not give inf - inf.
_MASKED = -1e30


def pdist_gold_scores(nll: Array, weights: Array) -> Array:
    """Gold scores of perplexity distillation (the original's `ppmean`): minus the mean loss of the target given one passage alone.

    Args:
      nll: [batch, n, length] float32, negative log likelihood of each target token given each passage.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere.

    Returns:
      [batch, n] float32; 0 for an example without target tokens.
    """
    return -loop_gold_scores(nll, weights)


def loop_gold_scores(nll: Array, weights: Array) -> Array:
    """Gold scores of leave-one-out (the original's `loop`): the mean loss of the target given every passage but one.

    Args:
      nll: [batch, n, length] float32, negative log likelihood of each target token, each passage left out in turn.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere.

    Returns:
      [batch, n] float32; 0 for an example without target tokens.
    """
    total = jnp.sum(nll * weights[:, None], axis=-1)  # [batch, n]
    return total / jnp.maximum(jnp.sum(weights, axis=-1), 1.0)[:, None]


def distillation_loss(scores: Array, gold_scores: Array, *, temperature_score: float, temperature_gold: float,
                      example_weights: Array | None = None) -> Array:
    """KL divergence of the retriever's distribution over an example's passages from the reader's, an element mean.

    With p = softmax(gold_scores / temperature_gold) and q = softmax(scores / temperature_score), the loss is the sum of p (log p - log q)
    over all passages of all examples, divided by examples * n. A passage with score -inf was not retrieved. It has probability 0 on both
    sides but counts in n, so that an example weighs the same however many passages it found.

    Args:
      scores: [batch, n] float32, the retriever's; -inf marks empty slots.
      gold_scores: [batch, n] float32, the reader's; no gradient flows into them; ignored where the score is -inf.
      temperature_score, temperature_gold: positive.
      example_weights: [batch] float32, weighs both the sum and the number of examples; 0 takes a filler of the last batch out of both.
        None weighs all 1.

    Returns:
      Scalar float32; 0 where every example weighs 0.
    """
    there = ~jnp.isneginf(scores)  # a NaN is not hidden
    log_q = _log_softmax_by_uniform(jnp.where(there, scores, 0.0) / temperature_score, there)
    log_p = _log_softmax_by_uniform(jnp.where(there, jax.lax.stop_gradient(gold_scores), 0.0) / temperature_gold, there)
    p = jnp.where(there, jnp.exp(log_p), 0.0) / _count(there)
    divergence = jnp.sum(p * (log_p - log_q), axis=-1)  # [batch]
    if example_weights is None:
        return jnp.mean(divergence) / scores.shape[-1]
    # A filler's divergence may be anything: 0 * inf would be NaN.
    weighted = jnp.where(example_weights > 0, divergence * example_weights, 0.0)
    total = jnp.sum(example_weights)
    return jnp.sum(weighted) / (jnp.where(total > 0, total, 1.0) * scores.shape[-1])


def emdr_loss(scores: Array, log_likelihoods: Array, weights: Array, *, temperature_score: float) -> Array:
    """EMDR2: negative log likelihood of each target token, its likelihood summed over passages; the mean over target tokens.

    Each passage's likelihood counts with the retriever's probability of it.

    Args:
      scores: [batch, n] float32, the retriever's; -inf marks empty slots.
      log_likelihoods: [batch, n, length] float32, of each target token given one passage alone, from logits that were divided by the gold
        temperature; no gradient flows into them; ignored where the score is -inf.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere; a filler example has none.
      temperature_score: positive.

    Returns:
      Scalar float32; 0 where every weight is 0. The tokens of an example without passages add 0, and count.
    """
    there = ~jnp.isneginf(scores)
    masked = jnp.where(there, scores / temperature_score, _MASKED)
    log_q = jnp.where(there, jax.nn.log_softmax(masked, axis=-1), 0.0)
    log_p = jnp.where(there[..., None], jax.lax.stop_gradient(log_likelihoods), 0.0)
    joint = jnp.where(there[..., None], log_p + log_q[..., None], _MASKED)  # [batch, n, length]
    counts = (weights > 0) & jnp.any(there, axis=-1)[:, None]
    of_token = jnp.where(counts, jax.nn.logsumexp(jnp.where(counts[:, None], joint, 0.0), axis=1), 0.0)  # [batch, length]
    return -jnp.sum(of_token * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _log_softmax_by_uniform(logits: Array, there: Array) -> Array:
    """Log of softmax over the last axis divided by the uniform distribution.

    The distributions of reader and retriever are often close to uniform, and then a divergence is a small difference of large logarithms.
    These logarithms are small, and float32 keeps four more digits of the difference.

    Args:
      logits: [..., n] float32, finite or NaN.
      there: [..., n] bool, False on empty slots.

    Returns:
      [..., n] float32, 0 on empty slots.
    """
    count = _count(there)
    total = jnp.sum(jnp.where(there, logits, 0.0), axis=-1, keepdims=True)
    # No value depends on the centre, so no gradient does.
    centred = jnp.where(there, logits - jax.lax.stop_gradient(total / count), 0.0)
    near = jnp.max(jnp.abs(centred), axis=-1, keepdims=True) < 1
    by_difference = jnp.log1p(jnp.sum(jnp.expm1(jnp.where(near, centred, 0.0)), axis=-1, keepdims=True) / count)
    plain = jax.nn.logsumexp(jnp.where(there, centred, _MASKED), axis=-1, keepdims=True) - jnp.log(count)
    return jnp.where(there, centred - jnp.where(near, by_difference, plain), 0.0)


def _count(there: Array) -> Array:
    """Number of True values over the last axis, at least 1: [..., n] bool to [..., 1] float32."""
    return jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1).astype(jnp.float32)
