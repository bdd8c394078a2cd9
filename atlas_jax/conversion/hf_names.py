"""Parameter names of Hugging Face beside ours, with the transform between them.

A table maps our path (`encoder/layers_0/attention/query/kernel`) to Hugging Face's name and states
whether the matrix is transposed. PyTorch's linear layers keep [out, in], ours [in, out].
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from atlas_jax.models import contriever, t5


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter at Hugging Face.

    Attributes:
      name: Hugging Face's name.
      transpose: True if its two dimensions are swapped against ours.
    """

    name: str
    transpose: bool = False

    def transform(self, array: np.ndarray) -> np.ndarray:
        """Swaps [in, out] and [out, in] where the entry is transposed; C-contiguous. Converts both
        ways, because the swap is its own inverse.
        """
        # A transposed matrix is a view in column order, but files are written row by row.
        return np.ascontiguousarray(array.T if self.transpose else array)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that `transform` gives an array of this shape."""
        return tuple(shape[::-1] if self.transpose else shape)


Table = dict[str, Entry]
# The attentions of a layer in Hugging Face's order: our norm, our attention, Hugging Face's name.
_T5_ATTENTIONS = {
    'encoder': (('pre_attention_layer_norm', 'attention', 'SelfAttention'), ),
    'decoder': (('pre_self_attention_layer_norm', 'self_attention', 'SelfAttention'),
                ('pre_cross_attention_layer_norm', 'encoder_decoder_attention',
                 'EncDecAttention'))}
_T5_PROJECTIONS = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
_BERT_EMBEDDINGS = {'token': 'word', 'position': 'position', 'type': 'token_type'}
_BERT_DENSE = {
    'attention/query': 'attention.self.query', 'attention/key': 'attention.self.key',
    'attention/value': 'attention.self.value', 'attention/out': 'attention.output.dense',
    'mlp/wi': 'intermediate.dense', 'mlp/wo': 'output.dense'}
# BERT normalises after each sublayer.
_BERT_NORMS = {
    'post_attention_layer_norm': 'attention.output.LayerNorm',
    'post_mlp_layer_norm': 'output.LayerNorm'}


def table(config: t5.T5Config | contriever.ContrieverConfig) -> Table:
    """Returns the table of a T5 or a Contriever."""
    if isinstance(config, contriever.ContrieverConfig):
        return _contriever_table(config.num_layers)
    return t5_table(config.num_encoder_layers, config.num_decoder_layers,
                    len(config.mlp_activations) > 1, config.logits_via_embedding)


def t5_table(num_encoder_layers: int, num_decoder_layers: int, gated: bool, tied: bool) -> Table:
    """Returns the table of a T5.

    Args:
      gated: True if its MLPs are gated.
      tied: True if its output kernel is the embedding.
    """
    # Embeddings are [vocab, embed] on both sides.
    found = {'token_embedder/embedding': Entry('shared.weight')}
    # A tied output has no parameter of its own.
    if not tied:
        found['decoder/logits_dense/kernel'] = Entry('lm_head.weight', True)
    # wi_0 is the branch with the activation and wi_1 the linear one, on both sides: swapped, logits
    # of std 1 are off by 4.
    parts = ('wi_0', 'wi_1', 'wo') if gated else ('wi', 'wo')
    for side, num_layers in (('encoder', num_encoder_layers), ('decoder', num_decoder_layers)):
        # Hugging Face keeps the one position bias of a stack in its first layer; ours is
        # [heads, buckets].
        bias_name = f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
        found[f'{side}/relpos_bias/rel_embedding'] = Entry(bias_name, True)
        found[f'{side}/{side}_norm/scale'] = Entry(f'{side}.final_layer_norm.weight')
        for i in range(num_layers):
            ours, theirs = f'{side}/layers_{i}', f'{side}.block.{i}.layer'
            # Hugging Face numbers the sublayers; the MLP comes last.
            for j, (norm, attention, name) in enumerate(_T5_ATTENTIONS[side]):
                found[f'{ours}/{norm}/scale'] = Entry(f'{theirs}.{j}.layer_norm.weight')
                # Both sides join the heads on one axis, head-major: [embed, heads * kv] in ours.
                for part, letter in _T5_PROJECTIONS.items():
                    found[f'{ours}/{attention}/{part}/kernel'] = Entry(
                        f'{theirs}.{j}.{name}.{letter}.weight', True)
            last = f'{theirs}.{len(_T5_ATTENTIONS[side])}'
            found[f'{ours}/pre_mlp_layer_norm/scale'] = Entry(f'{last}.layer_norm.weight')
            found |= {
                f'{ours}/mlp/{part}/kernel': Entry(f'{last}.DenseReluDense.{part}.weight', True)
                for part in parts}
    return found


def _contriever_table(num_layers: int) -> Table:
    """Returns the table of a Contriever; names without the `bert.` or `contriever.` that some files
    put before them.
    """
    dense: dict[str, str] = {}
    norms = {'bert/embedder_norm': 'embeddings.LayerNorm'}
    for i in range(num_layers):
        dense |= {f'bert/layers_{i}/{ours}': f'encoder.layer.{i}.{theirs}'
                  for ours, theirs in _BERT_DENSE.items()}
        norms |= {f'bert/layers_{i}/{ours}': f'encoder.layer.{i}.{theirs}'
                  for ours, theirs in _BERT_NORMS.items()}
    # Embeddings are [rows, emb_dim] on both sides.
    found = {f'bert/{ours}_embedder/embedding': Entry(f'embeddings.{theirs}_embeddings.weight')
             for ours, theirs in _BERT_EMBEDDINGS.items()}
    found |= {f'{ours}/kernel': Entry(f'{theirs}.weight', True) for ours, theirs in dense.items()}
    found |= {f'{ours}/scale': Entry(f'{theirs}.weight') for ours, theirs in norms.items()}
    found |= {f'{ours}/bias': Entry(f'{theirs}.bias') for ours, theirs in (dense | norms).items()}
    return found


def flatten(tree: Any) -> dict[str, Any]:
    """Flattens a nested dict: leaves by path, as `encoder/layers_0/...`."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {'/'.join(key.key for key in path): leaf for path, leaf in paths}


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Nests leaves by path: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split('/')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
