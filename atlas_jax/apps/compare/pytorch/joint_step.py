"""The joint train step in PyTorch (Izacard et al. 2022, section 2.2): reader loss, gold scores,
distillation loss, joint clip, AdamW.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
import transformers

from atlas_jax.apps.compare.pytorch import flat, torch_models, variants

# The original divides attention scores by this number for passages of any length (docs/design.md,
# section 6).
_ATTENTION_SCALE = 256


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the negative log likelihood [..., length] of targets [..., length] int64 under logits
    [..., length, vocab].
    """
    # bfloat16 keeps 8 bits; a softmax over the vocabulary needs more.
    precise = logits.float() if logits.dtype == torch.bfloat16 else logits
    # [tokens, vocab]
    nll = torch.nn.functional.cross_entropy(precise.flatten(0, -2), targets.flatten(),
                                            reduction='none')
    return nll.view(targets.shape)


def reader_loss(nll: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the mean of nll [batch, length] over all target tokens of the batch: a scalar."""
    return (nll * weights).sum() / weights.sum()


@torch.no_grad()
def gold_scores(mode: str, reader: torch_models.PaddedReader, memory: torch_models.Memory,
                batch: int, n: int, decoder_ids: torch.Tensor, targets: torch.Tensor,
                weights: torch.Tensor) -> torch.Tensor:
    """Returns the reader's score of each passage [batch, n], without gradient.

    Args:
      mode: pdist, loop or adist.
      reader: padded or flat.
      memory: one row for each passage.
      batch, n: examples, and passages of each.
      decoder_ids, targets, weights: [batch, target_length].
    """
    # A low loss with this passage alone means a good passage, hence the minus.
    if mode == 'pdist':
        return -_mean_nll(each_passage_nll(reader, memory, n, decoder_ids, targets), weights)
    # The loss without a passage; it is large if the passage is useful.
    if mode == 'loop':
        losses = [
            token_nll(reader.decode(reader.fuse(memory, batch, without=j), decoder_ids), targets)
            for j in range(n)]
        return _mean_nll(torch.stack(losses, dim=1), weights)
    # adist: attention over all passages at once, split by passage afterwards.
    # [batch, target_length, n * length]
    attention = reader.cross_attention_norms(reader.fuse(memory, batch), decoder_ids)
    # [batch, n * length] to [batch, n]: sums over the target's tokens, then over each passage's.
    by_passage = (attention * weights[..., None]).sum(dim=1).view(batch, n, -1).sum(dim=-1)
    return by_passage / (_ATTENTION_SCALE * len(reader.t5.decoder.block) *
                         weights.sum(dim=1, keepdim=True))


@torch.no_grad()
def each_passage_log_likelihood(reader: torch_models.PaddedReader, memory: torch_models.Memory,
                                n: int, decoder_ids: torch.Tensor, targets: torch.Tensor,
                                temperature: float) -> torch.Tensor:
    """Returns log likelihoods [batch, n, target_length] of the target tokens given each passage
    alone, from logits / temperature.
    """
    return -each_passage_nll(reader, memory, n, decoder_ids, targets, temperature)


def each_passage_nll(reader: torch_models.PaddedReader, memory: torch_models.Memory, n: int,
                     decoder_ids: torch.Tensor, targets: torch.Tensor,
                     temperature: float = 1.0) -> torch.Tensor:
    """Returns negative log likelihoods [batch, n, target_length] from a decoder that sees one
    passage at a time.
    """
    # [batch, target_length] to [batch * n, target_length]: an example's passages are neighbours in
    # the memory's rows too.
    logits = reader.decode(memory, decoder_ids.repeat_interleave(n, dim=0))
    # Skipped at 1: a division is a pass over [rows, length, vocab].
    logits = logits / temperature if temperature != 1 else logits
    return token_nll(logits, targets.repeat_interleave(n, dim=0)).view(-1, n, targets.shape[1])


def distillation_loss(scores: torch.Tensor, gold: torch.Tensor, temperature_score: float,
                      temperature_gold: float) -> torch.Tensor:
    """Returns the KL divergence of the distribution of scores [batch, n] from that of the gold
    scores [batch, n], divided by batch * n.
    """
    log_p = torch.log_softmax(gold / temperature_gold, dim=-1)
    log_q = torch.log_softmax(scores / temperature_score, dim=-1)
    # The original takes a mean over all batch * n elements; torch's `batchmean` would be n times as
    # large.
    return (log_p.exp() * (log_p - log_q)).mean()


def emdr_loss(scores: torch.Tensor, log_likelihood: torch.Tensor, weights: torch.Tensor,
              temperature_score: float) -> torch.Tensor:
    """Returns minus the mean log likelihood of the target tokens, marginalised over passages.

    Args:
      scores: [batch, n], scores of the retriever.
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
    """Settings of the distillation loss, the same as in steps/spec.py's DistillConfig."""

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

    queries: torch_models.Rows
    passages: torch_models.Rows


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One batch on the device, padded.

    passages   reader inputs [batch, n, length]
    targets    None if the arrays have no targets
    retriever  None without a retriever, or if the arrays have no queries
    """

    passages: torch_models.Rows
    targets: Targets | None = None
    retriever: RetrieverInputs | None = None


class Model:
    """Reader and retriever, run by one variant; `passage_encoder` embeds passages if it is given.
    """

    def __init__(self, reader: transformers.T5ForConditionalGeneration,
                 retriever: torch_models.TorchContriever | None, variant: variants.Variant,
                 distillation: Distillation,
                 passage_encoder: torch_models.TorchContriever | None = None):
        self.variant, self.distillation = variant, distillation
        self.t5, self.retriever, self.passage_encoder = reader, retriever, passage_encoder
        self.reader = flat.FlatReader(reader) if variant.flat else torch_models.PaddedReader(reader)
        self.device, self.dtype = reader.device, reader.dtype

    def inputs(self, arrays: dict[str, np.ndarray]) -> Inputs:
        """Pads one batch [batch, ...] of the arrays of apps/compare/token_arrays.py, as the variant
        says.
        """
        passages = torch_models.pad_rows(arrays['reader_ids'], arrays['reader_mask'],
                                         self.variant.pad_to, self.device)
        targets, retriever = None, None
        if 'target_ids' in arrays:
            decoder_ids, ids = (torch.from_numpy(arrays[name].astype(np.int64)).to(self.device)
                                for name in ('decoder_input_ids', 'target_ids'))
            # Losses of a bfloat16 reader are summed in float32.
            weights = torch.from_numpy(arrays['target_mask']).to(
                self.device, torch.promote_types(self.dtype, torch.float32))
            targets = Targets(decoder_ids, ids, weights)
        if self.retriever is not None and 'query_ids' in arrays:
            retriever = RetrieverInputs(
                self.retriever_rows(arrays['query_ids'], arrays['query_mask']),
                self.retriever_rows(arrays['passage_ids'], arrays['passage_mask']))
        return Inputs(passages, targets, retriever)

    def retriever_rows(self, ids: np.ndarray, mask: np.ndarray) -> torch_models.Rows:
        """Pads retriever inputs [..., width] as the variant says, at most to the retriever's
        positions.
        """
        length = self.variant.pad_to
        if length is not None:
            length = min(length, self._encoder().bert.config.max_position_embeddings)
        return torch_models.pad_rows(ids, mask, length, self.device)

    def embed(self, rows: torch_models.Rows) -> torch.Tensor:
        """Embeds queries [..., length]: [..., dim]."""
        return self._embed(self._encoder(), rows)

    def embed_passages(self, rows: torch_models.Rows) -> torch.Tensor:
        """Embeds passages [..., length], with their own encoder if there is one: [..., dim]."""
        return self._embed(self.passage_encoder or self._encoder(), rows)

    def _embed(self, encoder: torch_models.TorchContriever,
               rows: torch_models.Rows) -> torch.Tensor:
        if self.variant.flat:
            embeddings = flat.embed(encoder, flat.FlatLayout(rows, self.dtype))
        else:
            flat_rows = rows.flat
            embeddings = encoder(flat_rows.ids, flat_rows.mask)
        return embeddings.reshape(*rows.ids.shape[:-1], -1)  # [rows, dim] to [..., dim]

    def losses(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Computes the parts of the joint loss.

        Returns:
          logits and reader_loss; with a retriever also query_embeddings, passage_embeddings,
          retriever_score, retriever_loss and, in every mode except emdr, gold_score.

        Raises:
          ValueError: the inputs have no targets.
        """
        if inputs.targets is None:
            raise ValueError('the joint loss needs targets')
        batch = inputs.passages.ids.shape[0]
        memory = self.reader.encode(inputs.passages)
        logits = self.reader.decode(self.reader.fuse(memory, batch), inputs.targets.decoder_ids)
        found = {
            'logits': logits, 'reader_loss': reader_loss(token_nll(logits, inputs.targets.ids),
                                                         inputs.targets.weights)}
        if inputs.retriever is None:
            return found
        queries = self.embed(inputs.retriever.queries)
        passages = self.embed_passages(inputs.retriever.passages)
        # [batch, n]; only training divides by the root of the dimension, search does not.
        scores = torch.einsum('bd,bnd->bn', queries, passages) / queries.shape[-1]**0.5
        found |= {
            'query_embeddings': queries, 'passage_embeddings': passages, 'retriever_score': scores}
        return found | self._distillation_loss(scores, memory, inputs.passages, inputs.targets)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns the parameters of all networks, each once."""
        return [
            *self.t5.parameters(),
            *(parameter for encoder in self.encoders for parameter in encoder.parameters())]

    @property
    def encoders(self) -> list[torch_models.TorchContriever]:
        """The retriever's encoders, the query encoder first."""
        return [
            encoder for encoder in (self.retriever, self.passage_encoder) if encoder is not None]

    def _encoder(self) -> torch_models.TorchContriever:
        if self.retriever is None:
            raise ValueError('the model has no retriever')
        return self.retriever

    def _distillation_loss(self, scores: torch.Tensor, memory: torch_models.Memory,
                           passages: torch_models.Rows,
                           targets: Targets) -> dict[str, torch.Tensor]:
        options, (batch, n) = self.distillation, scores.shape
        # No gradient flows through the teacher's scores: only the retriever learns from them.
        with torch.no_grad():
            # The original encodes the passages a second time.
            if not self.variant.share_states:
                memory = self.reader.encode(passages)
            if options.gold_score_mode == 'emdr':
                likelihood = each_passage_log_likelihood(self.reader, memory, n,
                                                         targets.decoder_ids, targets.ids,
                                                         options.temperature_gold)
            else:
                gold = gold_scores(options.gold_score_mode, self.reader, memory, batch, n,
                                   targets.decoder_ids, targets.ids, targets.weights)
        if options.gold_score_mode == 'emdr':
            return {
                'retriever_loss': emdr_loss(scores, likelihood, targets.weights,
                                            options.temperature_score)}
        loss = distillation_loss(scores, gold, options.temperature_score, options.temperature_gold)
        return {'gold_score': gold, 'retriever_loss': loss}


class TrainStep:
    """Forward, backward, joint clip, AdamW."""

    def __init__(self, model: Model, learning_rate: float = _LEARNING_RATE,
                 retriever_learning_rate: float = _LEARNING_RATE, weight_decay: float = 0.01,
                 clip: float = 1.0, epsilon: float = 1e-6):
        self.model, self.clip = model, clip
        self.learning_rates = [learning_rate]
        groups: list[dict[str, Any]] = [
            {'params': list(model.t5.parameters()), 'lr': learning_rate}]
        for encoder in model.encoders:
            self.learning_rates.append(retriever_learning_rate)
            groups.append({'params': list(encoder.parameters()), 'lr': retriever_learning_rate})
        fused = {'fused': True} if model.variant.fused_adamw else {}
        # The original's epsilon and clip. As there, weight decay acts on every parameter, including
        # norms and biases.
        self.optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, eps=epsilon, **fused)
        # dynamic, because lengths differ from batch to batch, and each would compile again.
        self._losses = torch.compile(model.losses,
                                     dynamic=True) if model.variant.compiled else model.losses

    def __call__(self, inputs: Inputs, factor: float = 1.0) -> dict[str, float]:
        """Updates once at `factor` times the learning rates; returns the losses before the update
        and the joint gradient norm.
        """
        found = self._losses(inputs)
        loss = found['reader_loss'] + found.get('retriever_loss', 0)
        # None in place of zeros saves a pass over the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # One clip over both networks, as in the original.
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group['lr'] = rate * factor
        self.optimizer.step()
        losses = {name: found[name].item() for name in ('reader_loss', 'retriever_loss')
                  if name in found}
        return {'gradient_norm': norm.item(), **losses}
