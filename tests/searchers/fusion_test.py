"""Two result lists in one order: by ranks, by scaled scores, and with passages that one side lacks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.searchers import fusion
from atlas_jax.searchers.config import FUSIONS, SearchConfig
from atlas_jax.searchers.fusion import Mix
from atlas_jax.searchers.host_searcher import HostRetrieved


def made(scores, ids):
    return HostRetrieved(scores=np.array(scores, np.float32), passage_ids=np.array(ids, np.int32))


def test_fusion_adds_up_ranks_or_scaled_scores():
    dense = made([[9, 5, 1], [3, -np.inf, -np.inf]], [[4, 2, 7], [1, 0, 0]])
    lexical = made([[8, 6, 4], [-np.inf] * 3], [[2, 9, 4], [0, 0, 0]])
    ranks = fusion.fuse(dense, lexical, 5, Mix('reciprocal_rank', 0.5))
    np.testing.assert_array_equal(ranks.passage_ids, [[2, 4, 9, 7, 0], [1, 0, 0, 0, 0]])
    np.testing.assert_allclose(ranks.scores[0, :4], [.5 / 62 + .5 / 61, .5 / 61 + .5 / 63, .5 / 62, .5 / 63], rtol=1e-6)
    weighted = fusion.fuse(dense, lexical, 4, Mix('weighted', 0.25))
    np.testing.assert_array_equal(weighted.passage_ids, [[4, 2, 9, 7], [1, 0, 0, 0]])
    np.testing.assert_allclose(weighted.scores[0], [.75, .375 + .25, .125, 0], rtol=1e-6)
    np.testing.assert_allclose(weighted.scores[1, 0], 0.75)


def test_a_mix_is_what_the_configuration_sets_or_equal_shares():
    assert Mix.of(SearchConfig('hybrid')) == Mix('reciprocal_rank', 0.5)
    assert Mix.of(SearchConfig('hybrid', fusion='weighted')) == Mix('weighted', 0.5)
    assert Mix.of(SearchConfig('hybrid', lexical_weight=0.0)) == Mix('reciprocal_rank', 0.0)


def one_by_one(dense, lexical, mix):
    """Scores of one query's passages, by passage."""
    worth: dict[int, float] = {}
    for side, share in ((dense, 1 - mix.lexical_weight), (lexical, mix.lexical_weight)):
        scores = [score for score, _ in side]
        for rank, (score, passage) in enumerate(side):
            scaled = (score - min(scores)) / (max(scores) - min(scores)) if max(scores) > min(scores) else 1
            worth[passage] = worth.get(passage, 0) + share * (1 / (61 + rank) if mix.fusion == 'reciprocal_rank' else scaled)
    return worth


results = st.dictionaries(st.integers(0, 11), st.integers(-5, 5), max_size=7).map(
    lambda found: sorted(((float(score), passage) for passage, score in found.items()), key=lambda pair: (-pair[0], pair[1])))


@given(results, results, st.sampled_from(FUSIONS), st.sampled_from([0, 0.25, 0.5, 1]))
def test_fusion_equals_the_sum_of_each_passage(dense, lexical, name, weight):
    mix = Mix(name, weight)

    def padded(side, width):
        side = side + [(-np.inf, 0)] * (width - len(side))
        return made([[score for score, _ in side]], [[passage for _, passage in side]])

    found = fusion.fuse(padded(dense, 7), padded(lexical, 8), 13, mix)
    expected = one_by_one(dense, lexical, mix)
    count = int(np.isfinite(found.scores).sum())
    given = list(zip(found.passage_ids[0, :count].tolist(), found.scores[0, :count].tolist(), strict=True))
    assert dict(given) == pytest.approx(expected, abs=1e-6) and len(given) == len(expected)
    assert given == sorted(given, key=lambda pair: (-pair[1], pair[0]))


def test_nothing_found_on_either_side():
    empty = made([[-np.inf, -np.inf]], [[0, 0]])
    assert not np.isfinite(fusion.fuse(empty, empty, 3, Mix()).scores).any()
    assert fusion.fuse(made(np.zeros((0, 3)), np.zeros((0, 3))), made(np.zeros((0, 2)), np.zeros((0, 2))), 4, Mix()).scores.shape == (0, 4)
