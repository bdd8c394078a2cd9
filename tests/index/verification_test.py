"""What happened to an index on disk is noticed, named with the rows it hits, and never read as zeros."""

import json
import shutil

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.index import building, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import checksum
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An index of 29 rows in shards of 11 and chunks of 3, one row deleted."""
    monkeypatch.setattr(building, 'SHARD_ROWS', 11)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)
    store = FakeStore(passages(29))
    EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', progress=False).delete(['doc4'], store)
    return tmp_path / 'index'


def chunk(folder, shard, number):
    return sorted((folder / 'shards').iterdir())[shard] / 'c' / str(number) / '0'


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def refuses_to_read(index, rows):
    with pytest.raises(errors.IndexFolderError):
        index.embeddings(np.array(rows))
    with pytest.raises(errors.IndexFolderError):
        index.device_arrays(partitioning.make_mesh(devices=jax.devices()[:1]))


def test_flipped_bit(folder):
    flip(chunk(folder, 1, 2), 20)
    index = EmbeddingIndex.open(folder)
    refuses_to_read(index, [18])
    assert index.embeddings(np.array([16, 20])).shape == (2, 7)
    [problem] = verification.verify(folder)
    assert (problem.first_row, problem.stop_row) == (17, 20) and 'rows 17 to 19' in str(problem)


@pytest.mark.parametrize('harm', ['missing', 'cut'])
def test_missing_or_cut_chunk(folder, harm):
    before = EmbeddingIndex.open(folder)
    path = chunk(folder, 2, 2)  # the last: row 28 alone
    if harm == 'missing':
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    refuses_to_read(before, [28])
    assert before.embeddings(np.array([27])).shape == (1, 7)
    [problem] = verification.verify(folder)
    assert (problem.first_row, problem.stop_row) == (28, 29)
    with pytest.raises(errors.IndexFolderError, match='rows 28 to 28'):
        EmbeddingIndex.open(folder)


def test_missing_shard(folder):
    shutil.rmtree(sorted((folder / 'shards').iterdir())[1])
    with pytest.raises(errors.IndexFolderError, match='shard.json'):
        EmbeddingIndex.open(folder)


def test_shard_of_another_index(folder, tmp_path):
    EmbeddingIndex.build(FakeStore(passages(29)), FakeEmbedder(seed=1), tmp_path / 'other', progress=False)
    ours = sorted((folder / 'shards').iterdir())[1]
    shutil.rmtree(ours)
    shutil.copytree(sorted((tmp_path / 'other' / 'shards').iterdir())[1], ours)
    with pytest.raises(errors.IndexFolderError, match='not the shard'):
        EmbeddingIndex.open(folder)


def test_chunk_of_another_shard(folder):
    shutil.copy(chunk(folder, 0, 1), chunk(folder, 1, 1))
    [problem] = verification.verify(folder)
    assert (problem.first_row, problem.stop_row) == (14, 17)


def test_file_that_does_not_belong(folder):
    chunk(folder, 0, 1).with_name('1').write_text('x')
    [problem] = verification.verify(folder)
    assert 'does not belong' in str(problem)


def test_damaged_zarr_header(folder):
    path = sorted((folder / 'shards').iterdir())[0] / 'zarr.json'
    path.write_text(path.read_text().replace('"little"', '"bigger"'))
    index = EmbeddingIndex.open(folder)
    refuses_to_read(index, [0])
    assert [(problem.first_row, problem.stop_row) for problem in verification.verify(folder)] == [(0, 11)]


@pytest.mark.parametrize('change', ['rows', 'json', 'version', 'format', 'empty'])
def test_damaged_manifest(folder, change):
    path = folder / 'manifest.json'
    body = json.loads(path.read_text())
    if change == 'rows':
        body['rows'] = 28
    elif change == 'version':
        body['version'] = 99
    elif change == 'format':
        body = [1, 2]
    path.write_text({'json': path.read_text()[:-40], 'empty': ''}.get(change, json.dumps(body)))
    with pytest.raises(errors.IndexFolderError, match='manifest.json|index format 99'):
        EmbeddingIndex.open(folder)
    assert len(EmbeddingIndex.build(FakeStore(passages(5)), FakeEmbedder(), folder, progress=False)) == 5


@pytest.mark.parametrize('harm', ['missing', 'flipped', 'cut'])
def test_damaged_tombstones(folder, harm):
    [path] = folder.glob('tombstones-*.bits')
    if harm == 'missing':
        path.unlink()
    elif harm == 'flipped':
        flip(path, 1)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.IndexFolderError, match='deleted rows'):
        EmbeddingIndex.open(folder)


def test_everything_is_found_at_once_though_nothing_can_be_opened(folder):
    shutil.rmtree(sorted((folder / 'shards').iterdir())[0])
    flip(chunk(folder, 0, 1), 20)
    chunk(folder, 1, 0).unlink()
    (folder / 'shards' / 'stranger').mkdir()
    (folder / 'shards' / 'stranger' / 'x').write_text('x')
    next(folder.glob('tombstones-*.bits')).unlink()
    with pytest.raises(errors.IndexFolderError):
        EmbeddingIndex.open(folder)
    found = [verification.with_docids(problem, lambda row: f'doc{row}') for problem in verification.verify(folder)]
    assert [(problem.first_row, problem.stop_row) for problem in found] == [(0, 11), (14, 17), (22, 25), (0, 0), (0, 29)]
    assert str(found[1]).endswith('(rows 14 to 16: doc14, doc15, doc16)') and str(found[0]).endswith('(rows 0 to 10: doc0, doc1, doc2, …)')
    assert 'missing' in str(found[0]) and 'does not belong' in str(found[3]) and 'list of deleted rows' in str(found[4])


def test_another_store_or_model_is_found(folder):
    store = FakeStore(passages(29))
    assert verification.mismatches(folder, store, FakeEmbedder()) == []
    other = FakeStore(passages(29, seed=5))
    found = verification.mismatches(folder, other, FakeEmbedder(seed=1))
    assert [(problem.first_row, problem.stop_row) for problem in found] == [(0, 29), (0, 11), (11, 22), (22, 29)]


def test_an_index_of_the_first_version_is_read(folder):
    path = folder / 'manifest.json'
    body = json.loads(path.read_text())
    store, body['version'], body['generation'] = body.pop('store'), 1, body.pop('revision')
    for entry in body['shards']:
        del entry['offset'], entry['generation'], entry['model_fingerprint']
    del body['manifest_sha256'], body['models']
    body['rows_fingerprint'] = 'x'
    path.write_text(json.dumps({**body, 'manifest_sha256': checksum.json_sha256(body)}))
    (folder / 'store.json').write_text(json.dumps({'store': store}))
    index = EmbeddingIndex.open(folder)
    index.check(FakeStore(passages(29)), FakeEmbedder())
    assert index.store_path.name == 'fake-store' and verification.verify(folder) == []
