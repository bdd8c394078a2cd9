"""Hugging Face folders of a T5 or a BERT: opened as a reader or a retriever, and written.

Params are nested dicts of float32 numpy arrays under our names.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf_files, hf_names, known_keys, retriever_folder, weights
from atlas_jax.io import untrusted
from atlas_jax.models import contriever, t5


def _size(path: pathlib.Path, config: dict[str, Any], key: str, default: int | None = None) -> int:
    """Returns an integer of config.json. Without a default it is required."""
    # Sizes have no default and are at least 1. Token ids have a default and may be 0.
    value, least = (config.get(key), 1) if default is None else (config.get(key, default), 0)
    # Python counts a bool as an int: true would pass as 1.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise errors.ModelFolderError(f'{path}: {key} is {untrusted.shown(value)}, expected an '
                                      f'integer of at least {least}')
    return value


def _fraction(path: pathlib.Path, config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not untrusted.has_type(value, float) or not 0 <= value < 1:
        raise errors.ModelFolderError(f'{path}: {key} is {untrusted.shown(value)}, expected a '
                                      'number of at least 0 and below 1')
    return float(value)


def _flag(path: pathlib.Path, config: dict[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    # transformers writes null for a missing flag.
    if value is not None and not isinstance(value, bool):
        raise errors.ModelFolderError(f'{path}: {key} is {untrusted.shown(value)}, expected true '
                                      'or false')
    return default if value is None else value


# Activations by the name in `feed_forward_proj`. Hugging Face computes "gated-gelu" in the tanh
# form and an ungated "gelu" in the erf form.
_T5_ACTIVATIONS = {
    'relu': ('relu', ), 'gelu': ('gelu_erf', ), 'gelu_new': ('gelu', ), 'silu': ('silu', ),
    'gated-gelu': ('gelu', 'linear'), 'gated-relu': ('relu', 'linear'),
    'gated-silu': ('silu', 'linear')}
# The fields that config.json has under another name: our field, Hugging Face's key, the function
# that reads the value, and the default. Defaults are those of transformers, because older files
# leave out what equals them.
_Fields = tuple[tuple[str, str, Callable[..., Any], int | float | None], ...]
_T5_FIELDS: _Fields = (
    ('vocab_size', 'vocab_size', _size, None),
    ('emb_dim', 'd_model', _size, None),
    ('num_heads', 'num_heads', _size, None),
    ('head_dim', 'd_kv', _size, None),
    ('mlp_dim', 'd_ff', _size, None),
    ('num_encoder_layers', 'num_layers', _size, None),
    ('relpos_buckets', 'relative_attention_num_buckets', _size, 32),
    ('relpos_max_distance', 'relative_attention_max_distance', _size, 128),
    ('dropout_rate', 'dropout_rate', _fraction, 0.1),
    ('layer_norm_epsilon', 'layer_norm_epsilon', _fraction, 1e-6),
    ('pad_id', 'pad_token_id', _size, 0),
    ('eos_id', 'eos_token_id', _size, 1),
    # The decoder starts with the padding token.
    ('decoder_start_id', 'decoder_start_token_id', _size, 0))
_BERT_FIELDS: _Fields = (
    ('vocab_size', 'vocab_size', _size, None),
    ('emb_dim', 'hidden_size', _size, None),
    ('num_heads', 'num_attention_heads', _size, None),
    ('num_layers', 'num_hidden_layers', _size, None),
    ('mlp_dim', 'intermediate_size', _size, None),
    ('max_positions', 'max_position_embeddings', _size, None),
    ('type_vocab_size', 'type_vocab_size', _size, None),
    # BERT's own default, unlike T5's 1e-6.
    ('layer_norm_epsilon', 'layer_norm_eps', _fraction, 1e-12),
    ('dropout_rate', 'hidden_dropout_prob', _fraction, 0.1))


def _fields(path: pathlib.Path, config: dict[str, Any], table: _Fields) -> dict[str, Any]:
    """Returns the values of config.json by our fields' names."""
    return {field: read(path, config, key, default) for field, key, read, default in table}


