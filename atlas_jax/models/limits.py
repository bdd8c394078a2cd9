"""Declared types and sane ranges of the fields that describe a model: one table for config.json, model.json, gin and shapes."""

import dataclasses
from typing import Any

from atlas_jax import errors
from atlas_jax.io import untrusted

# Far above what exists: the largest T5 has 24 layers a side, 128 heads and an MLP of 65,536, the largest vocabulary 256,000 pieces. A
# forged or damaged file must fail here, and not after hours of tracing 20,000 layers or by an array of terabytes.
_TOKENS, _LAYERS = (2, 1 << 20), (1, 256)
RANGES: dict[str, tuple[int, int]] = {
    'vocab_size': (1, 1 << 22), 'emb_dim': (1, 1 << 16), 'num_heads': (1, 1 << 10), 'head_dim': (1, 1 << 12), 'mlp_dim': (1, 1 << 19),
    'num_layers': _LAYERS, 'num_encoder_layers': _LAYERS, 'num_decoder_layers': _LAYERS, 'max_positions': (1, 1 << 20),
    'type_vocab_size': (1, 1 << 10),
    # Half of the buckets look each way in the encoder, and half of those hold one distance each: of 3 none would be left.
    'relpos_buckets': (4, 1 << 12), 'relpos_max_distance': (2, 1 << 20),
    'pad_id': (0, 1 << 22), 'eos_id': (0, 1 << 22), 'decoder_start_id': (0, 1 << 22),
    'text_max_tokens': _TOKENS, 'query_max_tokens': _TOKENS, 'target_max_tokens': _TOKENS, 'retriever_max_tokens': _TOKENS,
    'max_tokens': _TOKENS, 'truncate_dim': (1, 1 << 16), 'n_context': (0, 1 << 16),
}
DTYPES = ('float32', 'bfloat16', 'float16')  # of activations
FRACTIONS = ('dropout_rate', 'layer_norm_epsilon')  # at least 0 and below 1


def check(config: Any) -> None:
    """Checks every field of a dataclass. Raises ConfigError: names the first that has another type or is out of its range."""
    for field in dataclasses.fields(config):
        value, place = getattr(config, field.name), f'{type(config).__name__}.{field.name}'
        if not untrusted.has_type(value, field.type):
            expected = getattr(field.type, '__name__', None) or str(field.type)
            raise errors.ConfigError(f'{place} is {untrusted.shown(value)}; it must be of type {expected}')
        if value is None:  # of a field that need not be set
            continue
        if field.name == 'dtype' and value not in DTYPES:
            raise errors.ConfigError(f'{place} is {untrusted.shown(value)}; choose one of {", ".join(DTYPES)}')
        if field.name in FRACTIONS and not 0 <= value < 1:
            raise errors.ConfigError(f'{place} is {value}; it must be at least 0 and below 1')
        least, most = RANGES.get(field.name, (None, None))
        if least is not None and value < least:
            raise errors.ConfigError(f'{place} is {untrusted.shown(value)}; it must be at least {least}')
        if most is not None and value > most:
            raise errors.ConfigError(f'{place} is {untrusted.shown(value)}; it must be at most {most}')
