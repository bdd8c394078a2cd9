"""Hugging Face folders of a T5, and of a BERT as a Contriever: opened, read to (config, params), and written back.

Params are nested dicts of float32 numpy arrays under our names.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf_files, hf_names, known_keys, retriever_folder, weights
from atlas_jax.io import untrusted
from atlas_jax.models import contriever, t5

# Activations by the name in `feed_forward_proj`. Hugging Face computes "gated-gelu" in the tanh form and an ungated "gelu" in the erf form.
_T5_ACTIVATIONS = {'relu': ('relu',), 'gelu': ('gelu_erf',), 'gelu_new': ('gelu',), 'silu': ('silu',),
                   'gated-gelu': ('gelu', 'linear'), 'gated-relu': ('relu', 'linear'), 'gated-silu': ('silu', 'linear')}


def read_t5_config(folder: pathlib.Path) -> t5.T5Config:
    """Reads the T5Config of a folder. Raises ModelFolderError if config.json is missing, broken or another model's."""
    config, path = hf_files.read_config(folder, ('t5', 'mt5')), folder / 'config.json'
    known_keys.check(path, config, known_keys.T5_CONFIG, unknown=True)
    is_mt5 = config['model_type'] == 'mt5'
    # Files of T5 1.0 are older than the option; relu is what they have.
    activations = config.get('feed_forward_proj', 'gated-gelu' if is_mt5 else 'relu')
    if not isinstance(activations, str) or activations not in _T5_ACTIVATIONS:
        raise errors.ModelFolderError(f'{path}: feed_forward_proj is {untrusted.shown(activations)}; known are '
                                      f'{", ".join(_T5_ACTIVATIONS)}')
    # num_decoder_layers is missing or null where both stacks have as many layers.
    num_layers = _size(path, config, 'num_layers')
    # transformers 5 always writes tie_word_embeddings true; scale_decoder_outputs holds the true setting. An mT5 has an output layer of its
    # own, whatever its file says.
    tied = _flag(path, config, 'scale_decoder_outputs', _flag(path, config, 'tie_word_embeddings', True)) and not is_mt5
    # Defaults are those of transformers' T5Config: older config.json files leave out what
    # equals them. The decoder starts with the padding token, 0.
    with _values_of(path):
        return t5.T5Config(
            vocab_size=_size(path, config, 'vocab_size'), emb_dim=_size(path, config, 'd_model'),
            num_heads=_size(path, config, 'num_heads'), head_dim=_size(path, config, 'd_kv'),
            mlp_dim=_size(path, config, 'd_ff'), num_encoder_layers=num_layers,
            # Missing or null: as many as the encoder has.
            num_decoder_layers=num_layers if config.get('num_decoder_layers') is None else _size(path, config, 'num_decoder_layers'),
            mlp_activations=_T5_ACTIVATIONS[activations], logits_via_embedding=tied,
            relpos_buckets=_size(path, config, 'relative_attention_num_buckets', 32),
            relpos_max_distance=_size(path, config, 'relative_attention_max_distance', 128),
            dropout_rate=_fraction(path, config, 'dropout_rate', 0.1),
            layer_norm_epsilon=_fraction(path, config, 'layer_norm_epsilon', 1e-6), pad_id=_size(path, config, 'pad_token_id', 0),
            eos_id=_size(path, config, 'eos_token_id', 1), decoder_start_id=_size(path, config, 'decoder_start_token_id', 0))


def t5_json(config: t5.T5Config) -> dict[str, Any]:
    """Returns the config.json of a T5Config. Raises ConfigError if Hugging Face has no name for its activations."""
    names = {activations: name for name, activations in _T5_ACTIVATIONS.items()}
    if config.mlp_activations not in names:
        raise errors.ConfigError(f'mlp_activations {config.mlp_activations} have no name at Hugging Face; it knows {sorted(names)}')
    return {
        'architectures': ['T5ForConditionalGeneration'], 'model_type': 't5', 'is_encoder_decoder': True, 'vocab_size': config.vocab_size,
        'd_model': config.emb_dim, 'num_heads': config.num_heads, 'd_kv': config.head_dim, 'd_ff': config.mlp_dim,
        'num_layers': config.num_encoder_layers, 'num_decoder_layers': config.num_decoder_layers,
        'feed_forward_proj': names[config.mlp_activations], 'tie_word_embeddings': config.logits_via_embedding,
        'relative_attention_num_buckets': config.relpos_buckets, 'relative_attention_max_distance': config.relpos_max_distance,
        'dropout_rate': config.dropout_rate, 'layer_norm_epsilon': config.layer_norm_epsilon, 'pad_token_id': config.pad_id,
        'eos_token_id': config.eos_id, 'decoder_start_token_id': config.decoder_start_id,
    }


