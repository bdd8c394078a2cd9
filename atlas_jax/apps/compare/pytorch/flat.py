"""The flat layout in PyTorch: Hugging Face's weights and layers, passages one after another,
padding only in attention.

A PyTorch user could build this too. Without it, a comparison would credit JAX with the layout.
"""

import torch
import transformers

from atlas_jax.apps.compare.pytorch import torch_models


# PyTorch's own backward pass of a gather is a scatter with additions, which the flat layout avoids.
class _GatherPairs(torch.autograd.Function):
    """A gather of rows whose backward pass is a gather too: the two index maps are inverse on real
    positions.
    """

    @staticmethod
    def forward(context, values, indices, real, inverse, inverse_real):
        context.save_for_backward(inverse, inverse_real)
        # values [places, dim]; real [targets, 1] is 0 where a target is padding. In place, because
        # nothing else holds the gathered rows.
        return values.index_select(0, indices).mul_(real)

    @staticmethod
    def backward(context, gradient):
        inverse, inverse_real = context.saved_tensors
        return gradient.index_select(0, inverse).mul_(inverse_real), None, None, None, None


class FlatLayout:
    """Maps between padded rows [rows, longest] and a stream of all their tokens [tokens]."""

    def __init__(self, rows: torch_models.Rows, dtype: torch.dtype):
        flat = rows.flat
        self.mask = flat.mask.bool()  # [rows, longest]
        self.shape = tuple(flat.mask.shape)
        self.slots = self.mask.reshape(-1).nonzero()[:, 0]  # [tokens]
        self.tokens = flat.ids.reshape(-1)[self.slots]
        self.positions = self.slots % self.shape[1]  # position in the row, from 0
        # Padding points to some token, and `real` sets it to zero.
        self.places = (self.mask.reshape(-1).cumsum(0) - 1).clamp(min=0)  # [rows * longest]
        self.real = self.mask.reshape(-1, 1).to(dtype)
        self.ones = torch.ones((), dtype=dtype, device=flat.ids.device)

    def to_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Gathers a stream [tokens, dim] into rows [rows, longest, dim], 0 on padding."""
        # [tokens, dim] to [rows * longest, dim] to [rows, longest, dim]. The two maps are inverse
        # on real tokens.
        return _GatherPairs.apply(values, self.places, self.real, self.slots,
                                  self.ones).view(*self.shape, -1)

    def to_stream(self, values: torch.Tensor) -> torch.Tensor:
        """Gathers rows [rows, longest, dim] into a stream [tokens, dim]."""
        return _GatherPairs.apply(values.flatten(0, 1), self.slots, self.ones, self.places,
                                  self.real)


def embed(retriever: torch_models.TorchContriever, layout: FlatLayout) -> torch.Tensor:
    """Embeds every row of the layout: [rows, dim]."""
    bert = retriever.bert
    table = bert.embeddings
    # [tokens, dim] throughout; a Contriever has one segment, so every token has type 0.
    hidden = table.word_embeddings(layout.tokens) + table.position_embeddings(layout.positions)
    hidden = table.LayerNorm(hidden + table.token_type_embeddings.weight[0])
    mask = layout.mask[:, None, None]  # [rows, heads, queries, keys]
    for layer in bert.encoder.layer:
        own = layer.attention.self
        query, key, value = (_heads(layout.to_rows(part(hidden)), own.num_attention_heads)
                             for part in (own.query, own.key, own.value))
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value,
                                                                    attn_mask=mask)
        # [rows, heads, queries, head_dim] to [rows, queries, heads * head_dim]; `output` adds the
        # residual and normalises.
        hidden = layer.attention.output(layout.to_stream(attended.transpose(1, 2).flatten(2)),
                                        hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    return retriever.pool(layout.to_rows(hidden), layout.mask)


class FlatReader(torch_models.PaddedReader):
    """A reader whose memory is the decoder layers' keys and values, computed once from the stream.

    Memory.content is a pair of [rows, keys, heads * head_dim] for each layer.
    """

    def __init__(self, t5: transformers.T5ForConditionalGeneration):
        super().__init__(t5)
        self.heads = t5.config.num_heads

    def encode(self, rows: torch_models.Rows) -> torch_models.Memory:
        """Encodes rows [batch, n, length] to one row of keys and values for each passage."""
        layout = FlatLayout(rows, self.t5.dtype)
        hidden = self.encode_stream(layout)
        return torch_models.Memory(self.keys_values(layout, hidden), layout.mask)

    def encode_stream(self, layout: FlatLayout) -> torch.Tensor:
        """Returns encoder states [tokens, dim]."""
        encoder = self.t5.encoder
        hidden = encoder.embed_tokens(layout.tokens)
        # T5 keeps one position bias in its first layer and uses it in all: [1, heads, queries,
        # keys].
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(layout.shape[1],
                                                                    layout.shape[1])
        hidden_keys = ~layout.mask[:, None, None]  # [rows, heads, queries, keys]
        for block in encoder.block:
            own = block.layer[0].SelfAttention
            normed = block.layer[0].layer_norm(hidden)
            query, key, value = (_heads(layout.to_rows(part(normed)), self.heads)
                                 for part in (own.q, own.k, own.v))
            attended = _attend(query, key, value, bias, hidden_keys)
            hidden = block.layer[1](hidden + own.o(layout.to_stream(attended)))
        return encoder.final_layer_norm(hidden)

    def keys_values(self, layout: FlatLayout,
                    hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns keys and values [rows, longest, heads * head_dim] of each decoder layer's cross
        attention.
        """
        parts = [block.layer[1].EncDecAttention for block in self.t5.decoder.block]
        return [(layout.to_rows(part.k(hidden)), layout.to_rows(part.v(hidden))) for part in parts]

    def decode(self, memory: torch_models.Memory, decoder_ids: torch.Tensor) -> torch.Tensor:
        """Returns logits [rows, target_length, vocab] of decoder_ids [rows, target_length]."""
        decoder, length = self.t5.decoder, decoder_ids.shape[1]
        hidden = decoder.embed_tokens(decoder_ids)
        bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
        # A decoder position sees itself and earlier positions: [queries, keys].
        future = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        hidden_keys = ~memory.mask.bool()[:, None, None]
        for block, (keys, values) in zip(decoder.block, memory.content, strict=True):
            own, cross = block.layer[0].SelfAttention, block.layer[1].EncDecAttention
            normed = block.layer[0].layer_norm(hidden)
            query, key, value = (_heads(part(normed), self.heads) for part in (own.q, own.k, own.v))
            hidden = hidden + own.o(_attend(query, key, value, bias, future))
            query = _heads(cross.q(block.layer[1].layer_norm(hidden)), self.heads)
            hidden = hidden + cross.o(
                _attend(query, _heads(keys, self.heads), _heads(values, self.heads), None,
                        hidden_keys))
            hidden = block.layer[2](hidden)
        hidden = decoder.final_layer_norm(hidden)
        # T5 1.0 ties its embeddings and scales the decoder output; T5 1.1 does neither.
        tied = self.t5.lm_head.weight is self.t5.shared.weight
        return self.t5.lm_head(hidden * (self.t5.config.d_model**-0.5 if tied else 1.0))

    @staticmethod
    def _side_by_side(pairs, batch: int):
        # [batch * n, longest, dim] to [batch, n * longest, dim]
        return [tuple(part.reshape(batch, -1, part.shape[-1]) for part in pair) for pair in pairs]


def _heads(joined: torch.Tensor, heads: int) -> torch.Tensor:
    """Splits heads: [rows, length, heads * head_dim] to [rows, heads, length, head_dim]."""
    return joined.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None,
            hidden: torch.Tensor) -> torch.Tensor:
    """Attends without scaling, like T5: [rows, queries, heads * head_dim]. `hidden` is True on keys
    that must not be seen.
    """
    # T5 does not divide by the root of the head's size; its initialisation makes up for it.
    logits = query @ key.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    # The smallest number, as in Hugging Face. With -inf, a row whose keys are all hidden would
    # become NaN.
    probabilities = logits.masked_fill(hidden, torch.finfo(logits.dtype).min).softmax(dim=-1)
    # from [rows, heads, queries, head_dim]
    return (probabilities @ value).transpose(1, 2).flatten(2)
