"""The manifest of an index folder: it reads back as written, and anything else is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.index import index_manifest
from atlas_jax.io.folder import Folder

SHARDS = (index_manifest.ShardEntry('a', 0, 11, 0, 0, 'model', 'a' * 64), index_manifest.ShardEntry('b', 11, 2, 5, 40, 'other', 'b' * 64))
MANIFEST = index_manifest.Manifest(3, 'int8', 7, 13, 2, 'model', '../store', 'passages', 'tombstones-000003.bits', 'c' * 64, SHARDS)


def written(tmp_path, manifest):
    folder = Folder(tmp_path / 'index')
    index_manifest.write(folder, manifest)
    return folder


def test_what_is_written_is_read(tmp_path):
    folder = Folder(tmp_path / 'index')
    assert not index_manifest.exists(folder) and index_manifest.read_if_whole(folder) is None
    written(tmp_path, MANIFEST)
    assert index_manifest.exists(tmp_path / 'index') and index_manifest.read(folder) == index_manifest.read_if_whole(folder) == MANIFEST
    assert index_manifest.store_path(folder, MANIFEST) == (tmp_path / 'store').resolve()


@pytest.mark.parametrize('changes', [{'rows': 12}, {'shards': SHARDS[1:]}, {'shards': SHARDS[::-1]},
                                     {'shards': (SHARDS[0], dataclasses.replace(SHARDS[1], first_row=12))}])
def test_shards_have_to_cover_the_rows(tmp_path, changes):
    folder = written(tmp_path, dataclasses.replace(MANIFEST, **changes))
    with pytest.raises(errors.IndexFolderError, match='manifest.json: damaged .its shards do not cover its rows'):
        index_manifest.read(folder)
    assert index_manifest.read_if_whole(folder) is None


def test_an_unfinished_build_is_told_from_no_index(tmp_path):
    folder = Folder(tmp_path / 'index')
    folder.write_json(index_manifest.BUILDING_FILE, {})
    with pytest.raises(errors.IndexFolderError, match='not finished; run the same `atlas-jax index build` again'):
        index_manifest.read(folder)


@pytest.mark.parametrize(('index', 'store', 'link', 'found'), [
    ('/data/index', '/data/store', '../store', '/data/store'),
    ('/data/index', '/data/index/store-r000002', 'store-r000002', '/data/index/store-r000002'),
    ('/data/index', 'gs://bucket/store', 'gs://bucket/store', 'gs://bucket/store'),
    ('gs://bucket/index', 'gs://bucket/store', 'gs://bucket/store', 'gs://bucket/store'),
    ('gs://bucket/index', '/data/store', '/data/store', '/data/store'),
])
def test_a_store_is_named_so_that_it_is_found(index, store, link, found):
    assert index_manifest.link_to(Folder(index), store) == link
    path = index_manifest.store_path(Folder(index), dataclasses.replace(MANIFEST, store=link))
    assert str(path) == found


@settings(max_examples=30, deadline=None)
@given(deleted=st.lists(st.booleans(), max_size=40))
def test_deleted_rows_are_read_as_they_were_written(tmp_path_factory, deleted):
    folder, deleted = Folder(tmp_path_factory.mktemp('index')), np.array(deleted, bool)
    name, sha256 = index_manifest.write_tombstones(folder, deleted, 5)
    assert (name == 'tombstones-000005.bits') == bool(deleted.any()) == bool(sha256)
    manifest = dataclasses.replace(MANIFEST, rows=len(deleted), deleted=int(deleted.sum()), tombstones=name, tombstones_sha256=sha256)
    np.testing.assert_array_equal(index_manifest.read_tombstones(folder, manifest), deleted)


def test_a_damaged_list_of_deleted_rows_is_refused(tmp_path):
    folder = Folder(tmp_path)
    name, sha256 = index_manifest.write_tombstones(folder, np.arange(13) == 4, 1)
    manifest = dataclasses.replace(MANIFEST, deleted=1, tombstones=name, tombstones_sha256=sha256)
    with pytest.raises(errors.IndexFolderError, match='list of deleted rows is damaged; restore it'):
        index_manifest.read_tombstones(folder, dataclasses.replace(manifest, rows=17))
    (tmp_path / name).unlink()
    with pytest.raises(errors.IndexFolderError, match='cannot read the list of deleted rows'):
        index_manifest.read_tombstones(folder, manifest)
