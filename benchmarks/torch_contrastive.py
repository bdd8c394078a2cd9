"""Contrastive training of a retriever in PyTorch, written from the papers: MoCo with its queue, or in-batch negatives; AdamW.

Izacard et al. 2021, arXiv 2112.09118, section 3; He et al. 2019, arXiv 1911.05722, algorithm 1.
"""

import copy
import dataclasses

import torch

from atlas_jax.apps.compare.pytorch import torch_models


@dataclasses.dataclass(frozen=True)
class TorchContrastiveConfig:
    """Options of the training, named as in ContrastiveConfig and OptimizerConfig. The learning rate is constant."""

    temperature: float
    learning_rate: float
    momentum: float = 0.999
    label_smoothing: float = 0.0
    normalize_query: bool = False
    normalize_passage: bool = False
    weight_decay: float = 0.0
    epsilon: float = 1e-6


class ContrastiveTrainer:
    """A retriever in training.

    retriever  the encoder that is trained
    slow       MoCo's momentum encoder; None with in-batch negatives
    queue      [queue_size, dim], keys of earlier batches; empty without MoCo
    oldest     the row of the queue that is overwritten next
    """

    def __init__(self, retriever: torch_models.TorchContriever, settings: TorchContrastiveConfig,
                 queue: torch.Tensor | None = None):
        """Starts the momentum encoder with the retriever's weights. Without a queue, negatives come from the batch."""
        self.retriever, self.settings, self.oldest = retriever, settings, 0
        self.slow = None if queue is None else copy.deepcopy(retriever)
        self.queue = torch.zeros(0) if queue is None else queue
        self.optimizer = torch.optim.AdamW(retriever.parameters(), lr=settings.learning_rate,
                                           eps=settings.epsilon, weight_decay=settings.weight_decay)

    def step(self, queries: torch_models.Rows, passages: torch_models.Rows) -> float:
        """Makes one update and returns its loss.

        Args:
          queries: rows [batch, length].
          passages: rows [batch, n, length]; an example's first one is its positive. MoCo has one.
        """
        # The papers' order: the momentum encoder makes the keys before it moves.
        self.optimizer.zero_grad()
        embedded = self._normalized(self.retriever(queries.ids, queries.mask),
                                    self.settings.normalize_query)
        keys = None
        if self.slow is None:
            flat = passages.flat
            compared = self._normalized(self.retriever(flat.ids, flat.mask),
                                        self.settings.normalize_passage)
            logits = embedded @ compared.T  # [batch, batch * n]
            targets = torch.arange(len(logits), device=logits.device) * passages.ids.shape[1]
        else:
            # No gradient flows into keys.
            with torch.no_grad():
                flat = passages.flat
                keys = self._normalized(self.slow(flat.ids, flat.mask),
                                        self.settings.normalize_passage)
            # [batch, 1 + queue_size]
            logits = torch.cat([
                (embedded * keys).sum(dim=1, keepdim=True), embedded @ self.queue.T], dim=1)
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
        """Moves the momentum encoder towards the retriever, and overwrites the oldest rows of the queue with keys [batch, dim]."""
        assert self.slow is not None
        momentum = self.settings.momentum
        for slow, fast in zip(self.slow.parameters(), self.retriever.parameters(), strict=True):
            slow.mul_(momentum).add_(fast, alpha=1 - momentum)
        # The queue is a multiple of the batch, so no batch wraps round.
        self.queue[self.oldest:self.oldest + len(keys)] = keys
        self.oldest = (self.oldest + len(keys)) % len(self.queue)

    @staticmethod
    def _normalized(embeddings: torch.Tensor, wanted: bool) -> torch.Tensor:
        return torch.nn.functional.normalize(embeddings, dim=-1) if wanted else embeddings
