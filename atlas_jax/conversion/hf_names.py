"""Parameter names of Hugging Face beside ours, with the transform between them.

A table maps our path (`encoder/layers_0/attention/query/kernel`) to Hugging Face's name and states whether the matrix is transposed.
PyTorch's linear layers keep [out, in], ours [in, out].
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from atlas_jax.models import contriever, t5


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter at Hugging Face: its name, and True if its two dimensions are swapped against ours."""

    name: str
    transpose: bool = False

    def transform(self, array: np.ndarray) -> np.ndarray:
        """Converts an array from our [in, out] to Hugging Face's [out, in] or back, for the swap is its own inverse; C-contiguous."""
        # A transposed matrix is a view in column order, and files are written row by row.
        return np.ascontiguousarray(array.T if self.transpose else array)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that `transform` gives an array of this shape."""
        return tuple(shape[::-1] if self.transpose else shape)


Table = dict[str, Entry]


def t5_table(config: t5.T5Config) -> Table:
    """Returns the table of a T5."""
    return t5_table_of(config.num_encoder_layers, config.num_decoder_layers, len(config.mlp_activations) > 1, config.logits_via_embedding)


def t5_table_of(num_encoder_layers: int, num_decoder_layers: int, gated: bool, tied: bool) -> Table:
    """Returns the table of a T5 from its numbers of layers, and whether its MLPs are gated and its embeddings tied."""
    table = {'token_embedder/embedding': Entry('shared.weight')}
    # A tied output is the embedding: there is no parameter to name.
    if not tied:
        # [embed, vocab] here, [vocab, embed] there; the embedding itself is [vocab, embed] on both sides.
        table['decoder/logits_dense/kernel'] = Entry('lm_head.weight', True)
    # wi_0 is the branch with the activation and wi_1 the linear one, on both sides: swapped, logits of std 1 are off by 4.
    wide = ['wi_0', 'wi_1'] if gated else ['wi']
    # Norm, attention and Hugging Face's name of each attention of a layer, in the order in which Hugging Face numbers its sublayers.
    stacks = {
        'encoder': (num_encoder_layers, (('pre_attention_layer_norm', 'attention', 'SelfAttention'),)),
        'decoder': (num_decoder_layers, (('pre_self_attention_layer_norm', 'self_attention', 'SelfAttention'),
                                         ('pre_cross_attention_layer_norm', 'encoder_decoder_attention', 'EncDecAttention'))),
    }
    for side, (num_layers, attentions) in stacks.items():
        # Hugging Face keeps the one position bias of a stack in its first layer.
        bias_name = f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
        table[f'{side}/relpos_bias/rel_embedding'] = Entry(bias_name, True)  # [heads, buckets] here
        table[f'{side}/{side}_norm/scale'] = Entry(f'{side}.final_layer_norm.weight')
        for i in range(num_layers):
            ours, theirs = f'{side}/layers_{i}', f'{side}.block.{i}.layer'
            for j, (norm, attention, name) in enumerate(attentions):
                table[f'{ours}/{norm}/scale'] = Entry(f'{theirs}.{j}.layer_norm.weight')
                # Heads are joined on one axis, head-major, on both sides: [embed, heads * kv] here, so a transpose is all it takes.
                for part, letter in (('query', 'q'), ('key', 'k'), ('value', 'v'), ('out', 'o')):
                    table[f'{ours}/{attention}/{part}/kernel'] = Entry(f'{theirs}.{j}.{name}.{letter}.weight', True)
            # The MLP comes after the attentions: sublayer 1 of an encoder layer, 2 of a decoder layer.
            last = len(attentions)
            table[f'{ours}/pre_mlp_layer_norm/scale'] = Entry(f'{theirs}.{last}.layer_norm.weight')
            for part in (*wide, 'wo'):
                table[f'{ours}/mlp/{part}/kernel'] = Entry(f'{theirs}.{last}.DenseReluDense.{part}.weight', True)
    return table


def contriever_table(config: contriever.ContrieverConfig) -> Table:
    """Returns the table of a Contriever; names without the `bert.` or `contriever.` that some files put before them."""
    table: Table = {}
    # Embeddings have the same layout on both sides, [rows, emb_dim].
    for ours, theirs in (('token', 'word'), ('position', 'position'), ('type', 'token_type')):
        table[f'bert/{ours}_embedder/embedding'] = Entry(f'embeddings.{theirs}_embeddings.weight')
    _add_pair(table, 'bert/embedder_norm', 'embeddings.LayerNorm', norm=True)
    for i in range(config.num_layers):
        ours, theirs = f'bert/layers_{i}', f'encoder.layer.{i}'
        # BERT normalises after each sublayer: the norms below belong to the output of attention and of the MLP.
        for part in ('query', 'key', 'value'):
            _add_pair(table, f'{ours}/attention/{part}', f'{theirs}.attention.self.{part}')
        _add_pair(table, f'{ours}/attention/out', f'{theirs}.attention.output.dense')
        _add_pair(table, f'{ours}/post_attention_layer_norm', f'{theirs}.attention.output.LayerNorm', norm=True)
        _add_pair(table, f'{ours}/mlp/wi', f'{theirs}.intermediate.dense')
        _add_pair(table, f'{ours}/mlp/wo', f'{theirs}.output.dense')
        _add_pair(table, f'{ours}/post_mlp_layer_norm', f'{theirs}.output.LayerNorm', norm=True)
    return table


def _add_pair(table: Table, ours: str, theirs: str, norm: bool = False) -> None:
    """Adds a weight and its bias; a norm's weight is a vector of scales, which nothing transposes."""
    # Flax calls the weight of a norm its scale.
    table[f'{ours}/{"scale" if norm else "kernel"}'] = Entry(f'{theirs}.weight', not norm)
    table[f'{ours}/bias'] = Entry(f'{theirs}.bias')


def flatten(tree: Any) -> dict[str, Any]:
    """Flattens a nested dict: leaves by path, as `encoder/layers_0/...`."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {'/'.join(key.key for key in path): leaf for path, leaf in paths}


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Makes a nested dict of leaves by path: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split('/')
        # Parents are made on the way down, so that leaves may come in any order.
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
