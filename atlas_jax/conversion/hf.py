"""Hugging Face folders of a T5, and of a BERT as a Contriever: opened, read to (config, params), and written back.

Params are nested dicts of float32 numpy arrays under our names.
"""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf_configs, hf_files, hf_names, sentence_transformer, weights
from atlas_jax.models import contriever, t5

Params = weights.Params

# Copies of the shared embedding, and of the output kernel where it is tied.
_T5_ALIASES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# An unused parameter of the first T5 checkpoints.
_T5_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
_BERT_PREFIXES = ('bert.', 'contriever.')
# Parts of BERT that a Contriever does without: the pooler, heads of pre-training, and a buffer that is no parameter.
_BERT_IGNORED = re.compile(r'pooler\.|cls\.|embeddings\.(position_ids|token_type_ids)$')
# Names that TensorFlow gave a layer norm, still in old BERT files.
_BERT_OLD = (('LayerNorm.gamma', 'LayerNorm.weight'), ('LayerNorm.beta', 'LayerNorm.bias'))


def open_t5(folder: str | os.PathLike) -> weights.Weights:
    """Opens a T5 v1.0, v1.1 or FLAN folder.

    Raises ModelFolderError for a missing or broken file, another kind of model, an option that T5Config lacks, and a parameter that is
    missing, unknown, mis-shaped, or tied by config.json and yet different from its copy.
    """
    folder = pathlib.Path(folder)
    config, tensors = hf_configs.read_t5(folder), hf_files.Tensors(folder)
    return of_tensors(config, tensors, t5_names(tensors, tensors.names(), config.logits_via_embedding), folder)


def open_contriever(folder: str | os.PathLike, layer_norm: str | None = None) -> weights.Weights:
    """Opens a BERT, Contriever or sentence-transformers folder; its pooler is left out.

    Args:
      layer_norm: 'true' or 'second_moment'; None takes the folder's own word and, where it has none, 'true', as everywhere but in
        released Atlas checkpoints.

    Raises ModelFolderError for a missing or broken file, another kind of model, an option or module that ContrieverConfig lacks, and a
    parameter that is missing, unknown or mis-shaped; ConfigError for an unknown `layer_norm`.
    """
    described = sentence_transformer.describe(pathlib.Path(folder))
    config = hf_configs.read_contriever(described, layer_norm)
    tensors = hf_files.Tensors(described.bert_folder)
    return of_tensors(config, tensors, contriever_names(tensors.names()), described.bert_folder)


def load_t5(folder: str | os.PathLike) -> tuple[t5.T5Config, Params]:
    """Reads what `open_t5` opens, as (config, params)."""
    opened = open_t5(folder)
    return opened.config, opened.params()


def load_contriever(folder: str | os.PathLike, layer_norm: str | None = None) -> tuple[contriever.ContrieverConfig, Params]:
    """Reads what `open_contriever` opens, as (config, params)."""
    opened = open_contriever(folder, layer_norm)
    return opened.config, opened.params()


def write_t5(folder: str | os.PathLike, config: t5.T5Config, params: Params) -> None:
    """Writes config.json and model.safetensors that transformers loads; raises DiskFullError."""
    write(folder, weights.of_params(config, params))


def write_contriever(folder: str | os.PathLike, config: contriever.ContrieverConfig, params: Params) -> None:
    """Writes a BERT folder that transformers and sentence-transformers load; raises DiskFullError.

    A second-moment layer norm is noted in config.json under `layer_norm`, which `load_contriever` heeds and others do not.
    """
    write(folder, weights.of_params(config, params))


def write(folder: str | os.PathLike, opened: weights.Weights, dtype: str = 'float32', shard_bytes: int = hf_files.SHARD_BYTES) -> None:
    """Writes a reader or retriever, one parameter in memory at a time.

    Args:
      dtype, shard_bytes: of hf_files.write.

    Raises DiskFullError, and ConfigError for a configuration that Hugging Face has no name for.
    """
    config = opened.config
    if isinstance(config, t5.T5Config):
        table, options = hf_names.t5_table(config), hf_configs.t5_json(config)
    else:
        table, options = hf_names.contriever_table(config), hf_configs.contriever_json(config)
        sentence_transformer.write(pathlib.Path(folder), config.emb_dim, config.pooling, config.normalize)
    paths = {table[path].name: path for path in opened.order()}
    shapes = {name: table[path].shape(opened.shapes[path]) for name, path in paths.items()}
    hf_files.write(folder, options, shapes, lambda name: table[paths[name]].transform(opened.read(paths[name])), dtype, shard_bytes)


def t5_names(tensors: Any, names: Iterable[str], tied: bool, prefix: str = '') -> dict[str, str]:
    """Hugging Face's name of each parameter -> its name in the file.

    Args:
      tensors: whose names begin with `prefix`, such as 'reader.'.
      tied: whether the output kernel is the embedding.

    Raises ModelFolderError where a copy of the embedding differs from it.
    """
    names = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    names.pop(_T5_UNUSED, None)
    if 'shared.weight' not in names and _T5_ALIASES[0] in names:
        names['shared.weight'] = names[_T5_ALIASES[0]]
    shared = tensors.read(names['shared.weight']) if 'shared.weight' in names else None
    for copy in (*_T5_ALIASES, *(['lm_head.weight'] if tied else [])):
        actual = names.pop(copy, None)
        if actual is not None and shared is not None and not np.array_equal(tensors.read(actual), shared):
            hint = ', though config.json ties them; if the output has weights of its own, set "tie_word_embeddings": false in config.json'
            raise errors.ModelFolderError(f'{tensors.path}: {copy} differs from shared.weight{hint}')
    return names


def contriever_names(names: Iterable[str], prefix: str = '') -> dict[str, str]:
    """Hugging Face's name of each parameter of a Contriever -> its name in the file; the parts it does without are left out."""
    found = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        short = short.removeprefix(next((start for start in _BERT_PREFIXES if short.startswith(start)), ''))
        for old, new in _BERT_OLD:
            short = short.replace(old, new)
        if not _BERT_IGNORED.match(short):
            found[short] = name
    return found


def of_tensors(config: t5.T5Config | contriever.ContrieverConfig, tensors: Any, names: dict[str, str], where: Any,
               source: str = 'config.json') -> weights.Weights:
    """Weights of tensors under Hugging Face's names.

    Args:
      tensors: has `shape(name)` and `read(name)`.
      names: of `t5_names` or `contriever_names`.
      where, source: for messages: the folder, and what the configuration comes from.

    Raises ModelFolderError naming a parameter that is missing, unknown or mis-shaped.
    """
    table = hf_names.t5_table(config) if isinstance(config, t5.T5Config) else hf_names.contriever_table(config)
    shapes = weights.expected_shapes(config)
    weights.check(where, {name: tensors.shape(actual) for name, actual in names.items()},
                  {entry.name: entry.shape(shapes[path]) for path, entry in table.items()}, source)
    return weights.Weights(config, shapes, lambda path: table[path].transform(tensors.read(names[table[path].name])))
