"""Packing: every passage once, nothing overflows, few shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.index import packing


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 97), max_size=60), streams=st.sampled_from([1, 2, 3, 8]), room=st.integers(0, 300))
def test_every_passage_is_in_one_stream_that_holds_it(lengths, streams, room):
    lengths, stream_tokens = np.array(lengths, np.int64), 97 + room
    packs = list(packing.pack(lengths, streams, stream_tokens, max_tokens=97))
    members = np.concatenate([pack.members.ravel() for pack in packs]) if packs else np.zeros(0, np.int64)
    assert sorted(members[members >= 0]) == list(range(len(lengths)))
    for pack in packs:
        real = pack.members >= 0
        sizes = np.where(real, lengths[pack.members], 0)
        assert pack.members.shape[0] == streams and real[0, 0]
        assert sizes.sum(axis=1).max() <= stream_tokens and sizes.max() <= pack.longest
    assert len({(pack.longest, pack.members.shape) for pack in packs}) == len({pack.longest for pack in packs})


@pytest.mark.parametrize('max_tokens, expected', [(200, {64, 128, 160, 200}), (50, {50}), (128, {64, 128})])
def test_widths_stop_at_the_limit(max_tokens, expected):
    packs = packing.pack(np.arange(1, max_tokens + 1), 1, 1024, max_tokens)
    assert {pack.longest for pack in packs} == expected


def test_streams_are_nearly_full():
    lengths = np.clip(np.random.default_rng(0).normal(150, 40, 2222), 15, 200).astype(np.int64)
    packs = list(packing.pack(lengths, 1, 4096, 200))
    assert lengths.sum() / (4096 * len(packs)) > 0.985
