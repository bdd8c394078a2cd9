"""Reader loss, gold scores and distillation loss in PyTorch (Izacard et al. 2022, section 2.2)."""

import torch

GOLD_SCORE_MODES = ('pdist', 'emdr', 'loop', 'adist')

# what the attention scores are divided by, beside layers and target tokens
_ATTENTION_SCALE = 256


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[..., length] from logits [..., length, vocab] and targets [..., length] int64."""
    precise = logits.float() if logits.dtype == torch.bfloat16 else logits
    nll = torch.nn.functional.cross_entropy(precise.flatten(0, -2), targets.flatten(), reduction='none')
    return nll.view(targets.shape)


def reader_loss(nll: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over all target tokens of the batch."""
    return (nll * weights).sum() / weights.sum()


@torch.no_grad()
def gold_scores(mode: str, reader, memory, batch: int, n: int, decoder_ids: torch.Tensor, targets: torch.Tensor,
                weights: torch.Tensor) -> torch.Tensor:
    """The reader's score of each passage [batch, n], without gradient.

    Args:
      mode: pdist, loop or adist.
      reader: of baseline/readers.py.
      memory: one row a passage.
      decoder_ids, targets, weights: [batch, target_length].
    """
    if mode == 'pdist':
        return -_mean_nll(each_passage_nll(reader, memory, n, decoder_ids, targets), weights)
    if mode == 'loop':
        losses = [token_nll(reader.decode(reader.fuse(memory, batch, without=j), decoder_ids), targets) for j in range(n)]
        return _mean_nll(torch.stack(losses, dim=1), weights)
    attention = reader.cross_attention_norms(reader.fuse(memory, batch), decoder_ids)  # [batch, target_length, n * length]
    by_passage = (attention * weights[..., None]).sum(dim=1).view(batch, n, -1).sum(dim=-1)
    return by_passage / (_ATTENTION_SCALE * len(reader.t5.decoder.block) * weights.sum(dim=1, keepdim=True))


@torch.no_grad()
def each_passage_log_likelihood(reader, memory, n: int, decoder_ids: torch.Tensor, targets: torch.Tensor,
                                temperature: float) -> torch.Tensor:
    """Log likelihood of each target token given each passage alone, logits / temperature: [batch, n, target_length]."""
    return -each_passage_nll(reader, memory, n, decoder_ids, targets, temperature)


def each_passage_nll(reader, memory, n: int, decoder_ids: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """[batch, n, target_length]: the decoder sees one passage at a time."""
    logits = reader.decode(memory, decoder_ids.repeat_interleave(n, dim=0))
    logits = logits / temperature if temperature != 1 else logits
    return token_nll(logits, targets.repeat_interleave(n, dim=0)).view(-1, n, targets.shape[1])


def distillation_loss(scores: torch.Tensor, gold: torch.Tensor, temperature_score: float, temperature_gold: float) -> torch.Tensor:
    """KL divergence of the retriever's distribution from the reader's, divided by batch * passages."""
    log_p = torch.log_softmax(gold / temperature_gold, dim=-1)
    log_q = torch.log_softmax(scores / temperature_score, dim=-1)
    return (log_p.exp() * (log_p - log_q)).mean()


def emdr_loss(scores: torch.Tensor, log_likelihood: torch.Tensor, weights: torch.Tensor, temperature_score: float) -> torch.Tensor:
    """Minus the mean log likelihood of the target tokens, marginalised over passages (log_likelihood [batch, n, target_length])."""
    log_q = torch.log_softmax(scores / temperature_score, dim=-1)
    marginal = torch.logsumexp(log_likelihood + log_q[..., None], dim=1)  # [batch, target_length]
    return -(marginal * weights).sum() / weights.sum()


def _mean_nll(nll: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[batch, n, target_length] to [batch, n]."""
    return (nll * weights[:, None]).sum(dim=-1) / weights.sum(dim=-1, keepdim=True)
