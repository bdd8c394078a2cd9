"""The files of codes: laid out for any number of devices, refused where they do not fit the index, and their damage."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.index import verification
from atlas_jax.io import checksum
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_building, codes_files
from tests.testing import codes as given

SETTINGS = codes_building.CodesSettings(bytes_a_row=8, rescore=40, min_recall=0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(codes_files, 'PART_ROWS', 64)


def made(path, rows: int, settings: codes_building.CodesSettings = SETTINGS):
    index, store = given.build(path, rows)
    codes_building.compress(index, settings, show_progress=False)
    return index, store


def test_every_range_of_rows_is_packed_from_its_own_first_row(tmp_path):
    index, _ = made(tmp_path / 'index', 150)
    saved = codes_files.open_for(index, 'max_inner_product')
    words, factors = code_lib.encode(saved.code, index.read(0, 150))
    values = np.asarray(code_lib.decode(words, saved.code.planes)).T[:150]
    for start, stop in ((0, 150), (0, 32), (31, 97), (64, 128), (1, 150), (149, 150), (100, 200), (63, 65)):
        found, scaled = saved.rows(start, stop)
        last = min(stop, 150)
        np.testing.assert_array_equal(scaled[:last - start], factors[start:last])
        assert not scaled[last - start:].any() and len(found) == -(-(stop - start) // 32)
        np.testing.assert_array_equal(np.asarray(code_lib.decode(found, saved.code.planes)).T[:last - start], values[start:last])


def check_devices(folder, devices: int) -> None:
    """Compares the arrays on this many devices, and search results from them, with numpy."""
    index, store = made(folder / 'index', 150)
    index.delete(['doc3', 'doc90'], store)
    saved = codes_files.open_for(index, 'max_inner_product')
    mesh = partitioning.make_mesh((1, devices, 1), jax.devices()[:devices])
    rows = -(-150 // devices) * devices
    arrays = saved.device_arrays(mesh, rows, index.deleted)
    groups, local = codes_lib.device_groups(rows, mesh), rows // devices
    assert arrays.words.shape == (groups * devices, 64) and arrays.factors.shape == (16, 2 * groups * devices) and arrays.rows == rows
    factors = np.asarray(arrays.factors).T.reshape(devices, -1)
    expected = np.pad(np.where(index.deleted, 0, saved.rows(0, 150)[1]), (0, rows - 150)).reshape(devices, local)
    np.testing.assert_array_equal(factors[:, :local], expected)
    assert not factors[:, local:].any()
    queries = index.embeddings(np.array([3, 7, 149]))
    found = codes_lib.search(arrays, index.device_arrays(mesh, rows), queries, 5, mesh, candidates=150)
    scores = np.where(index.deleted, -np.inf, queries @ index.read(0, 150).T)
    np.testing.assert_array_equal(found.passage_ids, np.argsort(-scores, axis=1, kind='stable')[:, :5])


def test_a_device_holds_all_rows_but_those_deleted(tmp_path):
    check_devices(tmp_path, 1)


def _grown(index, store):
    given.grow(index, store, 5)


def _compacted(index, store):
    index.delete(['doc3'], store)
    index.compact(store)


def _of_another_model(index, store):
    description = codes_files.read(index.path)
    codes_files.write(index.path, dataclasses.replace(description, model_fingerprint='another'))


@pytest.mark.parametrize('change, metric, message', [
    (_grown, 'max_inner_product', r'older than the index \(70 of 75 passages have codes\); add the others with `atlas-jax index compress'),
    (_compacted, 'max_inner_product', 'made of other embeddings than the index has now; make them again'),
    (_of_another_model, 'max_inner_product', r'of another model \(codes another, index [0-9a-f]{16}\); make them again'),
    (lambda index, store: None, 'cosine', 'made for the metric max_inner_product, SearchConfig.metric is cosine')])
def test_codes_that_do_not_fit_the_index_are_one_line(tmp_path, change, metric, message):
    index, store = made(tmp_path / 'index', 70)
    change(index, store)
    with pytest.raises(errors.IndexFolderError, match=message) as caught:
        codes_files.open_for(index, metric)
    assert '\n' not in str(caught.value)


def test_an_index_without_codes_says_how_to_make_them(tmp_path):
    index, _ = given.build(tmp_path / 'index', 3)
    with pytest.raises(errors.ConfigError, match='has no codes; make them with `atlas-jax index compress'):
        codes_files.open_for(index, 'max_inner_product')
    assert codes_files.problems(index.path) == []


def test_damage_is_found_with_its_rows(tmp_path):
    index, _ = made(tmp_path / 'index', 150)
    assert codes_files.problems(index.path) == [] == verification.verify(index.path)
    folder, description = tmp_path / 'index' / 'codes', codes_files.read(index.path)
    part = folder / description.parts[1].name
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert codes_files.problems(index.path) == [Damage(str(part), 'damaged (contents differ from those written)', 64, 128)]
    saved = codes_files.open_for(index, 'max_inner_product')
    with pytest.raises(errors.IndexFolderError, match='contents differ'):
        saved.rows(0, 150)
    assert saved.rows(0, 64)[0].shape == (2, 64)
    part.write_bytes(content[:-1])
    with pytest.raises(errors.IndexFolderError, match=f'{len(content) - 1} bytes long instead of {len(content)}'):
        saved.rows(64, 65)
    part.unlink()
    with pytest.raises(errors.IndexFolderError, match='No such file'):
        saved.rows(64, 65)
    (folder / description.code_file).write_bytes(b'nothing')
    with pytest.raises(errors.IndexFolderError, match=r'npz: damaged \(contents differ'):
        codes_files.open_for(index, 'max_inner_product')
    assert [problem.what for problem in codes_files.problems(index.path)] == ['damaged (contents differ from those written)']


@pytest.mark.parametrize('change, message', [
    ({'rows': 151}, 'its parts do not cover its rows'), ({'planes': [3, 61]}, r'planes \[3, 61\]'), ({'planes': [17] * 2}, 'planes'),
    ({'metric': 'distance'}, 'a metric'), ({'recall_at_20': 'all'}, 'a share'), ({'revision': True}, 'a whole number')])
def test_a_manifest_that_somebody_made_is_refused(tmp_path, change, message):
    index, _ = made(tmp_path / 'index', 70)
    path = tmp_path / 'index' / 'codes' / 'manifest.json'
    body = json.loads(path.read_text()) | change
    del body['manifest_sha256']
    path.write_text(json.dumps(body | {'manifest_sha256': checksum.json_sha256(body)}))
    with pytest.raises(errors.IndexFolderError, match=message):
        codes_files.read(index.path)


def test_a_code_of_other_shapes_is_refused(tmp_path):
    index, _ = made(tmp_path / 'index', 70)
    description = codes_files.read(index.path)
    folder = Folder(tmp_path / 'index' / 'codes')
    code = codes_files.SavedCodes(index.path, description).code
    sha256 = codes_files.write_code(folder, dataclasses.replace(code, mean=code.mean[:3]), 1)
    with pytest.raises(errors.IndexFolderError, match=re.escape('not the arrays of a code of 16 numbers')):
        codes_files.SavedCodes(index.path, dataclasses.replace(description, code_sha256=sha256))
