"""Retrieval and answering in PyTorch: flat search, inputs put together on the host, Hugging Face's generate."""

from collections.abc import Iterator

import numpy as np
import torch

from atlas_jax.compare.pytorch import joint_step, padding


def flat_search(embeddings: torch.Tensor, queries: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inner products with every row: (scores, rows) [batch, top_k], best first."""
    return torch.topk(queries @ embeddings.T, top_k, dim=1)


@torch.inference_mode()
def embed_passages(model: joint_step.Model, ids: np.ndarray, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """Embeddings [n, dim] of passages ids [n, width] of these lengths [n], `batch_size` at a time, in the variant's order and padding."""
    order = np.argsort(-lengths, kind='stable') if model.variant.sorted_embedding else np.arange(len(lengths))
    parts = [model.embed(rows).float().cpu().numpy() for rows in _chunks(model, ids[order], lengths[order], batch_size)]
    embeddings = np.concatenate(parts)
    result = np.empty_like(embeddings)
    result[order] = embeddings
    return result


@torch.inference_mode()
def answer(model: joint_step.Model, index: torch.Tensor, queries: padding.Rows, assemble, n_context: int, max_length: int,
           beams: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the queries, searches, reads, decodes.

    Args:
      index: [rows, dim] embeddings.
      queries: of the retriever, [batch, length].
      assemble: passage rows [batch, n_context] int -> reader inputs (ids, mask), each [batch, n_context, width].

    Returns:
      Sequences [batch, <= max_length] with the start token first, and the passages' rows [batch, n_context].
    """
    found = flat_search(index, model.embed(queries), n_context)[1].cpu().numpy()
    passages = padding.rows(*assemble(found), model.variant.pad_to, model.device)
    memory = model.reader.fuse(model.reader.encode(passages), found.shape[0])
    return model.reader.generate(memory, max_length, beams).cpu().numpy(), found


def _chunks(model: joint_step.Model, ids: np.ndarray, lengths: np.ndarray, size: int) -> Iterator[padding.Rows]:
    pad_to = model.variant.pad_to
    capped = None if pad_to is None else min(pad_to, model.retriever.bert.config.max_position_embeddings)
    for start in range(0, len(lengths), size):
        mask = np.arange(ids.shape[1]) < lengths[start:start + size, None]
        yield padding.rows(ids[start:start + size], mask, capped, model.device)
