"""GradCache: the gradient of a loss over all embeddings of a batch, with the activations of one chunk in memory at a time.

Source: Gao et al. 2021, arXiv 2101.06983.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Encode = Callable[[Any, Any], Any]
Loss = Callable[[Any], tuple[jax.Array, Any]]


def loss_and_gradients(encode: Encode, loss: Loss, params: Any, chunks: Any) -> tuple[tuple[jax.Array, Any], Any]:
    """Returns ((loss, what goes with it), gradients), as jax.value_and_grad does.

    The embeddings of all chunks come first, without gradient; then the loss and its gradient by them; then each chunk is encoded again, and
    its part of that gradient goes back to the parameters. Their sum is the gradient of the whole batch.

    Args:
      encode: (params, chunk) -> a tree of embeddings; what is random in it must depend on the chunk alone, for it is called twice.
      loss: the embeddings of all chunks, a tree of arrays [chunks, ...] -> (scalar loss, a tree that goes with it).
      params: a tree of arrays; the gradients are shaped like it.
      chunks: a tree of arrays [chunks, ...]; one chunk is computed at once, as if there were no cache.
    """
    count = jax.tree.leaves(chunks)[0].shape[0]
    # Without a second pass, which the cache costs.
    if count == 1:
        def whole(params: Any) -> tuple[jax.Array, Any]:
            embeddings = encode(params, jax.tree.map(lambda leaf: leaf[0], chunks))
            return loss(jax.tree.map(lambda leaf: leaf[None], embeddings))

        return jax.value_and_grad(whole, has_aux=True)(params)
    # A loop, so that one chunk is in memory at a time.
    embeddings = jax.lax.map(lambda chunk: encode(params, chunk), chunks)
    found, cached = jax.value_and_grad(loss, has_aux=True)(embeddings)

    def body(total: Any, part: tuple[Any, Any]) -> tuple[Any, None]:
        chunk, gradient = part
        # Linear in the embeddings' gradient: the parts add up to the whole batch's gradient.
        _, backward = jax.vjp(lambda params: encode(params, chunk), params)
        return jax.tree.map(jnp.add, total, backward(gradient)[0]), None

    # From zeros of the parameters' own types, as gradients have.
    total, _ = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, params), (chunks, cached))
    return found, total
