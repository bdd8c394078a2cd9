"""Greedy and beam search over tables of logits, compared with recorded sequences of the original's library (fixtures/decoding)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import decoding
from atlas_jax.decoding import decoders
from tests.testing import streams

SPECIAL = decoders.SpecialTokens(start=0, eos=1, pad=0)
CASES = json.loads((streams.FIXTURES / 'decoding' / 'beam_search.json').read_text())['cases']


def _table(case) -> np.ndarray:
    """Logits [batch, position, last token, vocab] float32."""
    generator = np.random.RandomState(case['seed'])
    shape = (case['batch'], case['max_length'] - 1, case['vocab'], case['vocab'])
    table = (generator.standard_normal(shape) * case['spread']).astype(np.float32)
    table[..., SPECIAL.eos] += case['eos_bias']
    return table


def _config(case) -> decoding.DecodingConfig:
    names = ('num_beams', 'length_penalty', 'min_length', 'max_length', 'num_return_sequences')
    return decoding.DecodingConfig(**{name: case[name] for name in names})


@functools.partial(jax.jit, static_argnums=1)
def _decode(table, config, prefix=None):
    """The cache holds each row's tokens so far, times their positions; the record is their sum."""
    batch, steps = table.shape[:2]
    examples = jnp.repeat(jnp.arange(batch), config.num_beams)

    def tokens_to_logits(token, position, cache):
        cache = cache.at[0, :, position].set(token * (position + 1))
        return table[examples, position, token], cache, {'read': cache[0].sum(axis=-1), 'steps': jnp.ones((len(examples), 1))}

    cache = jnp.zeros((1, len(examples), steps), jnp.int32)
    return decoding.decode(tokens_to_logits, cache, batch, config, SPECIAL, prefix)


def _prefix(case) -> decoders.Prefix | None:
    if case['prefixes'] is None:
        return None
    width = max(map(len, case['prefixes'])) + 1
    return decoders.Prefix(np.array([[*ids, *[0] * (width - len(ids))] for ids in case['prefixes']], np.int32),
                            np.array([len(ids) for ids in case['prefixes']], np.int32))


@pytest.mark.parametrize('number', range(len(CASES)))
def test_the_sequences_of_the_original_library(number):
    case = CASES[number]
    decoded = jax.device_get(_decode(_table(case), _config(case), _prefix(case)))
    np.testing.assert_array_equal(decoded.tokens, np.array(case['sequences'])[:, :, 1:])
    if case['num_beams'] == 1:
        assert decoded.scores is None
    else:
        np.testing.assert_allclose(decoded.scores, case['scores'], rtol=1e-5, atol=1e-5)
    _check_records(case, decoded)


def _check_records(case, decoded) -> None:
    """Every returned sequence has the records of its own steps: cache and sums follow the beam."""
    for example, found in enumerate(case['sequences']):
        for rank, sequence in enumerate(found):
            ends = sequence[1:].index(SPECIAL.eos) + 1 if SPECIAL.eos in sequence[1:] else case['max_length'] - 1
            read = np.cumsum(np.arange(1, ends + 1) * np.array(sequence[:ends]))
            assert int(decoded.records['read'][example, rank]) == read.sum(), sequence
            assert float(decoded.records['steps'][example, rank, 0]) == ends


def test_all_kinds_of_ends_are_recorded():
    best = [sequence for case in CASES if case['num_beams'] > 1 for found in case['sequences'] for sequence in found[:1]]
    ended = [SPECIAL.eos in sequence for sequence in best]
    assert any(ended) and not all(ended)
    assert any(case['prefixes'] and len(set(map(len, case['prefixes']))) > 1 for case in CASES)


def test_a_prefix_goes_before_min_length():
    """A forced eos comes even if min_length forbids it."""
    case = {**CASES[0], 'num_beams': 2, 'min_length': 5, 'prefixes': [[4, 1], [3], []]}
    decoded = _decode(_table(case), _config(case), _prefix(case))
    np.testing.assert_array_equal(decoded.tokens[0, 0], [4, 1, 0, 0, 0, 0, 0, 0])
    assert int(decoded.tokens[1, 0, 0]) == 3


def test_a_prefix_longer_than_max_length_is_cut():
    case = {**CASES[0], 'num_beams': 2, 'max_length': 4, 'prefixes': [[4, 5, 6, 7, 8], [], [2]]}
    decoded = _decode(_table(case), _config(case), _prefix(case))
    np.testing.assert_array_equal(decoded.tokens[0, 0], [4, 5, 6])


# Greedy decoding of chains in which each token has one successor.
CHAIN = decoders.SpecialTokens(start=2, eos=1, pad=0)


def _follow(successors, calls):
    """tokens_to_logits of a chain in which `successors[token]` comes next; calls get the positions."""
    table = jnp.asarray(successors)

    def tokens_to_logits(token, position, cache):
        jax.debug.callback(calls.append, position)
        return jax.nn.one_hot(table[token], len(successors)), cache + 1, token

    return tokens_to_logits


def _greedy(tokens_to_logits, batch, max_length):
    return decoders.greedy(tokens_to_logits, jnp.zeros(()), batch, decoding.DecodingConfig(max_length=max_length), CHAIN)


def test_greedy_follows_the_likeliest_token_and_pads_after_eos():
    # 2 -> 3 -> 4 -> eos; 5 -> 6 -> 5 never ends
    table = jnp.asarray([0, 0, 3, 4, 1, 6, 5])

    def tokens_to_logits(token, position, cache):
        start = jnp.where(position == 0, jnp.array([2, 5]), token)
        return jax.nn.one_hot(table[start], 7), cache, token

    decoded = _greedy(tokens_to_logits, 2, 7)
    np.testing.assert_array_equal(decoded.tokens, [[[3, 4, 1, 0, 0, 0]], [[6, 5, 6, 5, 6, 5]]])
    assert decoded.tokens.dtype == jnp.int32
    np.testing.assert_array_equal(decoded.records, [[2 + 3 + 4], [2 + 6 + 5 + 6 + 5 + 6]])


def test_greedy_stops_when_all_have_ended():
    calls = []
    tokens = _greedy(_follow([0, 0, 3, 1], calls), 3, 31).tokens
    jax.effects_barrier()
    np.testing.assert_array_equal(tokens[:, 0, :3], [[3, 1, 0]] * 3)
    assert sorted(int(position) for position in calls) == [0, 1]


def test_greedy_the_shortest_length():
    np.testing.assert_array_equal(_greedy(_follow([0, 0, 3, 1], []), 2, 2).tokens, [[[3]], [[3]]])


@pytest.mark.parametrize('num_beams', [1, 2])
def test_the_longest_length_must_be_set(num_beams):
    with pytest.raises(ValueError, match='max_length is None'):
        decoding.decode(_follow([0, 0, 3, 1], []), jnp.zeros(()), 2, decoding.DecodingConfig(num_beams=num_beams), CHAIN)


def test_a_prefix_is_repeated_side_by_side():
    repeated = decoders.Prefix(jnp.array([[3, 4], [5, 0]]), jnp.array([2, 1])).repeat(3)
    np.testing.assert_array_equal(repeated.tokens, [[3, 4]] * 3 + [[5, 0]] * 3)
    np.testing.assert_array_equal(repeated.lengths, [2, 2, 2, 1, 1, 1])
