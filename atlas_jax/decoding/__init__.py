"""Decoding over a tokens_to_logits callable: `decode` runs greedy or beam search by the options of
a `DecodingConfig`.
"""

from atlas_jax.decoding.config import DecodingConfig as DecodingConfig
from atlas_jax.decoding.decoders import decode as decode
