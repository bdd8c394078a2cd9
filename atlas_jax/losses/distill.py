"""Losses that train the retriever from the reader: distillation of gold scores, and EMDR2.

Source: Izacard et al. 2022, section 2.2; EMDR2: Sachan et al. 2021, arXiv 2106.05346.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

# Far below any log probability, and finite, because inf - inf is NaN.
_MASKED = -1e30


def pdist_gold_scores(nll: Array, weights: Array) -> Array:
    """Returns gold scores of perplexity distillation (the original's `ppmean`): minus the mean loss
    of the target given one passage.

    Args:
      nll: [batch, n, length] float32, negative log likelihood of each target token given each
        passage.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere.

    Returns:
      [batch, n] float32; 0 for an example without target tokens.
    """
    return -loop_gold_scores(nll, weights)


def loop_gold_scores(nll: Array, weights: Array) -> Array:
    """Returns gold scores of leave-one-out (the original's `loop`): the mean loss of the target
    given all passages but one.

    Args:
      nll: [batch, n, length] float32, negative log likelihood of each target token, with each
        passage left out in turn.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere.

    Returns:
      [batch, n] float32; 0 for an example without target tokens.
    """
    total = jnp.sum(nll * weights[:, None], axis=-1)  # [batch, n]
    return total / jnp.maximum(jnp.sum(weights, axis=-1), 1.0)[:, None]


def distillation_loss(scores: Array, gold_scores: Array, *, temperature_score: float,
                      temperature_gold: float, example_weights: Array | None = None) -> Array:
    """Computes the KL divergence of the retriever's distribution over an example's passages from
    the reader's, as a mean over examples and passages.

    With p = softmax(gold_scores / temperature_gold) and q = softmax(scores / temperature_score),
    the loss is the sum of p (log p - log q) over all passages of all examples, divided by examples
    * n. An empty slot has probability 0 on both sides but counts in n, so that an example's weight
    does not depend on its number of retrieved passages.

    Args:
      scores: [batch, n] float32, the retriever's scores; -inf marks empty slots.
      gold_scores: [batch, n] float32, the reader's scores, without gradient; ignored in empty
        slots.
      temperature_score, temperature_gold: positive.
      example_weights: [batch] float32, weights of examples in the sum and in the number of
        examples; 0 excludes a filler example. None weighs all examples 1.

    Returns:
      Scalar float32; 0 if every example has weight 0.
    """
    there = ~jnp.isneginf(scores)  # a NaN stays visible
    log_q = _log_softmax_by_uniform(jnp.where(there, scores, 0.0) / temperature_score, there)
    log_p = _log_softmax_by_uniform(
        jnp.where(there, jax.lax.stop_gradient(gold_scores), 0.0) / temperature_gold, there)
    p = jnp.where(there, jnp.exp(log_p), 0.0) / _count(there)
    divergence = jnp.sum(p * (log_p - log_q), axis=-1)  # [batch]
    if example_weights is None:
        return jnp.mean(divergence) / scores.shape[-1]
    # A filler's divergence may be infinite, and 0 * inf is NaN.
    weighted = jnp.where(example_weights > 0, divergence * example_weights, 0.0)
    total = jnp.sum(example_weights)
    return jnp.sum(weighted) / (jnp.where(total > 0, total, 1.0) * scores.shape[-1])


def emdr_loss(scores: Array, log_likelihoods: Array, weights: Array, *,
              temperature_score: float) -> Array:
    """Computes EMDR2: the mean negative log likelihood of the target tokens. A token's likelihood
    is the mean over passages, weighted by the retriever's probabilities.

    Args:
      scores: [batch, n] float32, the retriever's scores; -inf marks empty slots.
      log_likelihoods: [batch, n, length] float32, log likelihood of each target token given one
        passage, from logits divided by the gold temperature; without gradient; ignored in empty
        slots.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere; all 0 in a filler
        example.
      temperature_score: positive.

    Returns:
      Scalar float32; 0 if every weight is 0. Tokens of an example without passages have loss 0, and
      count in the mean.
    """
    there = ~jnp.isneginf(scores)
    masked = jnp.where(there, scores / temperature_score, _MASKED)
    log_q = jnp.where(there, jax.nn.log_softmax(masked, axis=-1), 0.0)
    log_p = jnp.where(there[..., None], jax.lax.stop_gradient(log_likelihoods), 0.0)
    joint = jnp.where(there[..., None], log_p + log_q[..., None], _MASKED)  # [batch, n, length]
    counts = (weights > 0) & jnp.any(there, axis=-1)[:, None]
    # [batch, length]
    of_token = jnp.where(counts, jax.nn.logsumexp(jnp.where(counts[:, None], joint, 0.0), axis=1),
                         0.0)
    return -jnp.sum(of_token * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _log_softmax_by_uniform(logits: Array, there: Array) -> Array:
    """Returns the log of softmax over the last axis divided by the uniform distribution.

    The distributions of reader and retriever are often close to uniform. A divergence is then a
    small difference of large logarithms. Relative to the uniform distribution the logarithms are
    small, and float32 keeps four more digits of the difference.

    Args:
      logits: [..., n] float32, finite or NaN.
      there: [..., n] bool, False on empty slots.

    Returns:
      [..., n] float32, 0 on empty slots.
    """
    count = _count(there)
    total = jnp.sum(jnp.where(there, logits, 0.0), axis=-1, keepdims=True)
    # The result does not depend on the centre, so it needs no gradient.
    centred = jnp.where(there, logits - jax.lax.stop_gradient(total / count), 0.0)
    near = jnp.max(jnp.abs(centred), axis=-1, keepdims=True) < 1
    by_difference = jnp.log1p(
        jnp.sum(jnp.expm1(jnp.where(near, centred, 0.0)), axis=-1, keepdims=True) / count)
    plain = jax.nn.logsumexp(jnp.where(there, centred, _MASKED), axis=-1,
                             keepdims=True) - jnp.log(count)
    return jnp.where(there, centred - jnp.where(near, by_difference, plain), 0.0)


def _count(there: Array) -> Array:
    """Counts True values over the last axis, at least 1: [..., n] bool to [..., 1] float32."""
    return jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1).astype(jnp.float32)
