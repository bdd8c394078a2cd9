"""Leftovers of killed writers: no damage, found by their names, and removed by the next writer; foreign files stay."""

import json

import pytest

from atlas_jax.index import building, index_manifest, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io.folder import Folder
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages

STORE = FakeStore(passages(13))
OF_OURS = ['.manifest.json.tmp000000000001', '.tombstones-000003.bits.tmp9517', 'shards/000000000000-build000009',
           'shards/000000000000-compact000002', 'store-r000009', 'tombstones-000009.bits']
NOT_OURS = ['.hidden', 'notes.txt', 'bm25', 'shards/mine', 'tombstones-x.bits', 'store-renamed']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An index with a deleted row, leftovers in it, and other things."""
    monkeypatch.setattr(building, 'SHARD_ROWS', 8)
    EmbeddingIndex.build(STORE, FakeEmbedder(), tmp_path / 'index', progress=False).delete(['doc4'], STORE)
    for name in OF_OURS + NOT_OURS:
        place = tmp_path / 'index' / name
        if 'bits' in name or 'tmp' in name or name.endswith('.txt'):
            place.write_text('x')
        else:
            place.mkdir()
            (place / 'file').write_text('x')
    return Folder(tmp_path / 'index')


def test_they_are_found_and_are_no_damage(folder):
    current = index_manifest.read(folder)
    assert index_manifest.leftovers(folder, current) == sorted(OF_OURS)
    [problem] = verification.verify(folder.path)
    assert 'shards/mine' in problem.path and 'does not belong' in problem.what


@pytest.mark.parametrize('change', [
    lambda index: index.delete(['doc2'], STORE), lambda index: index.delete(['doc4'], STORE), lambda index: index.compact(STORE),
    lambda index: index.add(STORE, FakeEmbedder(), progress=False),
    lambda index: EmbeddingIndex.build(STORE, FakeEmbedder(), index.path, progress=False)])
def test_every_command_that_writes_removes_them(folder, change):
    change(EmbeddingIndex.open(folder.path))
    assert index_manifest.leftovers(folder, index_manifest.read(folder)) == []
    left = folder.children() | {f'shards/{name}' for name in (folder / 'shards').children()}
    assert set(NOT_OURS) - {'shards/mine'} <= left and not set(OF_OURS) & left
    assert verification.verify(folder.path) == [] or 'shards/mine' in left


def test_an_unfinished_build_is_no_trace_until_it_is_committed(folder):
    job = index_manifest.Job(FakeEmbedder().fingerprint, STORE.fingerprint, 'float32', 7, 0, 13, 8, 4096, 0, 9)
    folder.write_json(index_manifest.BUILDING_FILE, {name: getattr(job, name) for name in index_manifest.Job.__dataclass_fields__})
    rest = sorted(set(OF_OURS) - {'shards/000000000000-build000009', OF_OURS[0]})  # writing has removed the first already
    assert index_manifest.unfinished_job(folder) == job and index_manifest.leftovers(folder, index_manifest.read(folder)) == rest
    index_manifest.remove_leftovers(folder, index_manifest.read(folder))
    assert index_manifest.leftovers(folder, index_manifest.read(folder)) == [] and folder.exists('shards/000000000000-build000009/file')
    body = json.loads(folder.read(index_manifest.BUILDING_FILE))
    folder.write_json(index_manifest.BUILDING_FILE, {**body, 'revision': 1})  # that of the shards that the manifest names
    current = index_manifest.read(folder)
    assert index_manifest.leftovers(folder, current) == [index_manifest.BUILDING_FILE, 'shards/000000000000-build000009']


@pytest.mark.parametrize('content', ['', '{', '[]', '{"revision": 9}', '[' * 9999])
def test_a_record_of_a_build_that_cannot_be_read_is_a_trace(folder, content):
    folder.write(index_manifest.BUILDING_FILE, content.encode())
    assert index_manifest.unfinished_job(folder) is None
    assert index_manifest.BUILDING_FILE in index_manifest.leftovers(folder, index_manifest.read(folder))
