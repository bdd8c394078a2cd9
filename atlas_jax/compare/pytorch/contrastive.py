"""Contrastive training of a retriever in PyTorch, written from the papers: MoCo with its queue, or negatives of the batch; AdamW.

Izacard et al. 2021, arXiv 2112.09118, section 3; He et al. 2019, arXiv 1911.05722, algorithm 1.
"""

import copy
import dataclasses

import torch

from atlas_jax.compare.pytorch import models


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of the training; names and meanings are those of ContrastiveConfig and OptimizerConfig, the rate is constant."""

    temperature: float
    learning_rate: float
    momentum: float = 0.999
    label_smoothing: float = 0.0
    normalize_query: bool = False
    normalize_passage: bool = False
    weight_decay: float = 0.0
    epsilon: float = 1e-6


class Trainer:
    """A retriever in training.

    retriever  what is trained
    slow       MoCo's momentum encoder; None where the batch brings the negatives
    queue      [queue_size, dim], keys of earlier batches, none without MoCo, and `oldest` the row that is overwritten next
    """

    def __init__(self, retriever: models.Contriever, settings: Settings, queue: torch.Tensor | None = None):
        """Starts with the retriever's own weights as momentum encoder; without a queue the batch brings the negatives."""
        self.retriever, self.settings, self.oldest = retriever, settings, 0
        self.slow = None if queue is None else copy.deepcopy(retriever)
        self.queue = torch.zeros(0) if queue is None else queue
        self.optimizer = torch.optim.AdamW(retriever.parameters(), lr=settings.learning_rate, eps=settings.epsilon,
                                           weight_decay=settings.weight_decay)

    def step(self, queries: models.Rows, passages: models.Rows) -> float:
        """Makes one update and returns its loss.

        Args:
          queries: rows [batch, length].
          passages: rows [batch, n, length]; the first of an example is its positive. MoCo has one.
        """
        # In the papers' order: keys are those of the momentum encoder before it moves.
        self.optimizer.zero_grad()
        embedded = self._normalized(self.retriever(queries.ids, queries.mask), self.settings.normalize_query)
        keys = None
        if self.slow is None:
            flat = passages.flat
            compared = self._normalized(self.retriever(flat.ids, flat.mask), self.settings.normalize_passage)
            logits = embedded @ compared.T  # [batch, batch * n]
            targets = torch.arange(len(logits), device=logits.device) * passages.ids.shape[1]
        else:
            # No gradient flows into keys.
            with torch.no_grad():
                flat = passages.flat
                keys = self._normalized(self.slow(flat.ids, flat.mask), self.settings.normalize_passage)
            logits = torch.cat([(embedded * keys).sum(dim=1, keepdim=True), embedded @ self.queue.T], dim=1)  # [batch, 1 + queue_size]
            targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits / self.settings.temperature, targets,
                                                 label_smoothing=self.settings.label_smoothing)
        loss.backward()
        self.optimizer.step()
        if keys is not None:
            self._remember(keys)
        return loss.item()

    @torch.no_grad()
    def _remember(self, keys: torch.Tensor) -> None:
        """Moves the momentum encoder towards the retriever, and writes the keys [batch, dim] over the oldest of the queue."""
        assert self.slow is not None
        momentum = self.settings.momentum
        for slow, fast in zip(self.slow.parameters(), self.retriever.parameters(), strict=True):
            slow.mul_(momentum).add_(fast, alpha=1 - momentum)
        # A batch divides the queue, so it never wraps round.
        self.queue[self.oldest:self.oldest + len(keys)] = keys
        self.oldest = (self.oldest + len(keys)) % len(self.queue)

    @staticmethod
    def _normalized(embeddings: torch.Tensor, wanted: bool) -> torch.Tensor:
        return torch.nn.functional.normalize(embeddings, dim=-1) if wanted else embeddings
