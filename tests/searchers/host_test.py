"""Searchers of the host against a sort: ScaNN, BM25, fusion, several indexes; deletions, exclusions, saving."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from atlas_jax import errors, types
from atlas_jax.searchers import bm25, config, host, host_top_k, hybrid, saved, scann
from atlas_jax.searchers.protocol import HostQueries

TEXTS = ('radium was discovered by Marie Curie', 'the Seine flows through Paris', 'Marie wrote of radium and radium', 'nothing at all here',
         'Paris is a city', 'Curie street in Paris', 'radium glows')
VALID = np.array([True, True, False, True, True, True, True])


def by_sorting(scores, valid, top_k, excluded=None):
    scores = np.where(valid, scores, -np.inf)
    if excluded is not None:
        for row, ids in zip(scores, excluded, strict=True):
            row[ids[ids >= 0]] = -np.inf
    order = np.argsort(-scores, axis=1, kind='stable')[:, :top_k]
    best = np.take_along_axis(scores, order, axis=1)
    return best, np.where(np.isfinite(best), order, 0)


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    return generator.standard_normal((53, 8)).astype(np.float32), generator.random(53) < 0.6, generator.standard_normal(
        (3, 8)).astype(np.float32)


@pytest.mark.parametrize('metric', config.METRICS)
def test_scann_finds_what_sorting_finds(vectors, metric):
    pytest.importorskip('scann')
    embeddings, valid, queries = vectors
    excluded = np.array([[4, -1], [-1, -1], [0, 1]])
    searcher = scann.build(embeddings, valid, metric)
    scores = queries @ embeddings.T
    if metric == 'cosine':
        scores /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(embeddings, axis=1)
    for top_k in (1, 7, 60):
        found = searcher.search(HostQueries(['', '', ''], queries), top_k, excluded)
        expected = by_sorting(scores, valid, 60, excluded)
        np.testing.assert_allclose(found.scores[:, :53], expected[0][:, :top_k], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.passage_ids[:, :53], expected[1][:, :top_k])
        assert found.scores.shape == (3, top_k) and np.all(np.isinf(found.scores[:, 53:]))


def test_scann_opens_what_it_saved_for_that_version_alone(vectors, tmp_path):
    pytest.importorskip('scann')
    embeddings, valid, queries = vectors
    asked = HostQueries(['', '', ''], queries)
    searcher = scann.build(embeddings, valid)
    scann.save(searcher, tmp_path / 'scann', 'version-1')
    (tmp_path / 'scann').rename(tmp_path / 'moved')
    opened = scann.open_saved(tmp_path / 'moved', 'version-1', valid)
    np.testing.assert_array_equal(opened.search(asked, 5).passage_ids, searcher.search(asked, 5).passage_ids)
    later = scann.open_saved(tmp_path / 'moved', 'version-1', valid & (np.arange(53) != searcher.search(asked, 1).passage_ids[0, 0]))
    assert later.search(asked, 1).passage_ids[0, 0] == searcher.search(asked, 2).passage_ids[0, 1]  # deleted since, found no more
    assert scann.open_saved(tmp_path / 'moved', 'version-2', valid) is None
    assert scann.open_saved(tmp_path / 'moved', 'version-1', valid, 'cosine') is None
    (tmp_path / 'moved' / saved.FILE).write_text('{')
    assert scann.open_saved(tmp_path / 'moved', 'version-1', valid) is None


def test_scann_parameters_follow_its_guide():
    assert scann.parameters_for(19_999) == {'leaves': 0, 'leaves_searched': 0, 'hashing': False, 'reorder': 0}
    assert scann.parameters_for(20_000)['hashing'] and scann.parameters_for(99_999)['leaves'] == 0
    assert scann.parameters_for(1_000_000) == {'leaves': 2000, 'leaves_searched': 58, 'hashing': True, 'reorder': 300}


def test_scann_with_hashing_and_tree_finds_the_planted_rows(monkeypatch):
    pytest.importorskip('scann')
    monkeypatch.setattr(scann, '_BRUTE_FORCE_ROWS', 100)
    monkeypatch.setattr(scann, '_TREE_ROWS', 400)
    generator = np.random.default_rng(2)
    for rows in (300, 900):
        embeddings = generator.standard_normal((rows, 16)).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        searcher = scann.build(embeddings, np.arange(rows) != 5)
        found = searcher.search(HostQueries([''] * 8, embeddings[:8]), 3, np.full((8, 1), -1))
        hits = found.passage_ids[:, 0] == np.arange(8)
        assert hits.sum() >= 6 and not hits[5]  # two leaves of thirty may miss one
        everything = searcher.search(HostQueries([''], embeddings[:1]), rows)
        assert len(set(everything.passage_ids[0, :rows - 1].tolist())) >= 0.9 * rows and np.isinf(everything.scores[0, -1])


def lucene_bm25(query, texts):
    """The formula of bm25s's default method, from the paper (Lu 2024, section 2)."""
    words = [[word for word in re.findall(r'\b\w\w+\b', text.lower()) if word not in {'was', 'by', 'the', 'at', 'is', 'in', 'of', 'and'}]
             for text in texts]
    mean, scores = np.mean([len(row) for row in words]), []
    for row in words:
        counts, total = Counter(row), 0.0
        for word in query.lower().split():
            containing = sum(word in other for other in words)
            idf = math.log(1 + (len(texts) - containing + 0.5) / (containing + 0.5))
            total += idf * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * len(row) / mean))
        scores.append(total)
    return np.array(scores, np.float32)