def read_contriever_config(described: retriever_folder.Description, layer_norm: str | None) -> contriever.ContrieverConfig:
    """Reads the ContrieverConfig of a folder; `layer_norm` None uses the folder's setting.

    Raises:
      ModelFolderError: config.json is missing, broken or another model's.
      ConfigError: `layer_norm` is unknown.
    """
    path = described.bert_folder / 'config.json'
    config = hf_files.read_config(described.bert_folder, ('bert', 'contriever'))
    # Other activations and positions would load without an error and embed wrongly. At BERT 'gelu' is the erf form.
    known_keys.check(path, config, known_keys.BERT_CONFIG, unknown=True)
    # Our own folders note pooling and normalisation in config.json; modules.json is what sentence-transformers reads.
    pooling = described.pooling or config.get('pooling', 'average')
    normalize = _flag(path, config, 'normalize', False) if described.normalize is None else described.normalize
    emb_dim = _size(path, config, 'hidden_size')
    # sentence-transformers takes a dimension above the whole for the whole.
    truncate_dim = described.truncate_dim if (described.truncate_dim or emb_dim) < emb_dim else None
    # An unknown `layer_norm` that was given is a mistake of the caller, one of the file a mistake in it.
    with _values_of(path) if layer_norm is None else contextlib.nullcontext():
        return contriever.ContrieverConfig(
            vocab_size=_size(path, config, 'vocab_size'), emb_dim=emb_dim,
            num_heads=_size(path, config, 'num_attention_heads'), num_layers=_size(path, config, 'num_hidden_layers'),
            mlp_dim=_size(path, config, 'intermediate_size'), max_positions=_size(path, config, 'max_position_embeddings'),
            type_vocab_size=_size(path, config, 'type_vocab_size'), layer_norm=layer_norm or config.get('layer_norm', 'true'),
            # BERT's own default, unlike T5's 1e-6.
            layer_norm_epsilon=_fraction(path, config, 'layer_norm_eps', 1e-12),
            dropout_rate=_fraction(path, config, 'hidden_dropout_prob', 0.1),
            pooling=pooling, normalize=normalize, truncate_dim=truncate_dim, max_tokens=described.max_tokens,
            query_prompt=described.query_prompt, passage_prompt=described.passage_prompt)


def contriever_json(config: contriever.ContrieverConfig) -> dict[str, Any]:
    """Returns the config.json of a ContrieverConfig."""
    options = {
        'architectures': ['BertModel'], 'model_type': 'bert', 'vocab_size': config.vocab_size, 'hidden_size': config.emb_dim,
        'num_attention_heads': config.num_heads, 'num_hidden_layers': config.num_layers, 'intermediate_size': config.mlp_dim,
        'max_position_embeddings': config.max_positions, 'type_vocab_size': config.type_vocab_size, 'hidden_act': 'gelu',
        'position_embedding_type': 'absolute', 'layer_norm_eps': config.layer_norm_epsilon, 'hidden_dropout_prob': config.dropout_rate,
        'attention_probs_dropout_prob': config.dropout_rate, 'pad_token_id': 0, 'pooling': config.pooling, 'normalize': config.normalize,
    }
    # No key for the usual norm: the folder is then that of any BERT.
    return options if config.layer_norm == 'true' else {**options, 'layer_norm': config.layer_norm}


def _size(path: pathlib.Path, config: dict[str, Any], key: str, default: int | None = None) -> int:
    """Returns a whole number of config.json; without a default it must be there and at least 1."""
    # Sizes have no default and must be positive; token ids have one and may be 0.
    value, least = (config.get(key), 1) if default is None else (config.get(key, default), 0)
    # A bool is an int to Python: true would pass as 1.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise errors.ModelFolderError(f'{path}: {key} is {untrusted.shown(value)}, expected an integer of at least {least}')
    return value


