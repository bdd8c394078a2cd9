"""config.json of Hugging Face's T5 and BERT to our configs and back."""

import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files, sentence_transformer
from atlas_jax.models import contriever, t5

# `feed_forward_proj`; T5's gated gelu is the tanh form though it is called plain "gelu", and an ungated "gelu" is the erf form.
_T5_ACTIVATIONS = {'relu': ('relu',), 'gelu': ('gelu_erf',), 'gelu_new': ('gelu',), 'silu': ('silu',),
                   'gated-gelu': ('gelu', 'linear'), 'gated-relu': ('relu', 'linear'), 'gated-silu': ('silu', 'linear')}


def read_t5(folder: pathlib.Path) -> t5.T5Config:
    """The T5Config of a folder; raises ModelFolderError."""
    config, path = hf_files.read_config(folder, ('t5',)), folder / 'config.json'
    activations = config.get('feed_forward_proj', 'relu')
    if activations not in _T5_ACTIVATIONS:
        raise errors.ModelFolderError(f'{path}: feed_forward_proj is {activations!r}; known are {", ".join(_T5_ACTIVATIONS)}')
    num_layers = _size(path, config, 'num_layers')
    # transformers 5 always writes tie_word_embeddings true, and the meaning under another name.
    tied = config.get('scale_decoder_outputs', config.get('tie_word_embeddings', True))
    return t5.T5Config(
        vocab_size=_size(path, config, 'vocab_size'), emb_dim=_size(path, config, 'd_model'), num_heads=_size(path, config, 'num_heads'),
        head_dim=_size(path, config, 'd_kv'), mlp_dim=_size(path, config, 'd_ff'), num_encoder_layers=num_layers,
        num_decoder_layers=num_layers if config.get('num_decoder_layers') is None else _size(path, config, 'num_decoder_layers'),
        mlp_activations=_T5_ACTIVATIONS[activations], logits_via_embedding=bool(tied),
        relpos_buckets=_size(path, config, 'relative_attention_num_buckets', 32),
        relpos_max_distance=_size(path, config, 'relative_attention_max_distance', 128),
        dropout_rate=_fraction(path, config, 'dropout_rate', 0.1),
        layer_norm_epsilon=_fraction(path, config, 'layer_norm_epsilon', 1e-6), pad_id=_size(path, config, 'pad_token_id', 0),
        eos_id=_size(path, config, 'eos_token_id', 1), decoder_start_id=_size(path, config, 'decoder_start_token_id', 0))


def t5_json(config: t5.T5Config) -> dict[str, Any]:
    """The config.json of a T5Config; raises ConfigError for activations that Hugging Face has no name for."""
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


def read_contriever(described: sentence_transformer.Description, layer_norm: str | None) -> contriever.ContrieverConfig:
    """The ContrieverConfig of a folder; raises ModelFolderError, or ConfigError for an unknown `layer_norm`."""
    path = described.bert_folder / 'config.json'
    config = hf_files.read_config(described.bert_folder, ('bert', 'contriever'))
    for key, needed in (('hidden_act', 'gelu'), ('position_embedding_type', 'absolute')):
        if config.get(key, needed) != needed:
            raise errors.ModelFolderError(f'{path}: {key} is {config[key]!r}; only {needed!r} is supported')
    pooling = described.pooling or config.get('pooling', 'average')
    normalize = config.get('normalize', False) if described.normalize is None else described.normalize
    return contriever.ContrieverConfig(
        vocab_size=_size(path, config, 'vocab_size'), emb_dim=_size(path, config, 'hidden_size'),
        num_heads=_size(path, config, 'num_attention_heads'), num_layers=_size(path, config, 'num_hidden_layers'),
        mlp_dim=_size(path, config, 'intermediate_size'), max_positions=_size(path, config, 'max_position_embeddings'),
        type_vocab_size=_size(path, config, 'type_vocab_size'), layer_norm=layer_norm or config.get('layer_norm', 'true'),
        layer_norm_epsilon=_fraction(path, config, 'layer_norm_eps', 1e-12),
        dropout_rate=_fraction(path, config, 'hidden_dropout_prob', 0.1),
        pooling=pooling, normalize=bool(normalize))


def contriever_json(config: contriever.ContrieverConfig) -> dict[str, Any]:
    """The config.json of a ContrieverConfig."""
    options = {
        'architectures': ['BertModel'], 'model_type': 'bert', 'vocab_size': config.vocab_size, 'hidden_size': config.emb_dim,
        'num_attention_heads': config.num_heads, 'num_hidden_layers': config.num_layers, 'intermediate_size': config.mlp_dim,
        'max_position_embeddings': config.max_positions, 'type_vocab_size': config.type_vocab_size, 'hidden_act': 'gelu',
        'position_embedding_type': 'absolute', 'layer_norm_eps': config.layer_norm_epsilon, 'hidden_dropout_prob': config.dropout_rate,
        'attention_probs_dropout_prob': config.dropout_rate, 'pad_token_id': 0, 'pooling': config.pooling, 'normalize': config.normalize,
    }
    return options if config.layer_norm == 'true' else {**options, 'layer_norm': config.layer_norm}


def _size(path: pathlib.Path, config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of config.json; without a default, one that must be there."""
    value, least = (config.get(key), 1) if default is None else (config.get(key, default), 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise errors.ModelFolderError(f'{path}: {key} is {value!r}, expected an integer of at least {least}')
    return value


def _fraction(path: pathlib.Path, config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise errors.ModelFolderError(f'{path}: {key} is {value!r}, expected a number of at least 0 and below 1')
    return float(value)
