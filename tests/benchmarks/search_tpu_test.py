"""The simulation of XLA's reduction: each bucket keeps only its best row."""

import numpy as np
import search_tpu


def test_rows_of_one_bucket_lose_all_but_one():
    # 65,536 rows on 4 chips, best 4 of a query: 128 buckets a chip of 128 rows each.
    apart = np.array([[0, 128, 256, 384]])
    beside = np.array([[0, 1, 2, 3]])
    spread = np.array([[0, 16_384, 32_768, 49_152]])  # one a chip
    for best, by_lanes, by_neighbours in ((apart, 1 / 4, 1), (beside, 1, 1 / 4), (spread, 1, 1)):
        assert search_tpu.kept(best, 16_384, 65_536, neighbours=False) == by_lanes
        assert search_tpu.kept(best, 16_384, 65_536, neighbours=True) == by_neighbours


def test_random_rows_are_kept_as_the_formula_says():
    best = np.stack([np.random.default_rng(seed).choice(65_536, 40, replace=False) for seed in range(300)])
    # 4 chips have 256 buckets each, whichever way they lie; 40 rows fall into so many of the 1,024.
    expected = 1024 / 40 * (1 - (1 - 1 / 1024) ** 40)
    for neighbours in (False, True):
        assert abs(search_tpu.kept(best, 16_384, 65_536, neighbours) - expected) < 0.003
