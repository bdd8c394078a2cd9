"""Capacities: the last always holds everything; the chosen level is the smallest that fits."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from atlas_jax.steps import buckets


@hypothesis.given(lengths=st.lists(st.integers(0, 90), max_size=40), passages=st.integers(1, 23), limit=st.integers(1, 70),
                  streams=st.integers(1, 300))
def test_sizes_grow_and_the_last_holds_everything(lengths, passages, limit, streams):
    sizes = buckets.capacities(np.array(lengths, int), passages, limit, streams)
    assert len(sizes) == 3
    assert sizes[-1].longest >= limit and sizes[-1].stream_tokens >= passages * limit
    for smaller, larger in zip(sizes, sizes[1:], strict=False):
        assert smaller.stream_tokens <= larger.stream_tokens and smaller.longest <= larger.longest


def test_typical_streams_need_far_less_than_the_limit():
    lengths = np.random.default_rng(0).normal(165, 35, 5000).astype(int)
    for streams in (1, 32):
        middle, large, full = buckets.capacities(lengths, passages=40, limit=512, streams=streams)
        assert large.stream_tokens < 0.4 * full.stream_tokens and large.longest < 320
        fits = []
        for seed in range(100):  # steps of so many streams that take one level together
            rows = np.random.default_rng(seed).choice(lengths, (streams, 40))
            fits.append([rows.sum(axis=1).max() <= size.stream_tokens and rows.max() <= size.longest for size in (middle, large)])
        assert 0.3 < np.mean(fits, axis=0)[0] < 0.85 and np.mean(fits, axis=0)[1] > 0.85


@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=30)
def test_level_is_the_smallest_that_fits_every_stream(data):
    sizes = buckets.capacities(np.array([5, 7, 11, 13, 17, 40]), passages=3, limit=43)
    lengths = np.array(data.draw(st.lists(st.lists(st.integers(0, 43), min_size=3, max_size=3), min_size=1, max_size=4)))
    level = int(buckets.level([(jnp.asarray(lengths), sizes)]))
    fits = [lengths.sum(axis=1).max() <= size.stream_tokens and lengths.max() <= size.longest for size in sizes]
    assert fits[level] and not any(fits[:level])


def test_level_looks_at_all_kinds_of_streams():
    sizes = buckets.capacities(np.array([5, 7, 11, 13]), passages=3, limit=43)
    short, long = jnp.array([[1, 2, 3]]), jnp.array([[43, 43, 43]])
    assert int(buckets.level([(short, sizes), (short, sizes)])) == 0
    assert int(buckets.level([(short, sizes), (long, sizes)])) == len(sizes) - 1


def test_equal_levels_are_left_out_where_all_kinds_agree():
    small, large = buckets.Capacity(64, 8), buckets.Capacity(128, 16)
    kinds = {'read': (small, small, large), 'embedded': (small, small, small)}
    assert buckets.distinct(kinds) == {'read': (small, large), 'embedded': (small, small)}
    assert buckets.distinct({'read': (large,) * 3}) == {'read': (large,)}


@hypothesis.given(lengths=st.lists(st.integers(0, 90), max_size=40), passages=st.integers(1, 23), limit=st.integers(1, 70))
def test_shared_sizes_hold_what_the_others_hold(lengths, passages, limit):
    sizes = buckets.capacities(np.array(lengths, int), passages, limit)
    shared = buckets.shared(sizes, passages, 75)
    for before, after in zip(sizes[-len(shared):], shared, strict=True):
        assert after.stream_tokens >= before.stream_tokens and before.longest <= after.longest <= 80
        assert after.stream_tokens <= max(passages, 1) * after.longest
    assert shared[-1].stream_tokens == passages * shared[-1].longest
    for smaller, larger in zip(shared, shared[1:], strict=False):
        assert smaller.stream_tokens <= larger.stream_tokens and smaller.longest <= larger.longest


def test_other_passages_have_the_same_sizes():
    generator = np.random.default_rng(0)
    found = {buckets.shared(buckets.capacities(generator.normal(150, 30, count).astype(int), 5, 512), 5, 512) for count in range(900, 950)}
    assert len(found) == 1 and len(found.pop()) == 2  # a handful of passages: one program less
