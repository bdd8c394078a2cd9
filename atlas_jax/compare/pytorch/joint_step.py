"""The joint train step in PyTorch (Izacard et al. 2022, section 2.2): reader loss, gold scores, distillation loss, joint clip, AdamW."""

import dataclasses
from typing import Any

import numpy as np
import torch
import transformers

from atlas_jax.compare.pytorch import flat, models, variants

# The original divides attention scores by this number, whatever a passage's length (docs/design.md, section 6).
_ATTENTION_SCALE = 256


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the negative log likelihood [..., length] of targets [..., length] int64 under logits [..., length, vocab]."""
    # bfloat16 keeps 8 bits: a softmax over the vocabulary needs more.
    precise = logits.float() if logits.dtype == torch.bfloat16 else logits
    nll = torch.nn.functional.cross_entropy(precise.flatten(0, -2), targets.flatten(), reduction='none')  # [tokens, vocab]
    return nll.view(targets.shape)


def reader_loss(nll: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the mean of nll [batch, length] over all target tokens of the batch: a scalar."""
    return (nll * weights).sum() / weights.sum()


@torch.no_grad()
def gold_scores(mode: str, reader: models.PaddedReader, memory: models.Memory, batch: int, n: int, decoder_ids: torch.Tensor,
                targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the reader's score of each passage [batch, n], without gradient.

    Args:
      mode: pdist, loop or adist.
      reader: padded or flat.
      memory: one row a passage.
      decoder_ids, targets, weights: [batch, target_length].
    """
    # A low loss with this passage alone makes it a good one, hence the minus.
    if mode == 'pdist':
        return -_mean_nll(each_passage_nll(reader, memory, n, decoder_ids, targets), weights)
    # The loss with a passage left out: a useful passage makes it large.
    if mode == 'loop':
        losses = [token_nll(reader.decode(reader.fuse(memory, batch, without=j), decoder_ids), targets) for j in range(n)]
        return _mean_nll(torch.stack(losses, dim=1), weights)
    # adist: attention over all passages at once, split by passage afterwards.
    attention = reader.cross_attention_norms(reader.fuse(memory, batch), decoder_ids)  # [batch, target_length, n * length]
    # [batch, n * length] to [batch, n]: tokens of the target, then tokens of each passage, are summed.
    by_passage = (attention * weights[..., None]).sum(dim=1).view(batch, n, -1).sum(dim=-1)
    return by_passage / (_ATTENTION_SCALE * len(reader.t5.decoder.block) * weights.sum(dim=1, keepdim=True))


@torch.no_grad()
def each_passage_log_likelihood(reader: models.PaddedReader, memory: models.Memory, n: int, decoder_ids: torch.Tensor,
                                targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns log likelihoods [batch, n, target_length] of the target tokens given each passage alone, from logits / temperature."""
    return -each_passage_nll(reader, memory, n, decoder_ids, targets, temperature)


def each_passage_nll(reader: models.PaddedReader, memory: models.Memory, n: int, decoder_ids: torch.Tensor, targets: torch.Tensor,
                     temperature: float = 1.0) -> torch.Tensor:
    """Returns negative log likelihoods [batch, n, target_length] of a decoder that sees one passage at a time."""
    # [batch, target_length] to [batch * n, target_length]: the passages of an example stand together in the memory's rows, too.
    logits = reader.decode(memory, decoder_ids.repeat_interleave(n, dim=0))
    # Skipped at 1: a division is a pass over [rows, length, vocab].
    logits = logits / temperature if temperature != 1 else logits
    return token_nll(logits, targets.repeat_interleave(n, dim=0)).view(-1, n, targets.shape[1])


def distillation_loss(scores: torch.Tensor, gold: torch.Tensor, temperature_score: float, temperature_gold: float) -> torch.Tensor:
    """Returns the KL divergence of the distribution of scores [batch, n] from that of gold [batch, n], divided by batch * n."""
    log_p = torch.log_softmax(gold / temperature_gold, dim=-1)
    log_q = torch.log_softmax(scores / temperature_score, dim=-1)
    # A mean over all batch * n elements, as the original computes it: torch's `batchmean` would be n times as large.
    return (log_p.exp() * (log_p - log_q)).mean()


def emdr_loss(scores: torch.Tensor, log_likelihood: torch.Tensor, weights: torch.Tensor, temperature_score: float) -> torch.Tensor:
    """Returns minus the mean log likelihood of the target tokens, marginalised over passages.

    Args:
      scores: [batch, n], the retriever's.
      log_likelihood: [batch, n, target_length].
      weights: [batch, target_length].
    """
    log_q = torch.log_softmax(scores / temperature_score, dim=-1)
    marginal = torch.logsumexp(log_likelihood + log_q[..., None], dim=1)  # [batch, target_length]
    return -(marginal * weights).sum() / weights.sum()


def _mean_nll(nll: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Averages nll [batch, n, target_length] over target tokens: [batch, n]."""
    return (nll * weights[:, None]).sum(dim=-1) / weights.sum(dim=-1, keepdim=True)


# The comparison's figures do not depend on the learning rate.
_LEARNING_RATE = 4e-5


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Settings of the distillation loss; names and meaning as in steps/spec.py's DistillConfig."""

    gold_score_mode: str = 'pdist'
    temperature_gold: float = 0.01
    temperature_score: float = 0.01


@dataclasses.dataclass(frozen=True)
class Targets:
    """The reader's targets.

    decoder_ids  [batch, target_length] int64  shifted right behind the start token
    ids          [batch, target_length] int64
    weights      [batch, target_length] float  1 on target tokens, 0 on padding
    """

    decoder_ids: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


@dataclasses.dataclass(frozen=True)
class RetrieverInputs:
    """The retriever's inputs: queries [batch, length] and passages [batch, n, length]."""

    queries: models.Rows
    passages: models.Rows


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One batch on the device, padded.

    passages   reader inputs [batch, n, length]
    targets    None where the arrays have none
    retriever  None without a retriever, and where the arrays have no queries
    """

    passages: models.Rows
    targets: Targets | None = None
    retriever: RetrieverInputs | None = None


class Model:
    """Reader and retriever run by one variant; passages have an encoder of their own where `passage_encoder` is given."""

    def __init__(self, reader: transformers.T5ForConditionalGeneration, retriever: models.Contriever | None, variant: variants.Variant,
                 distillation: Distillation, passage_encoder: models.Contriever | None = None):
        self.variant, self.distillation, self.passage_encoder = variant, distillation, passage_encoder
        self.t5, self.retriever = reader, retriever
        self.reader = flat.FlatReader(reader) if variant.flat else models.PaddedReader(reader)
        self.device, self.dtype = reader.device, reader.dtype

    def inputs(self, arrays: dict[str, np.ndarray]) -> Inputs:
        """Pads one batch [batch, ...] of the arrays that compare/inputs.py describes, as the variant does."""
        passages = models.pad_rows(arrays['reader_ids'], arrays['reader_mask'], self.variant.pad_to, self.device)
        targets, retriever = None, None
        if 'target_ids' in arrays:
            decoder_ids, ids = (torch.from_numpy(arrays[name].astype(np.int64)).to(self.device)
                                for name in ('decoder_input_ids', 'target_ids'))
            # A bfloat16 reader's losses are still summed in float32.
            weights = torch.from_numpy(arrays['target_mask']).to(self.device, torch.promote_types(self.dtype, torch.float32))
            targets = Targets(decoder_ids, ids, weights)
        if self.retriever is not None and 'query_ids' in arrays:
            retriever = RetrieverInputs(self.retriever_rows(arrays['query_ids'], arrays['query_mask']),
                                        self.retriever_rows(arrays['passage_ids'], arrays['passage_mask']))
        return Inputs(passages, targets, retriever)

    def retriever_rows(self, ids: np.ndarray, mask: np.ndarray) -> models.Rows:
        """Pads retriever inputs [..., width] as the variant does, at most to the retriever's positions."""
        length = self.variant.pad_to
        if length is not None:
            length = min(length, self._encoder().bert.config.max_position_embeddings)
        return models.pad_rows(ids, mask, length, self.device)

    def embed(self, rows: models.Rows) -> torch.Tensor:
        """Embeds queries [..., length]: [..., dim]."""
        return self._embed(self._encoder(), rows)

    def embed_passages(self, rows: models.Rows) -> torch.Tensor:
        """Embeds passages [..., length], by their own encoder where there is one: [..., dim]."""
        return self._embed(self.passage_encoder or self._encoder(), rows)

    def _embed(self, encoder: models.Contriever, rows: models.Rows) -> torch.Tensor:
        if self.variant.flat:
            embeddings = flat.embed(encoder, flat.Layout(rows, self.dtype))
        else:
            flat_rows = rows.flat
            embeddings = encoder(flat_rows.ids, flat_rows.mask)
        return embeddings.reshape(*rows.ids.shape[:-1], -1)  # [rows, dim] to [..., dim]

    def losses(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Computes the parts of the joint loss.

        Returns:
          logits and reader_loss; with a retriever also query_embeddings, passage_embeddings, retriever_score, retriever_loss and, in every
          mode but emdr, gold_score.

        Raises:
          ValueError: the inputs have no targets.
        """
        if inputs.targets is None:
            raise ValueError('the joint loss needs targets')
        batch = inputs.passages.ids.shape[0]
        memory = self.reader.encode(inputs.passages)
        logits = self.reader.decode(self.reader.fuse(memory, batch), inputs.targets.decoder_ids)
        found = {'logits': logits, 'reader_loss': reader_loss(token_nll(logits, inputs.targets.ids), inputs.targets.weights)}
        if inputs.retriever is None:
            return found
        queries, passages = self.embed(inputs.retriever.queries), self.embed_passages(inputs.retriever.passages)
        # Divided by the root of the dimension in training only; the search does not.
        scores = torch.einsum('bd,bnd->bn', queries, passages) / queries.shape[-1]**0.5  # [batch, n]
        found |= {'query_embeddings': queries, 'passage_embeddings': passages, 'retriever_score': scores}
        return found | self._distillation_loss(scores, memory, inputs.passages, inputs.targets)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns the parameters of all networks, each once."""
        return [*self.t5.parameters(), *(parameter for encoder in self.encoders for parameter in encoder.parameters())]

    @property
    def encoders(self) -> list[models.Contriever]:
        """The retriever's encoders, that of queries first."""
        return [encoder for encoder in (self.retriever, self.passage_encoder) if encoder is not None]

    def _encoder(self) -> models.Contriever:
        if self.retriever is None:
            raise ValueError('the model has no retriever')
        return self.retriever

    def _distillation_loss(self, scores: torch.Tensor, memory: models.Memory, passages: models.Rows,
                           targets: Targets) -> dict[str, torch.Tensor]:
        options, (batch, n) = self.distillation, scores.shape
        # The teacher's scores carry no gradient: the retriever learns from them, not the reader.
        with torch.no_grad():
            # The original encodes the passages a second time.
            if not self.variant.share_states:
                memory = self.reader.encode(passages)
            if options.gold_score_mode == 'emdr':
                likelihood = each_passage_log_likelihood(self.reader, memory, n, targets.decoder_ids, targets.ids, options.temperature_gold)
            else:
                gold = gold_scores(options.gold_score_mode, self.reader, memory, batch, n, targets.decoder_ids, targets.ids,
                                   targets.weights)
        if options.gold_score_mode == 'emdr':
            return {'retriever_loss': emdr_loss(scores, likelihood, targets.weights, options.temperature_score)}
        loss = distillation_loss(scores, gold, options.temperature_score, options.temperature_gold)
        return {'gold_score': gold, 'retriever_loss': loss}


class TrainStep:
    """Forward, backward, joint clip, AdamW."""

    def __init__(self, model: Model, learning_rate: float = _LEARNING_RATE, retriever_learning_rate: float = _LEARNING_RATE,
                 weight_decay: float = 0.01, clip: float = 1.0, epsilon: float = 1e-6):
        self.model, self.clip = model, clip
        self.learning_rates = [learning_rate]
        groups: list[dict[str, Any]] = [{'params': list(model.t5.parameters()), 'lr': learning_rate}]
        for encoder in model.encoders:
            self.learning_rates.append(retriever_learning_rate)
            groups.append({'params': list(encoder.parameters()), 'lr': retriever_learning_rate})
        fused = {'fused': True} if model.variant.fused_adamw else {}
        # The original's epsilon and clip. Weight decay acts on every parameter, norms and biases included, as it does there.
        self.optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, eps=epsilon, **fused)
        # dynamic: lengths differ from batch to batch, and each would compile anew.
        self._losses = torch.compile(model.losses, dynamic=True) if model.variant.compiled else model.losses

    def __call__(self, inputs: Inputs, factor: float = 1.0) -> dict[str, float]:
        """Updates once at `factor` times the learning rates; returns the losses before the update and the joint gradient norm."""
        found = self._losses(inputs)
        loss = found['reader_loss'] + found.get('retriever_loss', 0)
        # None in place of zeros saves a pass over the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # One clip over both networks, as the original's.
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group['lr'] = rate * factor
        self.optimizer.step()
        return {'gradient_norm': norm.item(), **{name: found[name].item() for name in ('reader_loss', 'retriever_loss') if name in found}}
