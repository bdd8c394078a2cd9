"""Token rows as padded tensors, Hugging Face's BERT as a Contriever, and the Fusion-in-Decoder
reader on Hugging Face's T5.
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from atlas_jax import errors
from atlas_jax.io import untrusted


@dataclasses.dataclass(frozen=True)
class Rows:
    """Token rows, padded to one length.

    ids   [..., length] int64  0 on padding
    mask  [..., length] int64  1 on the tokens of a row, which come first
    """

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def flat(self) -> 'Rows':
        """Returns the same rows with their leading axes joined: [rows, length]."""
        return Rows(self.ids.reshape(-1, self.ids.shape[-1]),
                    self.mask.reshape(-1, self.mask.shape[-1]))


def pad_rows(ids: np.ndarray, mask: np.ndarray, length: int | None, device: torch.device) -> Rows:
    """Returns token arrays as rows of one length on the device.

    Args:
      ids, mask: [..., width] int; prefix masks.
      length: at least the longest row; None pads to the longest row.

    Raises:
      ValueError: a row is longer than `length`.
    """
    # Masks are prefixes, so a row is as long as its sum.
    longest = int(mask.sum(axis=-1).max())
    length = longest if length is None else length
    if longest > length:
        raise ValueError(
            f'a row has {longest} tokens, more than the {length} it is to be padded to')
    width = min(ids.shape[-1], length)
    missing = [(0, 0)] * (ids.ndim - 1) + [(0, length - width)]

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.pad(values[..., :width].astype(np.int64), missing)).to(device)

    return Rows(tensor(np.where(mask > 0, ids, 0)), tensor(mask > 0))


class SecondMomentNorm(nn.Module):
    """The layer norm of released Atlas checkpoints: (x - mean) * rsqrt(mean(x**2) + eps) * weight +
    bias.
    """

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalises inputs [..., dim] over their last axis; the same shape."""
        # Not the variance: released Atlas checkpoints were trained with this (docs/design.md,
        # section 6).
        scale = torch.rsqrt(inputs.square().mean(dim=-1, keepdim=True) + self.eps)
        return (inputs - inputs.mean(dim=-1, keepdim=True)) * scale * self.weight + self.bias


class TorchContriever(nn.Module):
    """A BERT whose states are pooled to one embedding, with the poolings, normalisation and
    truncation of models/contriever.py.
    """

    def __init__(self, bert: transformers.BertModel, pooling: str = 'average',
                 normalize: bool = False, truncate_dim: int | None = None):
        super().__init__()
        self.bert, self.pooling = bert, pooling
        self.normalize, self.truncate_dim = normalize, truncate_dim

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeds ids and mask [n, length] int64: [n, dim]."""
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.pool(states, mask)

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pools states [n, length, dim] under mask [n, length]: [n, dim]."""
        # At least 1: an empty row would divide by zero.
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)  # [n, 1]
        real = mask[..., None].to(states.dtype)
        if self.pooling == 'cls':
            pooled = states[:, 0]
        elif self.pooling == 'last':
            pooled = states[torch.arange(len(states), device=states.device), count[:, 0] - 1]
        elif self.pooling == 'max':
            pooled = states.masked_fill(real == 0, -torch.inf).amax(dim=1)
        elif self.pooling == 'weighted':
            weights = real * torch.arange(1, states.shape[1] + 1, device=states.device,
                                          dtype=states.dtype)[:, None]
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            divisor = count.to(states.dtype)
            divisor = divisor if self.pooling == 'average' else divisor.sqrt()
            pooled = (states * real).sum(dim=1) / divisor
        pooled = pooled[:, :self.truncate_dim]
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


def load_reader(folder: str | os.PathLike,
                attention: str) -> transformers.T5ForConditionalGeneration:
    """Loads a T5 folder with Hugging Face's own loader, in float32, in evaluation mode.

    Raises:
      ModelFolderError: transformers cannot load it, or ties the embeddings in another way than
        config.json.
    """
    # Our own side has read the file before, and reports its mistakes.
    config = untrusted.read_json(pathlib.Path(folder) / 'config.json')
    reader = _load(transformers.T5ForConditionalGeneration, folder, attention)
    # transformers 5 ties and scales unless config.json forbids both. A reader that is loaded in
    # another way computes another function.
    tied = config.get('scale_decoder_outputs', config.get('tie_word_embeddings', True))
    if tied != (reader.lm_head.weight is reader.shared.weight) or tied != getattr(
            reader.config, 'scale_decoder_outputs', tied):
        raise errors.ModelFolderError(f'{folder}: transformers ties the output to the embedding '
                                      f'otherwise than config.json (tied: {tied}). Set '
                                      'tie_word_embeddings and scale_decoder_outputs alike.')
    return reader