def test_bm25_follows_its_formula_and_leaves_out_what_is_deleted(tmp_path):
    pytest.importorskip('bm25s')
    built = bm25.build(TEXTS, VALID)
    built.save(tmp_path / 'bm25', 'store-1')
    opened = bm25.open_saved(tmp_path / 'bm25', 'store-1', VALID)
    questions = HostQueries(['radium curie', 'unheard', 'paris', ''], None)
    for searcher in (built, opened):
        found = searcher.search(questions, 4)
        expected = np.stack([lucene_bm25(question, TEXTS) for question in questions.texts])
        best, order = by_sorting(np.where(expected > 0, expected, -np.inf), VALID, 4)
        np.testing.assert_allclose(found.scores, best, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.passage_ids, order)
        excluded = searcher.search(questions, 4, np.array([[0], [0], [4], [-1]]))
        assert 0 not in excluded.passage_ids[0, :1] and excluded.passage_ids[2, 0] != 4
    assert bm25.open_saved(tmp_path / 'bm25', 'store-2', VALID) is None
    assert searcher.search(HostQueries([], None), 4).scores.shape == (0, 4)
    with pytest.raises(errors.ConfigError, match='words in them'):
        bm25.build(['', '.'], np.ones(2, bool))


def made(scores, ids):
    return types.Retrieved(scores=np.array(scores, np.float32), passage_ids=np.array(ids, np.int32))


def test_fusion_adds_up_ranks_or_scaled_scores():
    dense = made([[9, 5, 1], [3, -np.inf, -np.inf]], [[4, 2, 7], [1, 0, 0]])
    lexical = made([[8, 6, 4], [-np.inf] * 3], [[2, 9, 4], [0, 0, 0]])
    ranks = hybrid.fuse(dense, lexical, 5, 'reciprocal_rank', 0.5)
    np.testing.assert_array_equal(ranks.passage_ids, [[2, 4, 9, 7, 0], [1, 0, 0, 0, 0]])
    np.testing.assert_allclose(ranks.scores[0, :4], [.5 / 62 + .5 / 61, .5 / 61 + .5 / 63, .5 / 62, .5 / 63], rtol=1e-6)
    weighted = hybrid.fuse(dense, lexical, 4, 'weighted', 0.25)
    np.testing.assert_array_equal(weighted.passage_ids, [[4, 2, 9, 7], [1, 0, 0, 0]])
    np.testing.assert_allclose(weighted.scores[0], [.75, .375 + .25, .125, 0], rtol=1e-6)
    np.testing.assert_allclose(weighted.scores[1, 0], 0.75)


def test_hybrid_asks_both_sides():
    class Fixed:
        def __init__(self, found):
            self.found, self.needs_embeddings, self.asked = found, False, []

        def search(self, queries, top_k, excluded=None):
            self.asked.append(top_k)
            return self.found

    dense, lexical = Fixed(made([[2, 1]], [[3, 1]])), Fixed(made([[7, -np.inf]], [[1, 0]]))
    searcher = hybrid.Hybrid(dense, lexical, config.SearchConfig('hybrid', fusion_candidates=2))
    assert searcher.search(HostQueries(['x'], None), 1).passage_ids.tolist() == [[1]]
    assert dense.asked == lexical.asked == [2]


def test_several_indexes_are_one(vectors):
    pytest.importorskip('scann')
    embeddings, valid, queries = vectors
    parts = [scann.build(embeddings[:20], valid[:20]), scann.build(embeddings[20:], valid[20:])]
    both = host.Several(parts, [0, 24])  # four rows of padding between them
    excluded = np.array([[3, 24], [25, -1], [30, 2]])
    found = both.search(HostQueries([''] * 3, queries), 9, excluded)
    whole = np.concatenate([embeddings[:20], np.zeros((4, 8), np.float32), embeddings[20:]])
    expected = by_sorting(queries @ whole.T, np.concatenate([valid[:20], np.zeros(4, bool), valid[20:]]), 9, excluded)
    np.testing.assert_array_equal(found.passage_ids, expected[1])
    np.testing.assert_allclose(found.scores, expected[0], rtol=1e-5, atol=1e-6)


def test_ties_go_to_the_lower_row():
    found = host_top_k.best_of_all(np.array([1, 3, 3, 2, 3, -np.inf], np.float32), 2)
    assert found.passage_ids.tolist() == [[1, 2]]
    assert host_top_k.best_of_all(np.array([-np.inf, 2], np.float32), 3).passage_ids.tolist() == [[1, 0, 0]]


def test_a_missing_package_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'scann.scann_ops.py', None)
    monkeypatch.setitem(sys.modules, 'bm25s', None)
    with pytest.raises(errors.ConfigError, match='pip install scann'):
        scann.build(np.ones((2, 2), np.float32), np.ones(2, bool))
    with pytest.raises(errors.ConfigError, match=r'atlas-jax\[lexical\]'):
        bm25.build(TEXTS, VALID)


@pytest.mark.parametrize('wrong', [{'searcher': 'exakt'}, {'metric': 'l2'}, {'overfetch': 0}, {'lexical_weight': 1.5}, {'recall_target': 0},
                                   {'dense_searcher': 'bm25'}, {'rerank_candidates': -1}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(errors.ConfigError, match=f'SearchConfig.{next(iter(wrong))} is'):
        config.SearchConfig(**wrong)
