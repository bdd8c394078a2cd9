"""Greedy or beam search, whichever is asked for."""

from typing import Any

from atlas_jax.decoding import beam, greedy, sequences
from atlas_jax.decoding.config import DecodingConfig


def decode(tokens_to_logits: sequences.TokensToLogits, cache: Any, batch: int, config: DecodingConfig, special: sequences.SpecialTokens,
           prefix: sequences.Prefix | None = None) -> sequences.Decoded:
    """Greedy for one beam, else beam search; arguments as of `beam_search`."""
    search = greedy.greedy if config.num_beams == 1 else beam.beam_search
    return search(tokens_to_logits, cache, batch, config, special, prefix)
