"""Contrastive losses of a retriever: InfoNCE over the passages of a batch, and MoCo's over a queue of earlier ones.

Sources: Izacard et al. 2021, arXiv 2112.09118, section 3; MoCo: He et al. 2019, arXiv 1911.05722.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Far below any logit, and finite: a masked passage must not make a NaN of the gradient.
_MASKED = -1e30


def info_nce(logits: Array, positives: Array, there: Array | None = None, *, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """Returns the mean cross entropy of each row's positive, and the share of rows whose positive scores highest.

    Args:
      logits: [rows, columns] float32, similarities divided by the temperature.
      positives: [rows] int32, the column of each row's positive.
      there: [rows, columns] bool, False for columns that are no passage of this row; None for all. The positive is always there.
      label_smoothing: this share of the target is spread evenly over all columns that are there, the positive among them.

    Returns:
      Two scalars float32.
    """
    columns = jnp.arange(logits.shape[1], dtype=jnp.int32)
    is_positive = columns == positives[:, None]  # a comparison in place of a gather, whose gradient would be a scatter
    there = jnp.ones(logits.shape, bool) if there is None else there | is_positive
    logits = jnp.where(there, logits, _MASKED)
    log_likelihoods = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    loss = -jnp.sum(jnp.where(is_positive, log_likelihoods, 0.0), axis=-1)  # [rows]
    # Skipped at 0: it is a pass over all logits.
    if label_smoothing:
        evenly = -jnp.sum(jnp.where(there, log_likelihoods, 0.0), axis=-1) / jnp.sum(there, axis=-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * evenly
    # Of equal scores the first column counts, so a positive behind its double is not found.
    right = jnp.argmax(logits, axis=-1) == positives
    return jnp.mean(loss), jnp.mean(right.astype(jnp.float32))


def in_batch_loss(queries: Array, passages: Array, identities: Array | None = None, positives: Array | None = None, *,
                  temperature: float, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """InfoNCE in which every other passage of the batch is a negative, of whichever device; returns loss and accuracy, scalars float32.

    Args:
      queries: [batch, dim] float32.
      passages: [batch, n, dim] float32; of an example's passages the first is its positive, the others are hard negatives.
      identities: [batch, n] int32, equal for equal passages and -1 for empty places. None takes all passages for different ones.
      positives: [batch, p] int32, the identities of all positives of an example, of which the first passage is one; -1 past the last. None
        of them is its negative. None: the first passage is the only one.
      temperature: positive; divides the inner products.
      label_smoothing: see info_nce.
    """
    batch, n = passages.shape[:2]
    flat = passages.reshape(batch * n, -1)  # [batch * n, dim]
    logits = jnp.einsum('bd,pd->bp', queries, flat) / temperature  # b queries, p passages of all examples
    # Questions of one page share their passages: as a negative one would be told from itself, or from another that answers as well.
    there = None
    if identities is not None:
        columns, positives = identities.reshape(-1), identities[:, :1] if positives is None else positives
        there = (columns >= 0) & ~jnp.any(columns[None, :, None] == positives[:, None, :], axis=-1)  # [batch, batch * n]
    return info_nce(logits, jnp.arange(batch, dtype=jnp.int32) * n, there, label_smoothing=label_smoothing)


def moco_loss(queries: Array, keys: Array, queue: Array, *, temperature: float, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """InfoNCE in which the negatives are keys of earlier batches; returns loss and accuracy, scalars float32.

    Args:
      queries: [batch, dim] float32.
      keys: [batch, dim] float32, of the momentum encoder; no gradient flows into them.
      queue: [queue_size, dim] float32, keys of earlier batches; no gradient either.
      temperature: positive; divides the inner products.
      label_smoothing: see info_nce.
    """
    keys, queue = jax.lax.stop_gradient((keys, queue))
    positive = jnp.einsum('bd,bd->b', queries, keys) / temperature
    negative = jnp.einsum('bd,qd->bq', queries, queue) / temperature
    # The positive is not put beside the negatives: their columns are spread over devices as the queue's rows are.
    total = jnp.logaddexp(positive, jax.nn.logsumexp(negative, axis=-1))  # [batch]
    loss = total - positive
    if label_smoothing:
        evenly = total - (positive + jnp.sum(negative, axis=-1)) / (queue.shape[0] + 1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * evenly
    # Strictly: a retriever that embeds everything alike is right nowhere.
    right = positive > jnp.max(negative, axis=-1)
    return jnp.mean(loss), jnp.mean(right.astype(jnp.float32))


def enqueue(queue: Array, pointer: Array, keys: Array) -> tuple[Array, Array]:
    """Writes keys [batch, dim] over the oldest rows of a queue [queue_size, dim]; returns the queue and the pointer, scalar int32, behind.

    The batch divides the queue, and the pointer is a multiple of the batch.
    """
    queue_size, batch = queue.shape[0], keys.shape[0]
    # Every row asks which key it gets: rows are spread over devices, and an update of a slice would gather them all.
    offsets = (jnp.arange(queue_size, dtype=jnp.int32) - pointer) % queue_size
    written = jnp.take(keys, jnp.minimum(offsets, batch - 1), axis=0)  # [queue_size, dim]
    return jnp.where((offsets < batch)[:, None], written, queue), (pointer + batch) % queue_size


def momentum_update(momentum_params: dict[str, Any], params: dict[str, Any], momentum: Array | float) -> dict[str, Any]:
    """Returns momentum * momentum_params + (1 - momentum) * params, trees of arrays [...], in the dtype of the first."""
    # In float32 whatever the parameters are: a step of one part in two thousand is lost in bfloat16.
    def move(slow: Array, fast: Array) -> Array:
        return (momentum * slow.astype(jnp.float32) + (1.0 - momentum) * fast.astype(jnp.float32)).astype(slow.dtype)

    return jax.tree.map(move, momentum_params, params)
