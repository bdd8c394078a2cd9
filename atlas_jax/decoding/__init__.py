"""Decoding over a tokens_to_logits callable: `decode` searches greedily or by beams, as a `DecodingConfig` says."""

from atlas_jax.decoding.config import DecodingConfig as DecodingConfig
from atlas_jax.decoding.decoders import decode as decode
