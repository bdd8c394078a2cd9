"""Codes with the embeddings on the host, against codes on the device and exact search."""

import dataclasses
import types as python_types

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.searchers import codes_building, codes_files, codes_on_host, exact, on_host
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostQueries
from tests.testing import codes as given

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
SETTINGS = codes_building.CodesSettings(bytes_a_row=8, rescore=40, min_recall=0)
CONFIG = SearchConfig('codes', rescore='host', rescore_candidates=60)


@pytest.fixture(scope='module')
def index(tmp_path_factory):
    made, store = given.build(tmp_path_factory.mktemp('codes') / 'index', 150, 'int8')
    codes_building.compress(made, SETTINGS, show_progress=False)
    made.delete(['doc3', 'doc90'], store)
    return made


def asked(count: int) -> HostQueries:
    return HostQueries([''] * count, given.rows_of(count, given.DIM, seed=11))


@pytest.mark.parametrize('metric', ['max_inner_product', 'cosine'])
def test_finds_what_exact_search_finds(index, metric):
    if metric == 'cosine':
        codes_building.compress(index, dataclasses.replace(SETTINGS, metric=metric), show_progress=False)
    queries, excluded = asked(6), np.array([[5, -1]] * 5 + [[0, 1]])
    config = dataclasses.replace(CONFIG, metric=metric)
    found = codes_on_host.make(index, MESH, config).search(queries, 9, excluded)
    exactly = exact.search(index.device_arrays(MESH), queries.embeddings, 13, MESH, metric=metric)
    for row in range(6):
        kept = ~np.isin(exactly.passage_ids[row], excluded[row])
        np.testing.assert_array_equal(found.passage_ids[row], np.asarray(exactly.passage_ids[row])[kept][:9])
        np.testing.assert_allclose(found.scores[row], np.asarray(exactly.scores[row])[kept][:9], rtol=1e-5)
    assert found.scores.dtype == np.float32 and found.passage_ids.dtype == np.int32
    if metric == 'cosine':
        codes_building.compress(index, SETTINGS, show_progress=False)


def test_more_passages_than_there_are_and_no_queries(index):
    searcher = codes_on_host.make(index, MESH, CONFIG)
    found = searcher.search(asked(2), 200)
    assert found.scores.shape == (2, 200) and np.isfinite(found.scores).sum(axis=1).tolist() == [148, 148]
    assert not set(found.passage_ids[0, :148].tolist()) & {3, 90} and (searcher.valid == ~index.deleted).all()
    assert searcher.search(asked(0), 7).scores.shape == (0, 7)


def test_the_name_gives_the_searcher_also_of_several_indexes_and_beside_bm25(index, monkeypatch):
    parts = [on_host.SearcherPart(index, python_types.SimpleNamespace(), first) for first in (0, 150)]
    assert isinstance(on_host.make(CONFIG, parts[:1], lambda: None, MESH), codes_on_host.CodesOnHost)
    both = on_host.make(CONFIG, parts, lambda: None, MESH).search(asked(3), 4)
    one = codes_on_host.make(index, MESH, CONFIG).search(asked(3), 2)
    np.testing.assert_array_equal(both.passage_ids[:, ::2], one.passage_ids)
    np.testing.assert_array_equal(both.passage_ids[:, 1::2], one.passage_ids + 150)
    monkeypatch.setattr(on_host, 'lexical', lambda part: codes_on_host.make(part.index, MESH, CONFIG))
    hybrid = on_host.make(dataclasses.replace(CONFIG, searcher='hybrid', dense_searcher='codes'), parts[:1], lambda: None, MESH)
    assert isinstance(hybrid.dense, codes_on_host.CodesOnHost)


def test_a_damaged_embedding_is_never_found(index, monkeypatch):
    searcher, queries = codes_on_host.make(index, MESH, CONFIG), asked(1)
    best = searcher.search(queries, 1).passage_ids[0, 0]
    take = type(searcher._rows).take
    monkeypatch.setattr(searcher, '_rows', python_types.SimpleNamespace(
        take=lambda rows: np.where((rows == best)[:, None], np.nan, take(index.row_files(), rows))))
    found = searcher.search(queries, 1)
    assert found.passage_ids[0, 0] != best and np.isfinite(found.scores).all()


def test_an_index_without_codes_is_one_line(tmp_path):
    index, _ = given.build(tmp_path / 'index', 3)
    with pytest.raises(errors.ConfigError, match='has no codes'):
        codes_on_host.make(index, MESH, CONFIG)
    assert codes_files.FOLDER == 'codes' and CONFIG.on_host and not SearchConfig('codes').on_host