def read_t5_config(folder: pathlib.Path) -> t5.T5Config:
    """Reads the T5Config of a folder.

    Raises ModelFolderError if config.json is missing, broken or another model's.
    """
    config, path = hf_files.read_config(folder, ('t5', 'mt5')), folder / 'config.json'
    known_keys.check(path, config, known_keys.T5_CONFIG, unknown=True)
    is_mt5 = config['model_type'] == 'mt5'
    # Files of T5 1.0 are older than this option; T5 1.0 uses relu.
    activations = config.get('feed_forward_proj', 'gated-gelu' if is_mt5 else 'relu')
    if not isinstance(activations, str) or activations not in _T5_ACTIVATIONS:
        raise errors.ModelFolderError(f'{path}: feed_forward_proj is '
                                      f'{untrusted.shown(activations)}; known are '
                                      f'{", ".join(_T5_ACTIVATIONS)}')
    # transformers 5 always writes tie_word_embeddings true; scale_decoder_outputs holds the true
    # setting. An mT5 always has a separate output layer, whatever its file says.
    tied = _flag(path, config, 'scale_decoder_outputs',
                 _flag(path, config, 'tie_word_embeddings', True)) and not is_mt5
    # Missing or null: the decoder has as many layers as the encoder.
    decoder_key = 'num_layers' if config.get('num_decoder_layers') is None else 'num_decoder_layers'
    with _naming_file(path):
        return t5.T5Config(**_fields(path, config, _T5_FIELDS),
                           num_decoder_layers=_size(path, config, decoder_key),
                           mlp_activations=_T5_ACTIVATIONS[activations], logits_via_embedding=tied)


def t5_json(config: t5.T5Config) -> dict[str, Any]:
    """Returns the config.json of a T5Config.

    Raises ConfigError if Hugging Face has no name for its activations.
    """
    names = {activations: name for name, activations in _T5_ACTIVATIONS.items()}
    if config.mlp_activations not in names:
        raise errors.ConfigError(f'mlp_activations {config.mlp_activations} have no name at '
                                 f'Hugging Face; it knows {sorted(names)}')
    return {
        'architectures': ['T5ForConditionalGeneration'], 'model_type': 't5',
        'is_encoder_decoder': True,
        **{key: getattr(config, field) for field, key, *_ in _T5_FIELDS},
        'num_decoder_layers': config.num_decoder_layers,
        'feed_forward_proj': names[config.mlp_activations],
        'tie_word_embeddings': config.logits_via_embedding}


def read_contriever_config(described: retriever_folder.RetrieverDescription,
                           layer_norm: str | None) -> contriever.ContrieverConfig:
    """Reads the ContrieverConfig of a folder; `layer_norm` None uses the folder's setting.

    Raises:
      ModelFolderError: config.json is missing, broken or another model's.
      ConfigError: `layer_norm` is unknown.
    """
    path = described.bert_folder / 'config.json'
    config = hf_files.read_config(described.bert_folder, ('bert', 'contriever'))
    # Other activations and positions would load without an error and give wrong embeddings. BERT's
    # 'gelu' is the erf form.
    known_keys.check(path, config, known_keys.BERT_CONFIG, unknown=True)
    fields = _fields(path, config, _BERT_FIELDS)
    # Our own folders state pooling and normalisation in config.json, too; modules.json is what
    # sentence-transformers reads.
    normalize = described.normalize
    if normalize is None:
        normalize = _flag(path, config, 'normalize', False)
    # sentence-transformers ignores a dimension above the model's.
    truncate_dim = described.truncate_dim
    if truncate_dim is not None and truncate_dim >= fields['emb_dim']:
        truncate_dim = None
    # An unknown `layer_norm` is the caller's mistake if it was given, else the file's.
    with _naming_file(path) if layer_norm is None else contextlib.nullcontext():
        return contriever.ContrieverConfig(
            **fields, layer_norm=layer_norm or config.get('layer_norm', 'true'),
            pooling=described.pooling or config.get('pooling', 'average'), normalize=normalize,
            truncate_dim=truncate_dim, max_tokens=described.max_tokens,
            query_prompt=described.query_prompt, passage_prompt=described.passage_prompt)


