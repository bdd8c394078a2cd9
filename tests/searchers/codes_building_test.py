"""Making the codes of an index: growth, deletions, the measured recall and its limit, and indexes that are too small."""

import dataclasses

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes_building, codes_files
from tests.testing import codes as given

SETTINGS = codes_building.CodesSettings(bytes_a_row=8, rescore=40, min_recall=0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(codes_files, 'PART_ROWS', 64)


def files(index) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (index.path / 'codes').iterdir()}


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_growing_equals_encoding_all_with_the_same_code(tmp_path, dtype):
    index, store = given.build(tmp_path / 'index', 150, dtype)
    first = codes_building.compress(index, SETTINGS, show_progress=False)
    before = files(index)
    given.grow(index, store, 77)
    after = codes_building.compress(index, SETTINGS, show_progress=False)
    assert (after.rows, after.revision, after.fitted_rows, after.recall_at_20) == (227, 2, 150, first.recall_at_20)
    # Whole parts stay as they are, the last one is written again.
    assert after.parts[:2] == first.parts[:2] and first.parts[2].name not in files(index)
    assert all(files(index)[part.name] == before[part.name] for part in first.parts[:2])
    saved = codes_files.open_for(index, 'max_inner_product')
    words, factors = saved.rows(0, 227)
    expected = code_lib.encode(saved.code, index.read(0, 227))
    np.testing.assert_array_equal(words, expected[0])
    np.testing.assert_allclose(factors, expected[1], rtol=1e-5)  # sums over other numbers of rows
    # Nothing to do is nothing done.
    assert codes_building.compress(index, SETTINGS, show_progress=False) == after


def test_small_embeddings_take_as_many_bytes_as_they_have_room_for(tmp_path):
    index, _ = given.build(tmp_path / 'index', 70)
    made = codes_building.compress(index, dataclasses.replace(SETTINGS, bytes_a_row=None), show_progress=False)
    assert made.bits == code_lib.MOST_BITS * index.dim // 8 * 8 < 8 * 96


def test_a_code_is_fitted_again_where_anything_was_asked_otherwise(tmp_path):
    index, _ = given.build(tmp_path / 'index', 150)
    before = codes_building.compress(index, SETTINGS, show_progress=False)
    for settings, queries in ((dataclasses.replace(SETTINGS, bytes_a_row=4), None), (dataclasses.replace(SETTINGS, metric='cosine'), None),
                              (dataclasses.replace(SETTINGS, metric='cosine'), index.read(3, 8))):
        after = codes_building.compress(index, settings, queries, show_progress=False)
        assert after.revision == before.revision + 1 and after.bits == 8 * settings.bytes_a_row and after.metric == settings.metric
        assert set(files(index)) == {'manifest.json', 'lock', after.code_file, *(part.name for part in after.parts)}
        before = after
    assert before.queries == 5


def test_rows_are_added_only_to_codes_that_fit(tmp_path):
    index, store = given.build(tmp_path / 'index', 70)
    assert codes_building.extend_if_there(index) is None
    codes_building.compress(index, SETTINGS, show_progress=False)
    assert codes_building.extend_if_there(index) is None
    given.grow(index, store, 3)
    assert codes_building.extend_if_there(index, show_progress=False).rows == 73
    index.delete(['doc4'], store)
    codes_files.open_for(index, 'max_inner_product')  # a deletion changes no code
    index.compact(store)
    assert codes_building.extend_if_there(index) is None
    assert codes_building.compress(index, SETTINGS, show_progress=False).rows == 72


