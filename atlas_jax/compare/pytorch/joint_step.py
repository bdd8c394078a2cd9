"""The joint train step in PyTorch: reader loss, gold scores, distillation loss, one clip over both networks, AdamW."""

import dataclasses

import numpy as np
import torch

from atlas_jax.compare.pytorch import flat, losses, models, padding, readers, variants

# as the step's figures do not depend on it
_LEARNING_RATE = 4e-5


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How the reader teaches the retriever; names and meaning as training/spec.py's DistillConfig."""

    gold_score_mode: str = 'pdist'
    temperature_gold: float = 0.01
    temperature_score: float = 0.01


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One batch on the device, padded; parts that are not there are None.

    passages   reader inputs, Rows [batch, n, length]
    decoder_ids, targets, weights  [batch, target_length]
    retriever_queries [batch, length], retriever_passages [batch, n, length]
    """

    passages: padding.Rows
    decoder_ids: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    retriever_queries: padding.Rows | None = None
    retriever_passages: padding.Rows | None = None


class Model:
    """Reader and retriever run by one variant."""

    def __init__(self, reader, retriever: models.Contriever | None, variant: variants.Variant, distillation: Distillation):
        self.variant, self.distillation = variant, distillation
        self.t5, self.retriever = reader, retriever
        self.reader = flat.FlatReader(reader) if variant.flat else readers.PaddedReader(reader)
        self.device, self.dtype = reader.device, reader.dtype

    def inputs(self, arrays: dict[str, np.ndarray]) -> Inputs:
        """One batch of the arrays that io of `atlas-jax compare` describes, padded as the variant does."""
        length = self.variant.pad_to
        passages = padding.rows(arrays['reader_ids'], arrays['reader_mask'], length, self.device)
        fields = {}
        if 'target_ids' in arrays:
            fields['decoder_ids'], fields['targets'] = (torch.from_numpy(arrays[name].astype(np.int64)).to(self.device)
                                                        for name in ('decoder_input_ids', 'target_ids'))
            fields['weights'] = torch.from_numpy(arrays['target_mask']).to(self.device, torch.promote_types(self.dtype, torch.float32))
        if self.retriever is not None and 'query_ids' in arrays:
            capped = None if length is None else min(length, self.retriever.bert.config.max_position_embeddings)
            for field, name in (('retriever_queries', 'query'), ('retriever_passages', 'passage')):
                fields[field] = padding.rows(arrays[f'{name}_ids'], arrays[f'{name}_mask'], capped, self.device)
        return Inputs(passages, **fields)

    def embed(self, rows: padding.Rows) -> torch.Tensor:
        """Embeddings [..., dim] of rows [..., length]."""
        flat_rows = rows.flat
        embeddings = flat.embed(self.retriever, flat.Layout(rows, self.dtype)) if self.variant.flat else self.retriever(
            flat_rows.ids, flat_rows.mask)
        return embeddings.reshape(*rows.ids.shape[:-1], -1)

    def losses(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """logits, reader_loss, and with a retriever retriever_score, gold_score (but for emdr) and retriever_loss."""
        batch = inputs.passages.ids.shape[0]
        memory = self.reader.encode(inputs.passages)
        logits = self.reader.decode(self.reader.fuse(memory, batch), inputs.decoder_ids)
        found = {'logits': logits, 'reader_loss': losses.reader_loss(losses.token_nll(logits, inputs.targets), inputs.weights)}
        if inputs.retriever_queries is None:
            return found
        n = inputs.retriever_passages.ids.shape[1]
        queries, passages = self.embed(inputs.retriever_queries), self.embed(inputs.retriever_passages)
        scores = torch.einsum('bd,bnd->bn', queries, passages) / queries.shape[-1]**0.5
        found |= {'query_embeddings': queries, 'passage_embeddings': passages, 'retriever_score': scores}
        return found | self._distillation_loss(scores, memory, inputs, n)

    def _distillation_loss(self, scores, memory: readers.Memory, inputs: Inputs, n: int) -> dict[str, torch.Tensor]:
        options, batch = self.distillation, scores.shape[0]
        targets = (inputs.decoder_ids, inputs.targets, inputs.weights)
        with torch.no_grad():
            if not self.variant.share_states:
                memory = self.reader.encode(inputs.passages)
            if options.gold_score_mode == 'emdr':
                likelihood = losses.each_passage_log_likelihood(self.reader, memory, n, *targets[:2], options.temperature_gold)
            else:
                gold = losses.gold_scores(options.gold_score_mode, self.reader, memory, batch, n, *targets)
        if options.gold_score_mode == 'emdr':
            return {'retriever_loss': losses.emdr_loss(scores, likelihood, inputs.weights, options.temperature_score)}
        return {'gold_score': gold, 'retriever_loss': losses.distillation_loss(scores, gold, options.temperature_score,
                                                                               options.temperature_gold)}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Of both networks, each once."""
        return [*self.t5.parameters(), *(self.retriever.parameters() if self.retriever is not None else ())]


class TrainStep:
    """Forward, backward, joint clip, AdamW."""

    def __init__(self, model: Model, learning_rate: float = _LEARNING_RATE, retriever_learning_rate: float = _LEARNING_RATE,
                 weight_decay: float = 0.01, clip: float = 1.0, epsilon: float = 1e-6):
        self.model, self.clip = model, clip
        groups = [{'params': list(model.t5.parameters()), 'lr': learning_rate}]
        if model.retriever is not None:
            groups.append({'params': list(model.retriever.parameters()), 'lr': retriever_learning_rate})
        self.learning_rates = [group['lr'] for group in groups]
        fused = {'fused': True} if model.variant.fused_adamw else {}
        self.optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, eps=epsilon, **fused)
        self._losses = torch.compile(model.losses, dynamic=True) if model.variant.compiled else model.losses

    def __call__(self, inputs: Inputs, factor: float = 1.0) -> dict[str, float]:
        """One update at `factor` times the learning rates; the losses before it, and the joint gradient norm."""
        found = self._losses(inputs)
        loss = found['reader_loss'] + found.get('retriever_loss', 0)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group['lr'] = rate * factor
        self.optimizer.step()
        return {'gradient_norm': norm.item(), **{name: found[name].item() for name in ('reader_loss', 'retriever_loss') if name in found}}
