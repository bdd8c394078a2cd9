"""Sorting, filtering and saving on the host, against a sort of all scores."""

import dataclasses
import json
from typing import Annotated

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax import partitioning
from atlas_jax.io import checksum, schema
from atlas_jax.io.folder import Folder
from atlas_jax.searchers import host_searcher


def by_sorting_scores(scores, valid, top_k, excluded=None):
    """Scores [batch, top_k] and rows, best first; deleted and excluded ones are not found."""
    scores = np.where(valid, scores, -np.inf)
    if excluded is not None:
        for row, ids in zip(scores, excluded, strict=True):
            row[ids[ids >= 0]] = -np.inf
    order = np.argsort(-scores, axis=1, kind='stable')[:, :top_k]
    best = np.take_along_axis(scores, order, axis=1)
    return best, np.where(np.isfinite(best), order, 0)


def small_vectors():
    """Embeddings [53, 8], which of them are valid, and queries [3, 8]."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((53, 8)).astype(np.float32), generator.random(53) < 0.6, generator.standard_normal(
        (3, 8)).astype(np.float32)


def test_ties_go_to_the_lower_row():
    found = host_searcher.best_of_all(np.array([1, 3, 3, 2, 3, -np.inf], np.float32), 2)
    assert found.passage_ids.tolist() == [[1, 2]]
    assert host_searcher.best_of_all(np.array([-np.inf, 2], np.float32), 3).passage_ids.tolist() == [[1, 0, 0]]


def test_candidates_in_any_order_are_sorted():
    found = host_searcher.best(np.array([[1, -np.inf, 5, 5, 3], [-np.inf] * 5]), np.array([[4, 9, 8, 2, 0], [1, 2, 3, 4, 5]]), 7)
    np.testing.assert_array_equal(found.scores, np.array([[5, 5, 3, 1, *[-np.inf] * 3], [-np.inf] * 7], np.float32))
    assert found.passage_ids.tolist() == [[2, 8, 0, 4, 0, 0, 0], [0] * 7]
    assert found.scores.dtype == np.float32 and found.passage_ids.dtype == np.int32
    assert host_searcher.nothing(5).scores.shape == host_searcher.nothing(5).passage_ids.shape == (0, 5)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 23), batch=st.integers(1, 3), top_k=st.integers(1, 29), excluded=st.integers(0, 5))
def test_fetching_goes_on_until_enough_are_valid(data, rows, batch, top_k, excluded):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    scores, valid = generator.integers(-3, 4, (batch, rows)).astype(np.float64), generator.random(rows) < 0.5
    ids = generator.integers(-1, rows, (batch, excluded)) if excluded else None
    asked = []

    def fetch(number):
        asked.append(number)
        order = np.argsort(-scores, axis=1, kind='stable')[:, :number]
        return np.take_along_axis(scores, order, axis=1), order

    found = host_searcher.fetch_until_enough(fetch, rows, valid, top_k, ids)
    expected = by_sorting_scores(scores, valid, top_k, ids)
    padding = ((0, 0), (0, top_k - expected[0].shape[1]))
    np.testing.assert_array_equal(found.scores, np.pad(expected[0], padding, constant_values=-np.inf))
    # Among equal scores a search that stops early may have fetched any of them; results are never deleted or excluded.
    is_found = np.isfinite(found.scores)
    assert valid[found.passage_ids[is_found]].all() and not host_searcher.is_excluded(found.passage_ids, ids)[is_found].any()
    assert asked == sorted(asked) and asked[-1] <= rows


def test_excluded_ids_are_those_of_their_own_query():
    ids = np.array([[3, 1, 0], [3, 1, 0]])
    assert host_searcher.is_excluded(ids, np.array([[1, -1], [0, 3]])).tolist() == [[False, True, False], [True, False, True]]
    assert not host_searcher.is_excluded(ids, None).any()


def test_results_are_laid_out_for_a_step():
    found = host_searcher.best(np.array([[2.0, 1.0]]), np.array([[5, 3]]), 2)
    placed = found.on_devices(partitioning.replicated(partitioning.make_mesh(devices=jax.devices()[:1])))
    assert isinstance(placed.scores, jax.Array) and placed.passage_ids.tolist() == [[5, 3]]


@dataclasses.dataclass(frozen=True)
class Saved(host_searcher.SavedFiles):
    leaves: Annotated[int, schema.Integer(0, 9)]


KIND = host_searcher.saved_kind(Saved, 'a tree searcher')


def test_a_saved_folder_is_whole_and_of_one_version(tmp_path):
    folder = tmp_path / 'searcher'
    assert host_searcher.read_saved(folder, KIND, digest='a') is None
    host_searcher.write_saved(folder, KIND, lambda place: (place / 'tree').write_text('first'), digest='a', leaves=3)
    assert host_searcher.read_saved(folder, KIND, digest='a').leaves == 3
    assert host_searcher.read_saved(folder, KIND, digest='b') is None
    with pytest.raises(ZeroDivisionError):
        host_searcher.write_saved(folder, KIND, lambda place: 1 / 0, digest='b')
    assert host_searcher.read_saved(folder, KIND, digest='a') is None and not folder.exists()  # built again by the next search
    host_searcher.write_saved(folder, KIND, lambda place: (place / 'tree').write_text('second'), digest='b', leaves=4)
    assert (folder / 'tree').read_text() == 'second' and host_searcher.saved_damage(Folder(folder), KIND) == []
    for content in ('{', '[]', '{"version": 99, "digest": "b", "leaves": 3}', '{"version": 2, "digest": "b"}', '[' * 9999,
                    signed(digest='b', leaves='3', files={}), signed(digest='b', leaves=3, files={'../tree': [1, 'a' * 64]})):
        (folder / host_searcher.SAVED_FILE).write_text(content)
        assert host_searcher.read_saved(folder, KIND, digest='b') is None
        assert len(host_searcher.saved_damage(Folder(folder), KIND)) == 1


def signed(**body) -> str:
    body = {'version': 2, **body}
    return json.dumps({**body, 'sha256': checksum.json_sha256(body)})


def test_a_folder_without_checksums_is_built_again_and_no_damage(tmp_path, capsys):
    (tmp_path / host_searcher.SAVED_FILE).write_text('{"version": 1, "digest": "a", "leaves": 3}')
    assert host_searcher.read_saved(tmp_path, KIND, digest='a') is None
    assert 'searcher format 1, this version of atlas_jax reads 2; the searcher is built again' in capsys.readouterr().err
    assert host_searcher.saved_damage(Folder(tmp_path), KIND) == []
