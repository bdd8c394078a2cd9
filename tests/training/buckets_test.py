"""Capacities: the last always holds everything; the chosen level is the smallest that fits."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from atlas_jax.training import buckets


@hypothesis.given(lengths=st.lists(st.integers(0, 90), max_size=40), passages=st.integers(1, 23), limit=st.integers(1, 70))
def test_sizes_grow_and_the_last_holds_everything(lengths, passages, limit):
    sizes = buckets.capacities(np.array(lengths, int), passages, limit)
    assert len(sizes) == 2
    assert sizes[-1].longest >= limit and sizes[-1].stream_tokens >= passages * limit
    for smaller, larger in zip(sizes, sizes[1:], strict=False):
        assert smaller.stream_tokens <= larger.stream_tokens and smaller.longest <= larger.longest


def test_typical_streams_need_far_less_than_the_limit():
    lengths = np.random.default_rng(0).normal(165, 35, 5000).astype(int)
    small = buckets.capacities(lengths, passages=40, limit=512)[0]
    assert small.stream_tokens < 0.4 * 40 * 512 and small.longest < 320
    fits = [np.random.default_rng(seed).choice(lengths, 40).sum() <= small.stream_tokens for seed in range(50)]
    assert np.mean(fits) > 0.8


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
    assert int(buckets.level([(short, sizes), (long, sizes)])) == 1
