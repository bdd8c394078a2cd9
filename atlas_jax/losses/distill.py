"""Distillation of the reader's judgement of passages into the retriever. Source: Izacard et al. 2022, section 2.2."""

import jax
import jax.numpy as jnp

Array = jax.Array

# Far below any log probability, and finite.
MASKED = -1e30


def pdist_gold_scores(nll: Array, weights: Array) -> Array:
    """Perplexity distillation (the original's `ppmean`): minus the mean loss of the target, the decoder seeing one passage alone.

    Args:
      nll: [batch, n, length] float32, of each target token given each passage.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere.

    Returns:
      [batch, n] float32; 0 for an example without target tokens.
    """
    return -loop_gold_scores(nll, weights)


def loop_gold_scores(nll: Array, weights: Array) -> Array:
    """Leave one out (the original's `loop`): the mean loss of the target, the decoder seeing every passage but one.

    Args:
      nll: [batch, n, length] float32, of each target token, each passage left out in turn.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere.

    Returns:
      [batch, n] float32; 0 for an example without target tokens.
    """
    total = jnp.sum(nll * weights[:, None], axis=-1)  # [batch, n]
    return total / jnp.maximum(jnp.sum(weights, axis=-1), 1.0)[:, None]


def distillation_loss(scores: Array, gold_scores: Array, *, temperature_score: float, temperature_gold: float,
                      example_weights: Array | None = None) -> Array:
    """KL divergence of the retriever's distribution over an example's passages from the reader's, an element mean.

    p = softmax(gold_scores / temperature_gold), q = softmax(scores / temperature_score); the loss is the sum of p (log p - log q) over
    all passages of all examples, divided by examples * n. A passage with score -inf was not retrieved: it has probability 0 on both
    sides, yet still counts in n, so that an example weighs the same however many passages it found.

    Args:
      scores: [batch, n] float32, the retriever's; -inf marks a passage that is not there.
      gold_scores: [batch, n] float32, the reader's; no gradient flows into them; ignored where the score is -inf.
      temperature_score, temperature_gold: positive.
      example_weights: [batch] float32; the sum and the number of examples are weighted by it, so weight 0 takes an example (a filler of
        the last batch) out of both. None weighs all 1.

    Returns:
      Scalar float32; 0 where every example weighs 0.
    """
    there = ~jnp.isneginf(scores)  # a NaN is not hidden
    log_q = log_softmax_by_uniform(jnp.where(there, scores, 0.0) / temperature_score, there)
    log_p = log_softmax_by_uniform(jnp.where(there, jax.lax.stop_gradient(gold_scores), 0.0) / temperature_gold, there)
    p = jnp.where(there, jnp.exp(log_p), 0.0) / _count(there)
    divergence = jnp.sum(p * (log_p - log_q), axis=-1)  # [batch]
    if example_weights is None:
        return jnp.mean(divergence) / scores.shape[-1]
    # A filler's divergence may be anything: 0 * inf would be NaN.
    weighted = jnp.where(example_weights > 0, divergence * example_weights, 0.0)
    total = jnp.sum(example_weights)
    return jnp.sum(weighted) / (jnp.where(total > 0, total, 1.0) * scores.shape[-1])


def log_softmax_by_uniform(logits: Array, there: Array) -> Array:
    """Log of softmax over the last axis divided by the uniform distribution, where `there`; zeros elsewhere.

    Distributions that teacher and retriever learn from are often close to uniform, and then a divergence is a small difference of large
    logarithms. These are small, and float32 keeps four more digits of the difference.

    Args:
      logits: [..., n] float32, finite or NaN.
      there: [..., n] bool.
    """
    count = _count(there)
    total = jnp.sum(jnp.where(there, logits, 0.0), axis=-1, keepdims=True)
    # No value depends on the centre, so no gradient does.
    centred = jnp.where(there, logits - jax.lax.stop_gradient(total / count), 0.0)
    near = jnp.max(jnp.abs(centred), axis=-1, keepdims=True) < 1
    by_difference = jnp.log1p(jnp.sum(jnp.expm1(jnp.where(near, centred, 0.0)), axis=-1, keepdims=True) / count)
    plain = jax.nn.logsumexp(jnp.where(there, centred, MASKED), axis=-1, keepdims=True) - jnp.log(count)
    return jnp.where(there, centred - jnp.where(near, by_difference, plain), 0.0)


def _count(there: Array) -> Array:
    return jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1).astype(jnp.float32)
