"""The reader's cross entropy."""

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_vjp
def token_nll(logits: Array, targets: Array) -> Array:
    """Computes the negative log likelihood of each target token.

    Args:
      logits: [..., length, vocab] float; the loss is computed in float32.
      targets: [..., length] int32 in [0, vocab).

    Returns:
      [..., length] float32. Padding has a loss too: multiply by the targets' weights.
    """
    return _forward(logits, targets)[0]


def reader_loss(nll: Array, weights: Array) -> Array:
    """Returns the mean loss over all target tokens of the batch; longer targets weigh more.

    Args:
      nll: [batch, length] float32.
      weights: [batch, length] float32, 1 on target tokens and 0 elsewhere; all 0 in a filler
        example.

    Returns:
      Scalar float32; 0 if every weight is 0.
    """
    return jnp.sum(nll * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _forward(logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Returns the loss of `token_nll`; and float32 logits, their logsumexp [..., length] and the
    targets for the gradient.
    """
    logits = logits.astype(jnp.float32)
    log_total = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_total - chosen, (logits, log_total, targets)


def _forward_saving(logits: Array, targets: Array):
    nll, saved = _forward(logits, targets)
    # A scalar carries the dtype, because saved values must be arrays.
    return nll, (*saved, jnp.zeros((), logits.dtype))


def _backward(saved, gradient: Array):
    """Returns softmax(logits) - one_hot(targets), in one pass over the vocabulary; the transposed
    gather would be a scatter.
    """
    logits, log_total, targets, like = saved
    # The saved logsumexp avoids a second reduction over the vocabulary.
    probabilities = jnp.exp(logits - log_total[..., None])
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    return ((probabilities - is_target) * gradient[..., None]).astype(like.dtype), None


token_nll.defvjp(_forward_saving, _backward)
