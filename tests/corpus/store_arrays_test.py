"""Flat arrays: appended in pieces of any size, read by ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.corpus import store_arrays
from atlas_jax.io import arrays
from atlas_jax.io.folder import Folder


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 23), max_size=7), st.integers(1, 13))
def test_pieces_come_back_in_their_order(tmp_path_factory, sizes, chunk_values):
    folder, pieces, first = Folder(tmp_path_factory.mktemp('arrays') / 'a'), [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_arrays, 'CHUNK_VALUES', chunk_values)
        writer = store_arrays.ArrayWriter(folder, np.int32)
        for size in sizes:
            pieces.append(np.arange(first, first + size))
            writer.append(pieces[-1])
            first += size
        assert writer.finish() == first
    reader = store_arrays.ArrayReader(folder)
    assert len(reader) == first and reader.read().tolist() == list(range(first)) and reader.dtype == np.int32
    assert reader.read(first // 3, first // 2).tolist() == list(range(first // 3, first // 2))
    starts = np.arange(0, first, 3)
    for _ in range(2):  # whole chunks are read at first, and ranges of them later
        found = reader.ranges(starts, np.minimum(starts + 2, first))
        assert found.tolist() == [number for number in range(first) if number % 3 < 2] and found.dtype == np.int32


def test_a_small_array_is_one_small_chunk(tmp_path):
    store_arrays.write(Folder(tmp_path / 'a'), np.arange(7, dtype=np.uint16))
    reader = store_arrays.ArrayReader(Folder(tmp_path / 'a'))
    assert reader.chunk_values == 7 and reader.dtype == np.uint16
    assert [path.name for path in (tmp_path / 'a' / 'c').iterdir()] == ['0']


def test_nothing_is_an_array_too(tmp_path):
    store_arrays.write(Folder(tmp_path / 'a'), np.zeros(0, np.uint64))
    reader = store_arrays.ArrayReader(Folder(tmp_path / 'a'))
    assert len(reader) == 0 and reader.read().shape == (0,) and reader.read().dtype == np.uint64


def test_missing_damaged_and_foreign_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(store_arrays, 'CHUNK_VALUES', 3)
    store_arrays.write(Folder(tmp_path / 'a'), np.arange(8, dtype=np.int32))
    (tmp_path / 'a' / 'c' / '1').unlink()
    reader = store_arrays.ArrayReader(Folder(tmp_path / 'a'))
    assert reader.read(0, 3).tolist() == [0, 1, 2]
    with pytest.raises(errors.StoreError, match='a: damaged .*; restore it or build the store again') as caught:
        reader.read()
    assert '\n' not in str(caught.value)
    with pytest.raises(errors.StoreError, match='none: damaged'):
        store_arrays.ArrayReader(Folder(tmp_path / 'none'))
    arrays.create(Folder(tmp_path / 'b'), [2, 3], np.int32, [2, 3])
    with pytest.raises(errors.StoreError, match='b: damaged .not a flat array'):
        store_arrays.ArrayReader(Folder(tmp_path / 'b'))
