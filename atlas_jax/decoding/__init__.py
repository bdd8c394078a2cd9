"""Decoding over a tokens_to_logits callable: `decode` is greedy or by beams as a `DecodingConfig` says."""

from atlas_jax.decoding.config import DecodingConfig as DecodingConfig
from atlas_jax.decoding.search import decode as decode
