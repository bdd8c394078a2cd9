"""Contrastive losses of a retriever: InfoNCE over the passages of a batch, and MoCo's loss over a
queue of earlier passages.

Sources: Izacard et al. 2021, arXiv 2112.09118, section 3; MoCo: He et al. 2019, arXiv 1911.05722.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Far below any logit, and finite, so that the gradient of a masked passage is not NaN.
_MASKED = -1e30


def info_nce(logits: Array, positives: Array, there: Array | None = None, *,
             label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """Returns the mean cross entropy of the rows' positives, and the share of rows whose positive
    has the highest score.

    Args:
      logits: [rows, columns] float32, similarities divided by the temperature.
      positives: [rows] int32, the column of each row's positive.
      there: [rows, columns] bool, False for columns that a row must ignore; None ignores none. The
        positive is never ignored.
      label_smoothing: share of the target that is spread evenly over all columns of a row that are
        not ignored, including the positive.

    Returns:
      Two scalars float32.
    """
    columns = jnp.arange(logits.shape[1], dtype=jnp.int32)
    # A comparison instead of a gather, whose gradient would be a scatter.
    is_positive = columns == positives[:, None]
    there = jnp.ones(logits.shape, bool) if there is None else there | is_positive
    logits = jnp.where(there, logits, _MASKED)
    log_likelihoods = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    loss = -jnp.sum(jnp.where(is_positive, log_likelihoods, 0.0), axis=-1)  # [rows]
    # Skipped at 0, since it costs a pass over all logits.
    if label_smoothing:
        evenly = -jnp.sum(jnp.where(there, log_likelihoods, 0.0), axis=-1) / jnp.sum(there, axis=-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * evenly
    # The first column wins a tie, so a positive after an equal passage counts as wrong.
    right = jnp.argmax(logits, axis=-1) == positives
    return jnp.mean(loss), jnp.mean(right.astype(jnp.float32))


def in_batch_loss(queries: Array, passages: Array, identities: Array | None = None,
                  positives: Array | None = None, *, temperature: float,
                  label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """Computes InfoNCE with all other passages of the batch, on all devices, as negatives. Returns
    loss and accuracy, scalars float32.

    Args:
      queries: [batch, dim] float32.
      passages: [batch, n, dim] float32; the first passage of an example is its positive, the others
        are hard negatives.
      identities: [batch, n] int32, equal for equal passages; -1 marks empty slots. None treats all
        passages as different.
      positives: [batch, p] int32, identities of all positives of an example, including its first
        passage; -1 past the last. They are not negatives of the example. None: the first passage is
        the only positive.
      temperature: positive; divides the inner products.
      label_smoothing: see info_nce.
    """
    batch, n = passages.shape[:2]
    flat = passages.reshape(batch * n, -1)  # [batch * n, dim]
    # b queries, p passages of all examples
    logits = jnp.einsum('bd,pd->bp', queries, flat) / temperature
    # Questions from one page share passages. Without this mask a positive, or another passage that
    # answers too, would also be a negative.
    there = None
    if identities is not None:
        columns = identities.reshape(-1)
        positives = identities[:, :1] if positives is None else positives
        # [batch, batch * n]
        there = (columns >= 0) & ~jnp.any(columns[None, :, None] == positives[:, None, :], axis=-1)
    own = jnp.arange(batch, dtype=jnp.int32) * n
    return info_nce(logits, own, there, label_smoothing=label_smoothing)


def moco_loss(queries: Array, keys: Array, queue: Array, *, temperature: float,
              label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """Computes InfoNCE with keys of earlier batches as negatives. Returns loss and accuracy,
    scalars float32.

    Args:
      queries: [batch, dim] float32.
      keys: [batch, dim] float32, embeddings by the momentum encoder, without gradient.
      queue: [queue_size, dim] float32, keys of earlier batches, without gradient.
      temperature: positive; divides the inner products.
      label_smoothing: see info_nce.
    """
    keys, queue = jax.lax.stop_gradient((keys, queue))
    positive = jnp.einsum('bd,bd->b', queries, keys) / temperature
    negative = jnp.einsum('bd,qd->bq', queries, queue) / temperature
    # The positive is not concatenated with the negatives, whose columns are spread over devices
    # like the queue's rows.
    total = jnp.logaddexp(positive, jax.nn.logsumexp(negative, axis=-1))  # [batch]
    loss = total - positive
    if label_smoothing:
        evenly = total - (positive + jnp.sum(negative, axis=-1)) / (queue.shape[0] + 1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * evenly
    # Strictly greater: a retriever that embeds everything alike has accuracy 0.
    right = positive > jnp.max(negative, axis=-1)
    return jnp.mean(loss), jnp.mean(right.astype(jnp.float32))


def enqueue(queue: Array, pointer: Array, keys: Array) -> tuple[Array, Array]:
    """Writes keys [batch, dim] over the oldest rows of a queue [queue_size, dim], from `pointer`
    on. Returns the queue and the new pointer, scalar int32.

    The batch size divides the queue size, and the pointer is a multiple of the batch size.
    """
    queue_size, batch = queue.shape[0], keys.shape[0]
    # Every row selects its key: rows are spread over devices, and a slice update would gather them.
    offsets = (jnp.arange(queue_size, dtype=jnp.int32) - pointer) % queue_size
    written = jnp.take(keys, jnp.minimum(offsets, batch - 1), axis=0)  # [queue_size, dim]
    return jnp.where((offsets < batch)[:, None], written, queue), (pointer + batch) % queue_size


def momentum_update(momentum_params: dict[str, Any], params: dict[str, Any],
                    momentum: Array | float) -> dict[str, Any]:
    """Returns momentum * momentum_params + (1 - momentum) * params, trees of arrays [...], in the
    dtype of momentum_params.
    """
    # Computed in float32: bfloat16 would lose a change of one part in two thousand.
    def move(slow: Array, fast: Array) -> Array:
        return (momentum * slow.astype(jnp.float32) +
                (1.0 - momentum) * fast.astype(jnp.float32)).astype(slow.dtype)

    return jax.tree.map(move, momentum_params, params)
