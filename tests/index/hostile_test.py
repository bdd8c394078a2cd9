"""Indexes from strangers: manifests, lists of files and records of builds whose checksums are right and whose content is not."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.index import building, index_manifest, shards, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import checksum
from atlas_jax.io.folder import Folder
from tests.testing import hostile
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages

STORE = FakeStore(passages(13))
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An int8 index of two shards with a deleted row."""
    monkeypatch.setattr(building, 'SHARD_ROWS', 8)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)
    EmbeddingIndex.build(STORE, FakeEmbedder(), tmp_path / 'index', dtype='int8', progress=False).delete(['doc4'], STORE)
    return tmp_path / 'index'


def body_of(folder):
    return json.loads((folder / 'manifest.json').read_text())


def sign(folder, body):
    body = {name: value for name, value in body.items() if name != 'manifest_sha256'}
    (folder / 'manifest.json').write_text(json.dumps({**body, 'manifest_sha256': checksum.json_sha256(body)}))


def use(folder):
    """Does all that reads an index; raises what it raises unless it is one line of a user's error that names the folder."""
    try:
        index = EmbeddingIndex.open(folder)
        index.info(), index.rows_digest, index.rows_of_model(FakeEmbedder(seed=3), STORE), index.embeddings(np.arange(len(index)))
        assert len(index) < 100, 'rows that no file holds'
    except errors.UserError as error:
        assert '\n' not in str(error) and str(folder) in str(error) and len(str(error)) < 700
    try:
        verification.verify(folder), index_manifest.leftovers(Folder(folder), index_manifest.read(Folder(folder)))
    except errors.UserError as error:
        assert '\n' not in str(error) and str(folder) in str(error)


@MANY
@given(data=st.data())
def test_any_manifest_is_read_or_refused_in_one_line(folder, data):
    body = body_of(folder)
    sign(folder, data.draw(hostile.mutated(body)))
    use(folder)
    sign(folder, body)


@MANY
@given(data=st.data())
def test_any_list_of_a_shards_files_is_read_or_refused_in_one_line(folder, data):
    body = body_of(folder)
    name = body['shards'][0]['name']
    listed = folder / 'shards' / name / shards.FILES
    content = listed.read_bytes()
    listed.write_text(json.dumps(data.draw(hostile.mutated(json.loads(content)))))
    changed = json.loads(json.dumps(body))
    changed['shards'][0]['sha256'] = hashlib.sha256(listed.read_bytes()).hexdigest()
    sign(folder, changed)
    use(folder)
    sign(folder, body)
    listed.write_bytes(content)


@settings(MANY, max_examples=40)
@given(data=st.data())
def test_any_record_of_an_unfinished_build_is_continued_or_thrown_away(folder, data):
    record = {'model_fingerprint': FakeEmbedder().fingerprint, 'store_fingerprint': STORE.fingerprint, 'dtype': 'int8', 'dim': 7,
              'first_row': 0, 'stop_row': 13, 'shard_rows': 8, 'chunk_rows': 3, 'generation': 0, 'revision': 7}
    (folder / index_manifest.BUILDING_FILE).write_text(json.dumps(data.draw(hostile.mutated(record))))
    use(folder)
    index = EmbeddingIndex.build(STORE, FakeEmbedder(), folder, dtype='int8', progress=False)
    assert len(index.embeddings(np.arange(13))) == 13 and verification.verify(folder) == []
    assert index_manifest.leftovers(Folder(folder), index_manifest.read(Folder(folder))) == []


@pytest.mark.parametrize('name', ['../../victim', '..', '.', '', '/victim', 'a/b', 'a\n', 7, None])
def test_no_shard_leads_out_of_the_index(folder, name):
    victim = folder.parent / 'victim'
    victim.mkdir()
    (victim / 'thesis').write_text('x')
    body = body_of(folder)
    body['shards'][0]['name'] = name
    sign(folder, body)
    with pytest.raises(errors.IndexFolderError, match=r'damaged .*"shards\[0\].name"'):
        EmbeddingIndex.open(folder)
    EmbeddingIndex.build(STORE, FakeEmbedder(), folder, progress=False)
    assert (victim / 'thesis').read_text() == 'x'


@pytest.mark.parametrize(('name', 'value'), [
    ('tombstones', '../victim'), ('tombstones', 'store'), ('tombstones_sha256', '../x'), ('revision', '1'), ('dim', True), ('rows', -1),
    ('deleted', 14), ('deleted', 0), ('dtype', 'float64'), ('store', 'a\0b')])
def test_fields_are_compared_with_their_declared_range(folder, name, value):
    sign(folder, {**body_of(folder), name: value})
    with pytest.raises(errors.IndexFolderError, match='manifest.json: damaged'):
        EmbeddingIndex.open(folder)


def test_a_shard_that_is_a_link_is_not_continued(folder, tmp_path):
    with pytest.raises(RuntimeError):
        EmbeddingIndex.build(STORE, FakeEmbedder(seed=1, stop_after=3), folder, progress=False)
    [unfinished] = (path for path in (folder / 'shards').iterdir() if 'build000003' in path.name)
    (unfinished / 'c').rename(tmp_path / 'victim')
    (unfinished / 'c').symlink_to(tmp_path / 'victim')
    before = sorted((tmp_path / 'victim').rglob('*'))
    EmbeddingIndex.build(STORE, FakeEmbedder(seed=1), folder, progress=False)
    assert sorted((tmp_path / 'victim').rglob('*')) == before and verification.verify(folder) == []
