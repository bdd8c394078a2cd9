"""Searchers of the host combined: fusion, several indexes, saved ones opened and others built."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.searchers import bm25, fusion, in_graph, on_host, scann
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved
from tests.searchers.bm25_test import TEXTS, VALID
from tests.searchers.host_searcher_test import by_sorting_scores, small_vectors


def made(scores, ids):
    return HostRetrieved(scores=np.array(scores, np.float32), passage_ids=np.array(ids, np.int32))


def test_hybrid_asks_both_sides():
    class Fixed:
        def __init__(self, found):
            self.found, self.needs_embeddings, self.asked = found, False, []

        def search(self, queries, top_k, excluded=None):
            self.asked.append(top_k)
            return self.found

    dense, lexical = Fixed(made([[2, 1]], [[3, 1]])), Fixed(made([[7, -np.inf]], [[1, 0]]))
    searcher = on_host.Hybrid(dense, lexical, fusion.Mix(), 2)
    assert searcher.search(HostQueries(['x'], None), 1).passage_ids.tolist() == [[1]]
    assert dense.asked == lexical.asked == [2]


def test_several_indexes_are_one():
    pytest.importorskip('scann')
    embeddings, valid, queries = small_vectors()
    parts = [scann.build(embeddings[:20], valid[:20]), scann.build(embeddings[20:], valid[20:])]
    both = on_host.Several(parts, [0, 24])  # four rows of padding between them
    excluded = np.array([[3, 24], [25, -1], [30, 2]])
    found = both.search(HostQueries([''] * 3, queries), 9, excluded)
    whole = np.concatenate([embeddings[:20], np.zeros((4, 8), np.float32), embeddings[20:]])
    expected = by_sorting_scores(queries @ whole.T, np.concatenate([valid[:20], np.zeros(4, bool), valid[20:]]), 9, excluded)
    np.testing.assert_array_equal(found.passage_ids, expected[1])
    np.testing.assert_allclose(found.scores, expected[0], rtol=1e-5, atol=1e-6)


@dataclasses.dataclass
class FakeIndex:
    """The part of EmbeddingIndex that searchers of the host are built from."""

    path: pathlib.Path | str
    vectors: np.ndarray
    deleted: np.ndarray
    rows_digest: str = 'first'
    read: int = 0

    def __len__(self):
        return len(self.vectors)

    def embeddings(self, rows):
        self.read += 1
        return self.vectors[rows]


class FakeStore(list):
    """The passages of TEXTS as a store."""

    fingerprint = 'store'


def fake_part(path, first_row=0):
    generator = np.random.default_rng(first_row)
    store = FakeStore(Passage(f'd{row}', '', '', text) for row, text in enumerate(TEXTS))
    return on_host.SearcherPart(FakeIndex(path, generator.standard_normal((7, 5)).astype(np.float32), ~VALID), store, first_row)


def knowledge_of(parts):
    embeddings = np.concatenate([part.index.vectors for part in parts])
    valid = np.concatenate([~part.index.deleted for part in parts])
    return types.Knowledge(types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid)), None)


MESH = partitioning.make_mesh(devices=jax.devices()[:1])


def test_bm25_is_opened_if_it_was_saved(tmp_path, monkeypatch):
    pytest.importorskip('bm25s')
    config, questions = SearchConfig('bm25'), HostQueries(['radium', ''], None)
    (tmp_path / 'index').mkdir()
    part = fake_part(tmp_path / 'index')
    first = on_host.make(config, [part], lambda: None, MESH).search(questions, 3)
    assert (tmp_path / 'index' / bm25.FOLDER).is_dir() and 2 not in first.passage_ids[0]
    monkeypatch.setattr(bm25, 'build', None)
    again = on_host.make(config, [part], lambda: None, MESH).search(questions, 3)
    np.testing.assert_array_equal(again.passage_ids, first.passage_ids)


def test_nothing_is_saved_in_a_bucket(tmp_path, monkeypatch):
    pytest.importorskip('bm25s')
    monkeypatch.chdir(tmp_path)
    assert isinstance(on_host.make(SearchConfig('bm25'), [fake_part('gs://bucket/index')], lambda: None, MESH), bm25.BM25)
    assert not list(tmp_path.iterdir())


def test_scann_is_opened_until_the_rows_change(tmp_path):
    pytest.importorskip('scann')
    config, part = SearchConfig('scann', 'cosine'), fake_part(tmp_path)
    for digest, read in (('first', 1), ('first', 1), ('second', 2)):
        part.index.rows_digest = digest
        searcher = on_host.make(config, [part], lambda: None, MESH)
        assert searcher.cosine and part.index.read == read


@pytest.mark.parametrize('metric', ['max_inner_product', 'cosine'])
def test_hybrid_with_a_searcher_in_the_graph_over_two_indexes(tmp_path, metric):
    pytest.importorskip('bm25s')
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
    parts = [fake_part(tmp_path / 'one'), fake_part(tmp_path / 'two', first_row=7)]
    config = SearchConfig('hybrid', metric, lexical_weight=0.0, fusion_candidates=5)
    searcher = on_host.make(config, parts, lambda: knowledge_of(parts), MESH)
    queries, excluded = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32), np.array([[3, 9], [-1, -1]])
    found = searcher.search(HostQueries(['radium', 'paris'], queries), 4, excluded)
    knowledge = knowledge_of(parts)
    expected = in_graph.search(knowledge.index, jnp.asarray(queries), 4, MESH, config, searcher='exact', excluded=jnp.asarray(excluded))
    # With no weight on BM25's side the order is the dense one's.
    np.testing.assert_array_equal(found.passage_ids, expected.passage_ids)


def test_processes_have_equal_shares_of_the_rows(tmp_path):
    parts = [dataclasses.replace(fake_part(tmp_path), share=(number, 3)) for number in range(3)]
    assert [list(part.rows) for part in parts] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [part.valid.tolist() for part in parts] == [[True, True], [False, True], [True] * 3]
    assert parts[1].folder('bm25') == tmp_path / 'bm25-2-of-3' and fake_part(tmp_path).folder('bm25') == tmp_path / 'bm25'


def test_nothing_is_found_without_rows():
    found = on_host.Several([], []).search(HostQueries(['a', 'b'], None), 3)
    assert np.isneginf(found.scores).all() and found.passage_ids.tolist() == [[0] * 3] * 2


def test_an_index_without_passages_is_refused(tmp_path):
    part = dataclasses.replace(fake_part(tmp_path), index=FakeIndex(tmp_path, np.zeros((0, 5)), np.zeros(0, bool)))
    with pytest.raises(errors.ConfigError, match='ScaNN needs at least one passage'):
        on_host.make(SearchConfig('scann'), [part], lambda: None, MESH)
