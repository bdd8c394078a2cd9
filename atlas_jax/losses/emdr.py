"""EMDR2: the retriever learns from the likelihood of the target, the passage unknown. Source: Sachan et al. 2021, arXiv 2106.05346."""

import jax
import jax.numpy as jnp

from atlas_jax.losses import distill

Array = jax.Array


def emdr_loss(scores: Array, log_likelihoods: Array, weights: Array, *, temperature_score: float) -> Array:
    """Minus the log likelihood of each target token, summed over passages by the retriever's probability; the mean over target tokens.

    Args:
      scores: [batch, n] float32, the retriever's; -inf marks a passage that is not there.
      log_likelihoods: [batch, n, length] float32 of each target token given one passage alone, from logits that were divided by the gold
        temperature; no gradient flows into them, and what stands where the score is -inf is ignored.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere; a filler example has none.
      temperature_score: positive.

    Returns:
      Scalar float32; 0 where every weight is 0. The tokens of an example without passages add 0, and count.
    """
    there = ~jnp.isneginf(scores)
    masked = jnp.where(there, scores / temperature_score, distill.MASKED)
    log_q = jnp.where(there, jax.nn.log_softmax(masked, axis=-1), 0.0)
    log_p = jnp.where(there[..., None], jax.lax.stop_gradient(log_likelihoods), 0.0)
    joint = jnp.where(there[..., None], log_p + log_q[..., None], distill.MASKED)  # [batch, n, length]
    counts = (weights > 0) & jnp.any(there, axis=-1)[:, None]
    of_token = jnp.where(counts, jax.nn.logsumexp(jnp.where(counts[:, None], joint, 0.0), axis=1), 0.0)  # [batch, length]
    return -jnp.sum(of_token * weights) / jnp.maximum(jnp.sum(weights), 1.0)
