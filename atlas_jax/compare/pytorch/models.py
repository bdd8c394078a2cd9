"""Hugging Face's BERT as a Contriever, its layer norm of either kind, and the loading of both networks."""

import json
import os
import pathlib

import torch
import transformers
from torch import nn

from atlas_jax import errors


class SecondMomentNorm(nn.Module):
    """(x - mean) * rsqrt(mean(x**2) + eps) * weight + bias: the layer norm of released Atlas checkpoints."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., dim] to the same."""
        scale = torch.rsqrt(inputs.square().mean(dim=-1, keepdim=True) + self.eps)
        return (inputs - inputs.mean(dim=-1, keepdim=True)) * scale * self.weight + self.bias


class Contriever(nn.Module):
    """A BERT whose states are pooled to one embedding. pooling: average, sqrt or cls."""

    def __init__(self, bert: transformers.BertModel, pooling: str = 'average', normalize: bool = False):
        super().__init__()
        self.bert, self.pooling, self.normalize = bert, pooling, normalize

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ids and mask [n, length] int64 to embeddings [n, dim]."""
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.pool(states, mask)

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """states [n, length, dim] and mask [n, length] to [n, dim]."""
        if self.pooling == 'cls':
            pooled = states[:, 0]
        else:
            count = mask.sum(dim=1, keepdim=True).clamp(min=1).to(states.dtype)
            pooled = (states * mask[..., None].to(states.dtype)).sum(dim=1) / (count if self.pooling == 'average' else count.sqrt())
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


def load_reader(folder: str | os.PathLike, attention: str) -> transformers.T5ForConditionalGeneration:
    """A T5 folder by Hugging Face's own loader, in float32, without dropout.

    Raises ModelFolderError for what transformers cannot load.
    """
    config = json.loads((pathlib.Path(folder) / 'config.json').read_text(encoding='utf-8'))
    reader = _load(transformers.T5ForConditionalGeneration, folder, attention)
    # transformers 5 ties and scales unless told; the folder's own word counts
    tied = config.get('scale_decoder_outputs', config.get('tie_word_embeddings', True))
    if tied != (reader.lm_head.weight is reader.shared.weight) or tied != getattr(reader.config, 'scale_decoder_outputs', tied):
        raise errors.ModelFolderError(f'{folder}: transformers ties the output to the embedding, or does not, against config.json')
    return reader


def load_retriever(folder: str | os.PathLike, attention: str, layer_norm: str, pooling: str, normalize: bool) -> Contriever:
    """A BERT folder by Hugging Face's own loader, in float32, without dropout and pooler.

    Args:
      layer_norm: 'true' or 'second_moment'.

    Raises ModelFolderError for what transformers cannot load.
    """
    bert = _load(transformers.BertModel, folder, attention, add_pooling_layer=False)
    if layer_norm == 'second_moment':
        for module in list(bert.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(module, name, SecondMomentNorm(child))
    return Contriever(bert, pooling, normalize)


def _load(kind, folder: str | os.PathLike, attention: str, **options):
    try:
        model = kind.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise errors.ModelFolderError(f'{folder}: transformers cannot load it: {str(error).splitlines()[0]}') from error
    return model.eval()
