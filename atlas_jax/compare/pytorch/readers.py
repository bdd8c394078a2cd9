"""The Fusion-in-Decoder reader on Hugging Face's T5, as it is (padded rows)."""

import dataclasses
from typing import Any

import torch
import transformers

from atlas_jax.compare.pytorch import padding


@dataclasses.dataclass(frozen=True)
class Memory:
    """What the decoder reads: rows of encoder states (or of keys and values), and the mask of real tokens [rows, keys]."""

    content: Any
    mask: torch.Tensor


class PaddedReader:
    """Encodes passages one by one and decodes from any grouping of them."""

    def __init__(self, t5: transformers.T5ForConditionalGeneration):
        self.t5 = t5

    def encode(self, rows: padding.Rows) -> Memory:
        """[batch, n, length] to one row of memory a passage, [batch * n, length, dim]."""
        flat = rows.flat
        return Memory(self.t5.encoder(input_ids=flat.ids, attention_mask=flat.mask).last_hidden_state, flat.mask)

    def fuse(self, memory: Memory, batch: int, without: int | None = None) -> Memory:
        """The passages of an example side by side; `without` hides one of them."""
        mask = memory.mask.reshape(batch, -1, memory.mask.shape[-1])
        if without is not None:
            mask = mask.clone()
            mask[:, without] = 0
        return Memory(self._side_by_side(memory.content, batch), mask.reshape(batch, -1))

    def decode(self, memory: Memory, decoder_ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, target_length, vocab] of decoder_ids [rows, target_length]."""
        return self.t5(encoder_outputs=(memory.content,), attention_mask=memory.mask, decoder_input_ids=decoder_ids, use_cache=False).logits

    def cross_attention_norms(self, memory: Memory, decoder_ids: torch.Tensor) -> torch.Tensor:
        """Attention probability times the norm of the value, mean over heads, sum over layers: [rows, target_length, keys]."""
        decoded = self.t5.decoder(input_ids=decoder_ids, encoder_hidden_states=memory.content, encoder_attention_mask=memory.mask,
                                  use_cache=False, output_attentions=True)
        total = 0
        for block, probabilities in zip(self.t5.decoder.block, decoded.cross_attentions, strict=True):
            attention = block.layer[1].EncDecAttention
            values = attention.v(memory.content).unflatten(-1, (attention.n_heads, -1))  # [rows, keys, heads, head_dim]
            norms = values.norm(dim=-1).permute(0, 2, 1)[:, :, None]  # [rows, heads, 1, keys]
            total = total + (probabilities * norms).mean(dim=1)
        return total * memory.mask[:, None]

    def generate(self, memory: Memory, max_length: int, beams: int) -> torch.Tensor:
        """Token sequences [rows, <= max_length], start token first, by Hugging Face's own generate."""
        outputs = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=memory.content)
        return self.t5.generate(encoder_outputs=outputs, attention_mask=memory.mask, max_length=max_length, num_beams=beams,
                                do_sample=False)

    @staticmethod
    def _side_by_side(states: torch.Tensor, batch: int) -> torch.Tensor:
        return states.reshape(batch, -1, states.shape[-1])
