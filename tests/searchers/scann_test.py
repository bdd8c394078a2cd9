"""ScaNN against a sort; deletions, exclusions, saving."""

import sys

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.io import versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.searchers import config, host_searcher, scann
from atlas_jax.searchers.host_searcher import HostQueries
from tests.searchers.host_searcher_test import by_sorting_scores, small_vectors


@pytest.mark.parametrize('metric', config.METRICS)
def test_scann_finds_what_sorting_finds(metric):
    pytest.importorskip('scann')
    embeddings, valid, queries = small_vectors()
    excluded = np.array([[4, -1], [-1, -1], [0, 1]])
    searcher = scann.build(embeddings, valid, metric)
    scores = queries @ embeddings.T
    if metric == 'cosine':
        scores /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(embeddings, axis=1)
    for top_k in (1, 7, 60):
        found = searcher.search(HostQueries(['', '', ''], queries), top_k, excluded)
        expected = by_sorting_scores(scores, valid, 60, excluded)
        np.testing.assert_allclose(found.scores[:, :53], expected[0][:, :top_k], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.passage_ids[:, :53], expected[1][:, :top_k])
        assert found.scores.shape == (3, top_k) and np.all(np.isinf(found.scores[:, 53:]))


def test_scann_opens_what_it_saved_for_that_version_alone(tmp_path):
    pytest.importorskip('scann')
    embeddings, valid, queries = small_vectors()
    asked = HostQueries(['', '', ''], queries)
    searcher = scann.build(embeddings, valid)
    searcher.save(tmp_path / 'scann', 'version-1')
    (tmp_path / 'scann').rename(tmp_path / 'moved')
    opened = scann.open_saved(tmp_path / 'moved', 'version-1', valid)
    np.testing.assert_array_equal(opened.search(asked, 5).passage_ids, searcher.search(asked, 5).passage_ids)
    later = scann.open_saved(tmp_path / 'moved', 'version-1', valid & (np.arange(53) != searcher.search(asked, 1).passage_ids[0, 0]))
    assert later.search(asked, 1).passage_ids[0, 0] == searcher.search(asked, 2).passage_ids[0, 1]  # deleted since, found no more
    assert scann.open_saved(tmp_path / 'moved', 'version-2', valid) is None
    assert scann.open_saved(tmp_path / 'moved', 'version-1', valid, 'cosine') is None
    (tmp_path / 'moved' / host_searcher.SAVED_FILE).write_text('{')
    assert scann.open_saved(tmp_path / 'moved', 'version-1', valid) is None


def describe(folder, parameters):
    """Writes the description of the files that are there, with right checksums."""
    files = versioned_folder.listed(Folder(folder))
    scann.KIND.write(Folder(folder), scann.SavedScann('a', files, False, parameters))


ASSET = 'assets {\n  asset_type: DATASET_NPY\n  asset_path: "dataset.npy"\n}\n'


@pytest.mark.parametrize(('assets', 'file'), [
    (ASSET, 'scann_docids.pkl'), (ASSET.replace('dataset.npy', '../victim.npy'), 'x.npy'),
    (ASSET.replace('dataset.npy', '/etc/passwd'), 'dataset.npy'),
    (ASSET.replace('"dataset.npy"', '".." "/victim"'), 'dataset.npy'), (ASSET.replace('dataset', '\\056\\056'), 'dataset.npy'),
    ('', 'dataset.npy'), (None, 'dataset.npy')])
def test_scann_is_not_given_what_it_did_not_write(tmp_path, monkeypatch, assets, file):
    monkeypatch.setattr(scann, '_package', lambda: pytest.fail('ScaNN would open or unpickle it'))
    (tmp_path / file).touch()
    if assets is not None:
        (tmp_path / 'scann_assets.pbtxt').write_text(assets)
    describe(tmp_path, scann.parameters_for(9))
    assert scann.open_saved(tmp_path, 'a', np.ones(9, bool)) is None


@pytest.mark.parametrize('parameters', [7, {}, {'leaves': '3', 'leaves_searched': 1, 'hashing': False, 'reorder': 0}])
def test_a_description_of_other_fields_is_no_searcher(tmp_path, monkeypatch, parameters):
    monkeypatch.setattr(scann, '_package', lambda: pytest.fail('opened'))
    (tmp_path / 'dataset.npy').touch()
    (tmp_path / 'scann_assets.pbtxt').write_text(ASSET)
    describe(tmp_path, parameters)
    assert scann.open_saved(tmp_path, 'a', np.ones(9, bool)) is None


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


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scann.scann_ops.py', None)
    with pytest.raises(errors.ConfigError, match='pip install scann'):
        scann.build(np.ones((2, 2), np.float32), np.ones(2, bool))
    with pytest.raises(errors.ConfigError, match='at least one passage'):
        scann.build(np.zeros((0, 2), np.float32), np.zeros(0, bool))
