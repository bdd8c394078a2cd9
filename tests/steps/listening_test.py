import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import types
from atlas_jax.decoding import DecodingConfig, decoders
from atlas_jax.steps import listening


class Heard:
    """Keeps what it hears."""

    def __init__(self):
        self.found_passages, self.tokens = [], []

    def found(self, retrieved):
        self.found_passages.append((retrieved.scores.tolist(), retrieved.passage_ids.tolist()))

    def decoded(self, position, tokens):
        self.tokens.append((position, tokens.tolist()))


@jax.jit
def decode(start):
    """Counts up from `start` [2] int32; 7 ends a sequence."""
    listening.tell_found(types.Retrieved(jnp.ones((2, 1)), jnp.asarray([[3], [4]])))

    def tokens_to_logits(token, position, cache):
        return jax.nn.one_hot(jnp.where(position == 0, start, token + 1), 9), cache, jnp.zeros(2)

    return decoders.decode(tokens_to_logits, None, 2, DecodingConfig(max_length=6), decoders.SpecialTokens(0, 7, 8), None,
                           listening.tell_decoded).tokens


def test_each_token_is_heard_as_it_is_decoded():
    heard = Heard()
    with listening.listening(heard):
        tokens = np.asarray(decode(jnp.asarray([4, 6])))
    assert tokens[:, 0].tolist() == [[4, 5, 6, 7, 8], [6, 7, 8, 8, 8]]
    assert heard.tokens == [(place, tokens[:, 0, place].tolist()) for place in range(4)]
    assert heard.found_passages == [([[1], [1]], [[3], [4]])]


def test_nobody_hears_outside_the_block():
    heard = Heard()
    with pytest.raises(RuntimeError), listening.listening(heard):
        raise RuntimeError
    with listening.listening(None):
        decode(jnp.asarray([4, 6])).block_until_ready()
    jax.effects_barrier()
    assert heard.tokens == []
