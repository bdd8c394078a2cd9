import dataclasses
import types

import numpy as np

from atlas_jax.apps.project import estimate

SIZES = estimate.Sizes(1000, 100.0, 120.0, 19_000_000, 40_000_000, 11_000_000, 64, 16)
STEPS = ('index', 'searcher', 'training', 'evaluation', 'closed book', 'confidence')


def test_time_follows_sizes_and_speed():
    base, faster = (estimate.seconds(SIZES, gflops, STEPS) for gflops in (50, 100))
    assert all(np.isclose(base[step], 2 * faster[step]) for step in STEPS)
    larger = estimate.seconds(dataclasses.replace(SIZES, passages=1_000_000), 50, STEPS)
    # 1,000 times as many passages of 120 tokens: 2 operations a parameter and token.
    assert np.isclose(larger['index'] - base['index'], 999_000 * 120 * 2 * 11e6 / (50e9 * .5))
    assert {step for step in STEPS if larger[step] != base[step]} == {'index'}
    assert estimate.seconds(SIZES, 50, ['models', 'training']).keys() == {'training'}


def test_sizes_and_the_line(capsys):
    store = types.SimpleNamespace(reader_lengths=np.array([1, 3]), retriever_lengths=np.array([2, 6]), __len__=lambda: 2)
    found = estimate.sizes_of(type('Store', (), {**vars(store), '__len__': lambda self: 2})(),
                              {'parameters': {'encoder': 1, 'decoder': 2, 'retriever': 3}, 'train_questions': 5})
    assert found == estimate.Sizes(2, 2.0, 4.0, 1, 2, 3, 5, 0)
    assert estimate.shown({'index': 30, 'training': 200, 'evaluation': 8000}, 20.4) == (
        "estimated time: 2.3 h (index 30 s, training 3 min, evaluation 2.2 h), by this machine's 20 GFLOP/s in a probe now; "
        'within a factor of two')
    assert estimate.speed() > .1
