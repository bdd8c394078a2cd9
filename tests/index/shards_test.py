"""Embeddings in the types they are stored in, and the shards that hold them."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.index import index_manifest, shards
from atlas_jax.io.folder import Folder


def test_int8_is_within_half_a_step():
    sizes = np.geomspace(1e-6, 1e6, 23, dtype=np.float32)[:, None]
    embeddings = np.random.default_rng(0).standard_normal((23, 17)).astype(np.float32) * sizes
    embeddings[5] = 0
    values, scales = shards.encode(embeddings, 'int8')
    assert values.dtype == np.int8 and scales.dtype == np.float32 and scales[5] == 0
    np.testing.assert_allclose(scales, np.abs(embeddings).max(axis=1) / 127, rtol=1e-6)
    assert np.abs(np.delete(values, 5, axis=0)).max(axis=1).tolist() == [127] * 22
    assert (np.abs(shards.decode(values, scales) - embeddings) <= 0.5001 * scales[:, None]).all()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_floats_are_rounded_to_their_type(dtype):
    embeddings = np.random.default_rng(0).standard_normal((5, 17)).astype(np.float32)
    values, scales = shards.encode(embeddings, dtype)
    assert scales is None and values.dtype == shards.DTYPES[dtype]
    expected = embeddings if dtype == 'float32' else embeddings.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(shards.decode(values, scales), expected)


@pytest.mark.parametrize('dtype', list(shards.DTYPES))
def test_no_rows(dtype):
    values, scales = shards.encode(np.zeros((0, 7), np.float32), dtype)
    assert shards.decode(values, scales).shape == (0, 7)


@pytest.fixture
def written(tmp_path):
    """Two shards of 5 and 4 rows in int8, the second used from its row 1 on: 8 rows; the folder, the manifest and the embeddings."""
    folder, embeddings = Folder(tmp_path), np.random.default_rng(0).integers(-9, 10, (8, 3)).astype(np.float32)
    parts = {'first': embeddings[:5], 'second': np.concatenate([np.ones((1, 3), np.float32), embeddings[5:]])}
    entries = []
    for name, part in parts.items():
        writer = shards.ShardWriter(folder / index_manifest.SHARDS, name, shards.ShardLayout(len(part), 3, 'int8', 2))
        while (start := writer.next_row) < len(part):
            writer.write(*shards.encode(part[start:start + 2], 'int8'))
        entries.append(shards.entry_of(folder, name, 0 if name == 'first' else 5, len(part), 0, 'model'))
    entries[1] = dataclasses.replace(entries[1], rows=3, offset=1)
    return folder, index_manifest.Manifest(1, 'int8', 3, 8, 0, 'model', 'store', 'passages', shards=tuple(entries)), embeddings


def test_rows_are_read_from_their_shards(written):
    folder, manifest, embeddings = written
    stored = shards.StoredEmbeddings(folder, manifest)
    expected = shards.decode(*shards.encode(embeddings, 'int8'))
    rows = np.array([7, 0, 5, 4, 4])
    np.testing.assert_array_equal(shards.decode(*stored.take(rows)), expected[rows])
    np.testing.assert_array_equal(shards.decode(*stored.read(3, 11)), np.concatenate([expected[3:], np.zeros((3, 3))]))
    assert stored.dtype == np.int8 and shards.decode(*stored.take(np.zeros(0, np.int64))).shape == (0, 3)
    # The file of rows 0 and 1 of the second shard holds index row 5 alone: row 0 is not used.
    assert [part for part in stored.shards[1].used_files() if part[0].startswith('c/')] == [('c/0/0', 5, 6), ('c/1/0', 6, 8)]


def test_a_writer_continues_behind_the_first_damaged_chunk(written):
    folder, _, embeddings = written
    place, layout = folder / index_manifest.SHARDS, shards.ShardLayout(5, 3, 'int8', 2)
    assert shards.ShardWriter(place, 'first', layout).next_row == 5
    (place / 'first').write('c/1/0', b'damaged')
    writer = shards.ShardWriter(place, 'first', layout)
    assert writer.next_row == 2
    writer.write(*shards.encode(embeddings[2:4], 'int8'))
    assert writer.next_row == 4
    assert shards.ShardWriter(place, 'first', dataclasses.replace(layout, chunk_rows=3)).next_row == 0  # another layout


def test_a_file_that_is_cut_is_named_with_its_rows(written):
    folder, manifest, _ = written
    (folder / index_manifest.SHARDS / 'second').write('scales/c/1', b'cut')
    with pytest.raises(errors.IndexFolderError, match=r'second/scales/c/1: 3 bytes long instead of \d+ \(rows 6 to 7\); restore it'):
        shards.StoredEmbeddings(folder, manifest)
    with pytest.raises(errors.IndexFolderError, match='not the shard that this index was built with'):
        shards.Shard(folder, dataclasses.replace(manifest.shards[0], sha256='another'))
    with pytest.raises(errors.IndexFolderError, match='missing/shard.json'):
        shards.Shard(folder, dataclasses.replace(manifest.shards[0], name='missing'))
