"""The reader's cross entropy."""

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_vjp
def token_nll(logits: Array, targets: Array) -> Array:
    """Negative log likelihood of each target token.

    Args:
      logits: [..., length, vocab] float; the loss is computed in float32.
      targets: [..., length] int32 in [0, vocab).

    Returns:
      [..., length] float32, also on padding: multiply by the targets' weights.
    """
    return _forward(logits, targets)[0]


def reader_loss(nll: Array, weights: Array) -> Array:
    """Mean over all target tokens of the batch, not of each example.

    Args:
      nll: [batch, length] float32.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere; a filler example has none.

    Returns:
      Scalar float32; 0 where every weight is 0.
    """
    return jnp.sum(nll * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _forward(logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """The loss as `token_nll`; and float32 logits, their logsumexp [..., length] and the targets, for the gradient."""
    logits = logits.astype(jnp.float32)
    log_total = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_total - chosen, (logits, log_total, targets)


def _forward_saving(logits: Array, targets: Array):
    nll, saved = _forward(logits, targets)
    return nll, (*saved, jnp.zeros((), logits.dtype))  # the scalar carries the dtype: saved values must be arrays


def _backward(saved, gradient: Array):
    """softmax(logits) - one_hot(targets) in one pass over the vocabulary, where the gather's own transpose would be a scatter."""
    logits, log_total, targets, like = saved
    # softmax from the saved logsumexp: no second reduction over the vocabulary
    probabilities = jnp.exp(logits - log_total[..., None])
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    return ((probabilities - is_target) * gradient[..., None]).astype(like.dtype), None


token_nll.defvjp(_forward_saving, _backward)