def load_retriever(folder: str | os.PathLike, attention: str, layer_norm: str, pooling: str,
                   normalize: bool, truncate_dim: int | None = None) -> TorchContriever:
    """Loads a BERT folder with Hugging Face's own loader, in float32, in evaluation mode, without
    its pooler.

    Args:
      attention: Hugging Face's implementation, 'eager' or 'sdpa'.
      layer_norm: 'true' or 'second_moment'.

    Raises:
      ModelFolderError: transformers cannot load it.
    """
    # A Contriever has no pooler; transformers would make up its weights.
    bert = _load(transformers.BertModel, folder, attention, add_pooling_layer=False)
    if layer_norm == 'second_moment':
        # Replaced in place with shared parameters, so that gradients keep Hugging Face's names.
        for module in list(bert.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(module, name, SecondMomentNorm(child))
    return TorchContriever(bert, pooling, normalize, truncate_dim)


def _load(kind, folder: str | os.PathLike, attention: str, **options):
    try:
        model = kind.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32,
                                     **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise errors.ModelFolderError(f'{folder}: transformers cannot load it: '
                                      f'{str(error).splitlines()[0]}') from error
    # Evaluation mode turns dropout off: both sides must compute the same function.
    return model.eval()


@dataclasses.dataclass(frozen=True)
class Memory:
    """The decoder's memory.

    content  encoder states [rows, keys, dim], or a pair of keys and values for each decoder layer
    mask     [rows, keys] 1 on real tokens
    """

    content: Any
    mask: torch.Tensor


class PaddedReader:
    """Encodes passages one by one and decodes from any grouping of them."""

    def __init__(self, t5: transformers.T5ForConditionalGeneration):
        self.t5 = t5

    def encode(self, rows: Rows) -> Memory:
        """Encodes rows [batch, n, length] to one row of memory for each passage, [batch * n,
        length, dim].
        """
        flat = rows.flat
        return Memory(
            self.t5.encoder(input_ids=flat.ids, attention_mask=flat.mask).last_hidden_state,
            flat.mask)

    def fuse(self, memory: Memory, batch: int, without: int | None = None) -> Memory:
        """Puts the passages of each example side by side: [batch, n * length, dim]; `without` is
        the number of a passage to hide.
        """
        mask = memory.mask.reshape(batch, -1, memory.mask.shape[-1])  # [batch, n, length]
        if without is not None:
            # Copied, because the memory's own mask is used again for the next passage.
            mask = mask.clone()
            mask[:, without] = 0
        return Memory(self._side_by_side(memory.content, batch), mask.reshape(batch, -1))

    def decode(self, memory: Memory, decoder_ids: torch.Tensor) -> torch.Tensor:
        """Returns logits [rows, target_length, vocab] of decoder_ids [rows, target_length]."""
        return self.t5(encoder_outputs=(memory.content, ), attention_mask=memory.mask,
                       decoder_input_ids=decoder_ids, use_cache=False).logits

    def cross_attention_norms(self, memory: Memory, decoder_ids: torch.Tensor) -> torch.Tensor:
        """Returns attention probabilities times the norms of the values, averaged over heads and
        summed over layers: [rows, target_length, keys].
        """
        decoded = self.t5.decoder(input_ids=decoder_ids, encoder_hidden_states=memory.content,
                                  encoder_attention_mask=memory.mask, use_cache=False,
                                  output_attentions=True)
        total = 0
        for block, probabilities in zip(self.t5.decoder.block, decoded.cross_attentions,
                                        strict=True):
            attention = block.layer[1].EncDecAttention
            # [rows, keys, heads, head_dim]
            values = attention.v(memory.content).unflatten(-1, (attention.n_heads, -1))
            norms = values.norm(dim=-1).permute(0, 2, 1)[:, :, None]  # [rows, heads, 1, keys]
            # mean over the heads of [rows, heads, target_length, keys]
            total = total + (probabilities * norms).mean(dim=1)
        # Nothing attends to padding, but its values are not zero.
        return total * memory.mask[:, None]

    def generate(self, memory: Memory, max_length: int, beams: int) -> torch.Tensor:
        """Generates token sequences [rows, <= max_length], start token first, with Hugging Face's
        own generate.
        """
        outputs = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=memory.content)
        return self.t5.generate(encoder_outputs=outputs, attention_mask=memory.mask,
                                max_length=max_length, num_beams=beams, do_sample=False)

    @staticmethod
    def _side_by_side(states: torch.Tensor, batch: int) -> torch.Tensor:
        # [batch * n, length, dim] to [batch, n * length, dim]
        return states.reshape(batch, -1, states.shape[-1])