def contriever_json(config: contriever.ContrieverConfig) -> dict[str, Any]:
    """Returns the config.json of a ContrieverConfig."""
    options = {
        'architectures': ['BertModel'], 'model_type': 'bert',
        **{key: getattr(config, field) for field, key, *_ in _BERT_FIELDS},
        'attention_probs_dropout_prob': config.dropout_rate, 'hidden_act': 'gelu',
        'position_embedding_type': 'absolute', 'pad_token_id': 0, 'pooling': config.pooling,
        'normalize': config.normalize}
    # No key for the usual norm: the folder is then that of any BERT.
    return options if config.layer_norm == 'true' else {**options, 'layer_norm': config.layer_norm}


@contextlib.contextmanager
def _naming_file(path: pathlib.Path) -> Iterator[None]:
    """Turns the ConfigError of a configuration into a ModelFolderError that names its file."""
    try:
        yield
    except errors.ConfigError as error:
        raise errors.ModelFolderError(f'{path}: {error}') from error


# Names under which files repeat the shared embedding.
_T5_ALIASES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# An unused parameter of the first T5 checkpoints.
_T5_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
_BERT_PREFIXES = ('bert.', 'contriever.')
# Parts of BERT that a Contriever does not use: the pooler, heads of pre-training, and buffers.
_BERT_IGNORED = re.compile(r'pooler\.|cls\.|embeddings\.(position_ids|token_type_ids)$')
# Old BERT files still have TensorFlow's names of a layer norm's parameters.
_BERT_OLD = (('LayerNorm.gamma', 'LayerNorm.weight'), ('LayerNorm.beta', 'LayerNorm.bias'))


def open_t5(folder: str | os.PathLike) -> weights.Weights[t5.T5Config]:
    """Opens a T5 v1.0, v1.1 or FLAN folder.

    Raises:
      ModelFolderError: a file is missing or broken, the model is of another kind or has an option
        that T5Config lacks, or a parameter is missing, unknown, mis-shaped, or differs from a copy
        that config.json ties to it.
    """
    folder = pathlib.Path(folder)
    config, tensors = read_t5_config(folder), hf_files.Tensors(folder)
    return of_tensors(config, tensors, t5_names(tensors, config.logits_via_embedding), folder)


def open_contriever(folder: str | os.PathLike,
                    layer_norm: str | None = None) -> weights.Weights[contriever.ContrieverConfig]:
    """Opens a BERT, Contriever or sentence-transformers folder without its pooler.

    Args:
      layer_norm: 'true' or 'second_moment'. None uses the folder's setting, by default 'true'.
        Only the retrievers of released Atlas checkpoints need 'second_moment'.

    Raises:
      ModelFolderError: a file is missing or broken, the model is of another kind or has an option
        or module that ContrieverConfig lacks, or a parameter is missing, unknown or mis-shaped.
      ConfigError: `layer_norm` is unknown.
    """
    described = retriever_folder.describe(pathlib.Path(folder))
    config = read_contriever_config(described, layer_norm)
    retriever_folder.check_width(pathlib.Path(folder), config.emb_dim)
    tensors = hf_files.Tensors(described.bert_folder)
    return of_tensors(config, tensors, contriever_names(tensors.names()), described.bert_folder)


def write_params(folder: str | os.PathLike, config: weights.Config, params: weights.Params) -> None:
    """Writes parameters in memory as `write` does. Raises ConfigError, DiskFullError."""
    write(folder, weights.of_params(config, params))