def test_the_recall_is_that_of_numpy(tmp_path):
    index, store = given.build(tmp_path / 'index', 500)
    index.delete([f'doc{row}' for row in range(0, 500, 3)], store)
    queries = given.rows_of(9, given.DIM, seed=3)
    made = codes_building.compress(index, dataclasses.replace(SETTINGS, bytes_a_row=2), queries, show_progress=False)
    saved = codes_files.open_for(index, 'max_inner_product')
    values = np.asarray(code_lib.decode(saved.rows(0, 500)[0], saved.code.planes)).T[:500]
    estimates = (queries @ saved.code.turn) @ (values * saved.rows(0, 500)[1][:, None]).T
    exact = queries @ index.read(0, 500).T
    best = [np.argsort(-np.where(index.deleted, -np.inf, scores), axis=1)[:, :count] for scores, count in ((exact, 20), (estimates, 40))]
    recall = np.mean([len(set(true) & set(found)) / 20 for true, found in zip(*best, strict=True)])
    assert 0 < recall < 1 and abs(float(made.recall_at_20) - recall) < .02  # weights are rounded to bfloat16


def test_too_low_a_recall_is_refused_unless_it_is_accepted(tmp_path):
    index, _ = given.build(tmp_path / 'index', 500)
    strict = dataclasses.replace(SETTINGS, bytes_a_row=1, min_recall=.97)
    with pytest.raises(errors.IndexFolderError, match=r'codes of 1 bytes find 0\.\d+ of the true 20 among 40 candidates, less than '
                                                      r'--min_recall 0\.97; give more --bytes or --rescore, or --accept_recall'):
        codes_building.compress(index, strict, show_progress=False)
    assert codes_files.read(index.path) is None and not (index.path / 'codes').exists()
    accepted = codes_building.compress(index, dataclasses.replace(strict, accept_recall=True), show_progress=False)
    assert float(accepted.recall_at_20) < .97
    better = codes_building.compress(index, dataclasses.replace(strict, bytes_a_row=12), show_progress=False)
    assert float(better.recall_at_20) >= .97
    # Codes of before stay where new ones are refused.
    with pytest.raises(errors.IndexFolderError):
        codes_building.compress(index, strict, show_progress=False)
    assert codes_files.read(index.path) == better and codes_files.problems(index.path) == []


def test_few_passages_are_one_line(tmp_path):
    index, _ = given.build(tmp_path / 'index', 15)
    with pytest.raises(errors.ConfigError, match='15 passages are too few to fit a code of 16 numbers; it needs 16'):
        codes_building.compress(index, SETTINGS, show_progress=False)


@pytest.mark.parametrize('change, message', [({'bytes_a_row': 0}, 'bytes is 0'), ({'rescore': 19}, 'rescore is 19; it must be at least 20'),
                                             ({'sample': 0}, 'sample is 0'), ({'min_recall': 1.5}, 'min_recall is 1.5')])
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(errors.ConfigError, match=message):
        codes_building.CodesSettings(**change)


def test_a_sample_is_spread_over_the_index_and_leaves_deleted_rows_out(tmp_path):
    index, store = given.build(tmp_path / 'index', 1000)
    index.delete([f'doc{row}' for row in range(500)], store)
    sample = codes_building._sample(index, 256)
    rows = [int(np.flatnonzero((index.read(0, 1000) == row).all(axis=1))[0]) for row in sample]
    assert min(rows) >= 500 and max(rows) > 990 and 100 < len(rows) <= 256 and len(set(rows)) == len(rows)
    assert len(codes_building._sample(index, 5000)) == 500


def test_a_killed_run_leaves_the_codes_before_and_no_trace_after_the_next(tmp_path, monkeypatch):
    index, store = given.build(tmp_path / 'index', 150)
    before = codes_building.compress(index, SETTINGS, show_progress=False)

    def killed(*arguments):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(codes_files, 'write', killed)
        with pytest.raises(KeyboardInterrupt):
            codes_building.compress(index, dataclasses.replace(SETTINGS, bytes_a_row=4), show_progress=False)
    assert codes_files.read(index.path) == before and codes_files.open_for(index, 'max_inner_product').rows(0, 150)[0].shape == (5, 64)
    given.grow(index, store, 1)
    after = codes_building.compress(index, SETTINGS, show_progress=False)
    assert set(files(index)) == {'manifest.json', 'lock', after.code_file, *(part.name for part in after.parts)}
