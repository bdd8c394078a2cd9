"""The whole reader in one call: parity tests compare its logits."""

import jax

from atlas_jax import types
from atlas_jax.models import fid, t5


def fid_logits(reader: t5.T5, params, stream: types.TokenStream, decoder_input_tokens, n_context: int | None = None,
               dropout_key=None) -> jax.Array:
    """Encodes, fuses and decodes in one go.

    Args:
      stream: whole examples, see models/fid.py.
      decoder_input_tokens: [batch, target_length] int32, targets shifted right.
      n_context: see `fid.fuse`.
      dropout_key: None switches dropout off.

    Returns:
      [batch, target_length, vocab] float32.
    """
    encoder_key, decoder_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    keys_values, mask = fid.fuse(*fid.encode_passages(reader, params, stream, encoder_key), decoder_input_tokens.shape[0], n_context)
    rngs = None if decoder_key is None else {'dropout': decoder_key}
    return reader.apply({'params': params}, decoder_input_tokens, keys_values, mask, decoder_key is None, rngs=rngs, method='decode')
