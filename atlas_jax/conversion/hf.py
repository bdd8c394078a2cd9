"""Hugging Face folders of a T5, and of a BERT as a Contriever: read to (config, params) and written back.

Params are nested dicts of float32 numpy arrays under our names.
"""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf_configs, hf_files, hf_names, sentence_transformer
from atlas_jax.models import contriever, t5

Params = dict[str, Any]

# Copies of the shared embedding, and of the output kernel where it is tied.
_T5_ALIASES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_BERT_PREFIXES = ('bert.', 'contriever.')
# Parts of BERT that a Contriever does without: the pooler, heads of pre-training, and a buffer that is no parameter.
_BERT_IGNORED = re.compile(r'pooler\.|cls\.|embeddings\.(position_ids|token_type_ids)$')


def load_t5(folder: str | os.PathLike) -> tuple[t5.T5Config, Params]:
    """Reads a T5 v1.0, v1.1 or FLAN folder.

    Raises ModelFolderError for a missing or broken file, another kind of model, an option that T5Config lacks, and a parameter that is
    missing, unknown, mis-shaped, or tied by config.json and yet different from its copy.
    """
    folder = pathlib.Path(folder)
    config = hf_configs.read_t5(folder)
    tensors = hf_files.Tensors(folder)
    names = {name: name for name in tensors.names()}
    copies = [*_T5_ALIASES, *(['lm_head.weight'] if config.logits_via_embedding else [])]
    if 'shared.weight' not in names and _T5_ALIASES[0] in names:
        names['shared.weight'] = names[_T5_ALIASES[0]]
    shared = tensors.read(names['shared.weight']) if 'shared.weight' in names else None
    for copy in copies:
        actual = names.pop(copy, None)
        if actual is not None and shared is not None and not np.array_equal(tensors.read(actual), shared):
            raise errors.ModelFolderError(f'{folder}: {copy} differs from shared.weight, though config.json ties them; if the output has '
                                          'weights of its own, set "tie_word_embeddings": false in config.json')
    return config, _read(tensors, names, hf_names.t5_table(config), _shapes(t5.init_params, config))


def load_contriever(folder: str | os.PathLike, layer_norm: str | None = None) -> tuple[contriever.ContrieverConfig, Params]:
    """Reads a BERT, Contriever or sentence-transformers folder; its pooler is left out.

    Args:
      layer_norm: 'true' or 'second_moment'; None takes the folder's own word and, where it has none, 'true', as everywhere but in
        released Atlas checkpoints.

    Raises ModelFolderError for a missing or broken file, another kind of model, an option or module that ContrieverConfig lacks, and a
    parameter that is missing, unknown or mis-shaped; ConfigError for an unknown `layer_norm`.
    """
    described = sentence_transformer.describe(pathlib.Path(folder))
    config = hf_configs.read_contriever(described, layer_norm)
    tensors = hf_files.Tensors(described.bert_folder)
    names = {}
    for name in tensors.names():
        prefix = next((prefix for prefix in _BERT_PREFIXES if name.startswith(prefix)), '')
        if not _BERT_IGNORED.match(name[len(prefix):]):
            names[name[len(prefix):]] = name
    return config, _read(tensors, names, hf_names.contriever_table(config), _shapes(contriever.init_params, config))


def write_t5(folder: str | os.PathLike, config: t5.T5Config, params: Params) -> None:
    """Writes config.json and model.safetensors that transformers loads; raises DiskFullError."""
    hf_files.write(folder, hf_configs.t5_json(config), _export(hf_names.t5_table(config), params))


def write_contriever(folder: str | os.PathLike, config: contriever.ContrieverConfig, params: Params) -> None:
    """Writes a BERT folder that transformers and sentence-transformers load; raises DiskFullError.

    A second-moment layer norm is noted in config.json under `layer_norm`, which `load_contriever` heeds and others do not.
    """
    sentence_transformer.write(pathlib.Path(folder), config.emb_dim, config.pooling, config.normalize)
    hf_files.write(folder, hf_configs.contriever_json(config), _export(hf_names.contriever_table(config), params))


def _shapes(init_params, config) -> dict[str, tuple[int, ...]]:
    boxed = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in hf_names.flatten(nn.unbox(boxed)).items()}


def _read(tensors: hf_files.Tensors, names: dict[str, str], table: hf_names.Table, shapes: dict[str, tuple[int, ...]]) -> Params:
    """names: Hugging Face's name of each tensor -> its name in the file."""
    expected = {entry.name for entry in table.values()}
    _refuse(tensors.folder, 'lacks', expected - set(names), 'the weights belong to another config.json, or the copy is not whole')
    _refuse(tensors.folder, 'has unknown', set(names) - expected, 'the weights belong to another config.json or kind of model')
    flat = {}
    for path, entry in table.items():
        needed = shapes[path][::-1] if entry.transpose else shapes[path]
        found = tensors.shape(names[entry.name])
        if found != needed:
            raise errors.ModelFolderError(f'{tensors.folder}: {entry.name} has shape {list(found)}, expected {list(needed)} by '
                                          'config.json; the two do not belong together')
        flat[path] = entry.transform(tensors.read(names[entry.name]))
    return hf_names.nest(flat)


def _refuse(folder: pathlib.Path, verb: str, names: Iterable[str], reason: str) -> None:
    names = sorted(names)
    if names:
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        raise errors.ModelFolderError(f'{folder}: {verb} parameters {", ".join(names[:3])}{more}; {reason}')


def _export(table: hf_names.Table, params: Params) -> dict[str, np.ndarray]:
    flat = hf_names.flatten(params)
    return {entry.name: entry.transform(np.asarray(flat[path], np.float32)) for path, entry in table.items()}
