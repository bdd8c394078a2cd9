"""Types and ranges of the fields that describe a model: one table for config.json, model.json, gin
and shapes.
"""

import dataclasses
from typing import Any

from atlas_jax import errors
from atlas_jax.io import untrusted
from atlas_jax.options import check_options

# Far above existing models. The largest T5 has 24 layers a side, 128 heads and an MLP of 65,536;
# the largest vocabulary has 256,000 pieces. A forged or damaged file must fail here, before hours
# of tracing 20,000 layers or an array of terabytes.
_TOKENS, _LAYERS = (2, 1 << 20), (1, 256)
RANGES: dict[str, tuple[int, int]] = {
    'vocab_size': (1, 1 << 22),
    'emb_dim': (1, 1 << 16),
    'num_heads': (1, 1 << 10),
    'head_dim': (1, 1 << 12),
    'mlp_dim': (1, 1 << 19),
    'num_layers': _LAYERS,
    'num_encoder_layers': _LAYERS,
    'num_decoder_layers': _LAYERS,
    'max_positions': (1, 1 << 20),
    'type_vocab_size': (1, 1 << 10),
    # The encoder uses half of the buckets in each direction, and half of those hold one distance
    # each. Three buckets would leave none.
    'relpos_buckets': (4, 1 << 12),
    'relpos_max_distance': (2, 1 << 20),
    'pad_id': (0, 1 << 22),
    'eos_id': (0, 1 << 22),
    'decoder_start_id': (0, 1 << 22),
    'text_max_tokens': _TOKENS,
    'query_max_tokens': _TOKENS,
    'target_max_tokens': _TOKENS,
    'retriever_max_tokens': _TOKENS,
    'max_tokens': _TOKENS,
    'truncate_dim': (1, 1 << 16),
    'n_context': (0, 1 << 16),
}
DTYPES = ('float32', 'bfloat16', 'float16')  # valid dtypes of activations


def check(config: Any) -> None:
    """Checks the types of all fields of a dataclass, the sizes, and the fields made by `option`.

    Raises ConfigError: names the first field with a value of another type or outside its range.
    """
    for field in dataclasses.fields(config):
        value, place = getattr(config, field.name), f'{type(config).__name__}.{field.name}'
        if not untrusted.has_type(value, field.type):
            expected = getattr(field.type, '__name__', None) or str(field.type)
            raise errors.ConfigError(f'{place} is {untrusted.shown(value)}; it must be of type '
                                     f'{expected}')
        if value is not None and field.name in RANGES:
            least, most = RANGES[field.name]
            if not least <= value <= most:
                bound = f'at least {least}' if value < least else f'at most {most}'
                raise errors.ConfigError(f'{place} is {untrusted.shown(value)}; it must be {bound}')
    check_options(config)