def write(folder: str | os.PathLike, opened: weights.Weights[weights.Config],
          dtype: str = 'float32', shard_bytes: int = hf_files.SHARD_BYTES) -> None:
    """Writes a reader or retriever, one parameter in memory at a time.

    transformers loads either folder; sentence-transformers loads a retriever's. config.json notes a
    second-moment layer norm under `layer_norm`, which `open_contriever` uses and other programs do
    not.

    Args:
      dtype, shard_bytes: see hf_files.write.

    Raises:
      ConfigError: Hugging Face has no name for the configuration's activations.
      DiskFullError: the disk is full.
    """
    config, table = opened.config, hf_names.table(opened.config)
    if isinstance(config, t5.T5Config):
        options = t5_json(config)
    else:
        options = contriever_json(config)
        described = retriever_folder.RetrieverDescription(
            pathlib.Path(folder), config.pooling, config.normalize, config.truncate_dim,
            config.max_tokens, config.query_prompt, config.passage_prompt)
        retriever_folder.write(pathlib.Path(folder), described, config.emb_dim)
    # Written in the order that reads each file of the source once; a safetensors file may hold its
    # tensors in any order.
    paths = {table[path].name: path for path in opened.order()}
    shapes = {name: table[path].shape(opened.shapes[path]) for name, path in paths.items()}
    hf_files.write(folder, options, shapes,
                   lambda name: table[paths[name]].transform(opened.read(paths[name])), dtype,
                   shard_bytes)


def t5_names(tensors: hf_files.TensorSource, tied: bool, prefix: str = '') -> dict[str, str]:
    """Returns each parameter's name in the file by Hugging Face's name.

    Args:
      tensors: a T5's; names begin with `prefix`, such as 'reader.'.
      tied: True if the output kernel is the embedding.

    Raises:
      ModelFolderError: a copy of the embedding differs from it.
    """
    names = {name.removeprefix(prefix): name for name in tensors.names() if name.startswith(prefix)}
    # Ignored, not refused: the model computes the same without it.
    names.pop(_T5_UNUSED, None)
    # safetensors keeps one name of shared tensors, which need not be the name that transformers
    # uses.
    if 'shared.weight' not in names and _T5_ALIASES[0] in names:
        names['shared.weight'] = names[_T5_ALIASES[0]]
    # If a copy differs, config.json describes another model, which would load and answer wrongly.
    shared = tensors.read(names['shared.weight']) if 'shared.weight' in names else None
    for copy in (*_T5_ALIASES, *(['lm_head.weight'] if tied else [])):
        actual = names.pop(copy, None)
        if actual is not None and shared is not None and not np.array_equal(
                tensors.read(actual), shared):
            raise errors.ModelFolderError(
                f'{tensors.path}: {copy} differs from shared.weight, though config.json ties them; '
                'if the output has weights of its own, set "tie_word_embeddings": false in '
                'config.json')
    return names


def contriever_names(names: Iterable[str], prefix: str = '') -> dict[str, str]:
    """Returns each parameter's name in the file by Hugging Face's name, without the parts that a
    Contriever does not use.
    """
    found = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        for start in _BERT_PREFIXES:
            if short.startswith(start):
                short = short.removeprefix(start)
                break
        # Renamed before the pooler and the heads are left out by name.
        for old, new in _BERT_OLD:
            short = short.replace(old, new)
        if not _BERT_IGNORED.match(short):
            # The value keeps the full name: a file of the original holds several encoders, which
            # `prefix` tells apart.
            found[short] = name
    return found


def of_tensors(config: weights.ConfigT, tensors: hf_files.TensorSource, names: dict[str, str],
               where: pathlib.Path,
               source: str = 'config.json') -> weights.Weights[weights.ConfigT]:
    """Makes Weights of tensors under Hugging Face's names.

    Args:
      names: result of `t5_names` or `contriever_names`.
      where, source: the folder, and the origin of the configuration, for messages.

    Raises:
      ModelFolderError: a parameter is missing, unknown or mis-shaped; names it.
    """
    table = hf_names.table(config)
    # The expected parameters come from the model itself: the table alone could miss one. Their
    # shapes are turned into Hugging Face's, so that a message shows what stands in the file.
    shapes = weights.expected_shapes(config)
    weights.check(where, {name: tensors.shape(actual) for name, actual in names.items()},
                  {entry.name: entry.shape(shapes[path]) for path, entry in table.items()}, source)
    return weights.Weights(
        config, shapes, lambda path: table[path].transform(tensors.read(names[table[path].name])))