def _fraction(path: pathlib.Path, config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not untrusted.has_type(value, float) or not 0 <= value < 1:
        raise errors.ModelFolderError(f'{path}: {key} is {untrusted.shown(value)}, expected a number of at least 0 and below 1')
    return float(value)


def _flag(path: pathlib.Path, config: dict[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    # null stands for a missing one, as transformers writes it.
    if value is not None and not isinstance(value, bool):
        raise errors.ModelFolderError(f'{path}: {key} is {untrusted.shown(value)}, expected true or false')
    return default if value is None else value


@contextlib.contextmanager
def _values_of(path: pathlib.Path) -> Iterator[None]:
    """Turns the ConfigError of a model's configuration into one that names the file it was read from."""
    try:
        yield
    except errors.ConfigError as error:
        raise errors.ModelFolderError(f'{path}: {error}') from error


Params = weights.Params

# Names under which files repeat the shared embedding.
_T5_ALIASES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# An unused parameter of the first T5 checkpoints.
_T5_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
_BERT_PREFIXES = ('bert.', 'contriever.')
# Parts of BERT that a Contriever does not use: the pooler, heads of pre-training, and buffers that are no parameters.
_BERT_IGNORED = re.compile(r'pooler\.|cls\.|embeddings\.(position_ids|token_type_ids)$')
# TensorFlow's names of a layer norm's parameters, still in old BERT files.
_BERT_OLD = (('LayerNorm.gamma', 'LayerNorm.weight'), ('LayerNorm.beta', 'LayerNorm.bias'))


def open_t5(folder: str | os.PathLike) -> weights.Weights[t5.T5Config]:
    """Opens a T5 v1.0, v1.1 or FLAN folder.

    Raises:
      ModelFolderError: a file is missing or broken, the model is of another kind or has an option that T5Config lacks, or a parameter is
        missing, unknown, mis-shaped, or tied by config.json and yet different from its copy.
    """
    folder = pathlib.Path(folder)
    config, tensors = read_t5_config(folder), hf_files.Tensors(folder)
    return of_tensors(config, tensors, t5_names(tensors, config.logits_via_embedding), folder)


def open_contriever(folder: str | os.PathLike, layer_norm: str | None = None) -> weights.Weights[contriever.ContrieverConfig]:
    """Opens a BERT, Contriever or sentence-transformers folder without its pooler.

    Args:
      layer_norm: 'true' or 'second_moment'. None uses the folder's setting, by default 'true', which all retrievers but those of released
        Atlas checkpoints have.

    Raises:
      ModelFolderError: a file is missing or broken, the model is of another kind or has an option or module that ContrieverConfig lacks,
        or a parameter is missing, unknown or mis-shaped.
      ConfigError: `layer_norm` is unknown.
    """
    described = retriever_folder.describe(pathlib.Path(folder))
    config = read_contriever_config(described, layer_norm)
    retriever_folder.check_width(pathlib.Path(folder), config.emb_dim)
    tensors = hf_files.Tensors(described.bert_folder)
    return of_tensors(config, tensors, contriever_names(tensors.names()), described.bert_folder)


def load_t5(folder: str | os.PathLike) -> tuple[t5.T5Config, Params]:
    """Reads a folder as `open_t5`, to (config, params). Raises ModelFolderError."""
    opened = open_t5(folder)
    return opened.config, opened.params()


def load_contriever(folder: str | os.PathLike, layer_norm: str | None = None) -> tuple[contriever.ContrieverConfig, Params]:
    """Reads a folder as `open_contriever`, to (config, params). Raises ModelFolderError, ConfigError."""
    opened = open_contriever(folder, layer_norm)
    return opened.config, opened.params()


def write_t5(folder: str | os.PathLike, config: t5.T5Config, params: Params) -> None:
    """Writes config.json and model.safetensors, which transformers loads. Raises DiskFullError, ConfigError."""
    write(folder, weights.of_params(config, params))


def write_contriever(folder: str | os.PathLike, config: contriever.ContrieverConfig, params: Params) -> None:
    """Writes a BERT folder, which transformers and sentence-transformers load. Raises DiskFullError.

    config.json notes a second-moment layer norm under `layer_norm`. `load_contriever` uses it; other programs do not.
    """
    write(folder, weights.of_params(config, params))


def write(folder: str | os.PathLike, opened: weights.Weights[weights.Config], dtype: str = 'float32',
          shard_bytes: int = hf_files.SHARD_BYTES) -> None:
    """Writes a reader or retriever, one parameter in memory at a time.

    Args:
      dtype, shard_bytes: as in hf_files.write.

    Raises:
      ConfigError: Hugging Face has no name for the configuration's activations.
      DiskFullError: the disk is full.
    """
    config = opened.config
    if isinstance(config, t5.T5Config):
        table, options = hf_names.t5_table(config), t5_json(config)
    else:
        table, options = hf_names.contriever_table(config), contriever_json(config)
        described = retriever_folder.Description(pathlib.Path(folder), config.pooling, config.normalize, config.truncate_dim,
                                                 config.max_tokens, config.query_prompt, config.passage_prompt)
        retriever_folder.write(pathlib.Path(folder), described, config.emb_dim)
    # Written in the order that reads each file of the source once; a safetensors file may hold its tensors in any order.
    paths = {table[path].name: path for path in opened.order()}
    shapes = {name: table[path].shape(opened.shapes[path]) for name, path in paths.items()}
    hf_files.write(folder, options, shapes, lambda name: table[paths[name]].transform(opened.read(paths[name])), dtype, shard_bytes)


def t5_names(tensors: hf_files.TensorSource, tied: bool, prefix: str = '') -> dict[str, str]:
    """Returns each parameter's name in the file by Hugging Face's name.

    Args:
      tensors: a T5's, under names that begin with `prefix`, such as 'reader.'.
      tied: True if the output kernel is the embedding.

    Raises:
      ModelFolderError: a copy of the embedding differs from it.
    """
    names = {name.removeprefix(prefix): name for name in tensors.names() if name.startswith(prefix)}
    # Ignored, not refused: the model computes the same without it.
    names.pop(_T5_UNUSED, None)
    # safetensors keeps one name of shared tensors, which need not be the one that config.json's model calls them.
    if 'shared.weight' not in names and _T5_ALIASES[0] in names:
        names['shared.weight'] = names[_T5_ALIASES[0]]
    # A copy that differs means another model than config.json describes, which would load and answer wrongly.
    shared = tensors.read(names['shared.weight']) if 'shared.weight' in names else None
    for copy in (*_T5_ALIASES, *(['lm_head.weight'] if tied else [])):
        actual = names.pop(copy, None)
        if actual is not None and shared is not None and not np.array_equal(tensors.read(actual), shared):
            hint = ', though config.json ties them; if the output has weights of its own, set "tie_word_embeddings": false in config.json'
            raise errors.ModelFolderError(f'{tensors.path}: {copy} differs from shared.weight{hint}')
    return names


def contriever_names(names: Iterable[str], prefix: str = '') -> dict[str, str]:
    """Returns each parameter's name in the file by Hugging Face's name, without the parts that a Contriever does not use."""
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
            # Kept by the short name, read by the long one: several encoders lie in one file of the original, told apart by `prefix`.
            found[short] = name
    return found


def of_tensors(config: weights.ConfigT, tensors: hf_files.TensorSource, names: dict[str, str], where: pathlib.Path,
               source: str = 'config.json') -> weights.Weights[weights.ConfigT]:
    """Makes Weights of tensors under Hugging Face's names.

    Args:
      names: as `t5_names` or `contriever_names` returns them.
      where, source: for messages: the folder, and the origin of the configuration.

    Raises:
      ModelFolderError: a parameter is missing, unknown or mis-shaped; names it.
    """
    table = hf_names.t5_table(config) if isinstance(config, t5.T5Config) else hf_names.contriever_table(config)
    # The model itself says which parameters it has: the table alone could miss one. Its shapes are turned into
    # Hugging Face's, so that a message shows names and shapes that stand in the file.
    shapes = weights.expected_shapes(config)
    weights.check(where, {name: tensors.shape(actual) for name, actual in names.items()},
                  {entry.name: entry.shape(shapes[path]) for path, entry in table.items()}, source)
    return weights.Weights(config, shapes, lambda path: table[path].transform(tensors.read(names[table[path].name])))
