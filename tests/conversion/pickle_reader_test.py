"""Pickles read by our own interpreter: altered and random ones only give the announced errors."""

import argparse
import collections
import io
import pickle

import hypothesis
import hypothesis.strategies as st
import pytest

from atlas_jax.conversion import pickle_reader
from tests.testing.torch_pickles import tensor_pickle

_WHOLE = pickle.dumps({'a': [1, 'x', (2.5, None)], 'opt': argparse.Namespace(b=1), 'c': collections.OrderedDict(d=2**70)}, 2)


def _loads(content: bytes) -> None:
    """Reads a pickle; ignores the announced errors."""
    try:
        pickle_reader.load_pickle(io.BytesIO(content))
    except (pickle_reader.Refused, *pickle_reader.BROKEN):
        pass


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(st.tuples(st.integers(0, len(_WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=5), st.integers(0, 60))
def test_altered_pickles_give_nothing_but_the_announced_errors(changes, cut):
    content = bytearray(_WHOLE + tensor_pickle(6, 1, (2, 2), (2, 1)))
    for position, value in changes:
        content[position] = value
    _loads(bytes(content[cut:] if cut % 2 else content[:len(content) - cut]))


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.binary(max_size=60))
def test_random_opcodes_give_nothing_but_the_announced_errors(content):
    _loads(content)
    _loads(b'\x80\x02}(' + content + b'.')


def test_a_mark_is_never_a_value():
    # POP removes a mark, too, as in pickle.
    assert pickle_reader.load_pickle(io.BytesIO(b'\x80\x02K\x05(0.')) == 5
    for broken in (b'\x80\x02(.', b'\x80\x02t.', b'\x80\x02}(s.', b'\x80\x02(2.', b'\x80\x02]K\x01(a.'):
        with pytest.raises((ValueError, IndexError)):
            pickle_reader.load_pickle(io.BytesIO(broken))
