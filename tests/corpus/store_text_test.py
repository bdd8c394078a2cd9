"""The text of a segment: rows across batches, docids by their hashes, damage where it is."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus import store_text
from atlas_jax.corpus.passages import Passage
from atlas_jax.io.folder import Folder

PASSAGES = [Passage(f'd{i}', f'T{i}', 'S' * (i % 2), f'text {i}') for i in range(11)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(store_text, 'BATCH_ROWS', 4)
    return Folder(tmp_path)


def written(folder: Folder, passages=PASSAGES) -> store_text.TextReader:
    return store_text.TextReader(folder, store_text.write(folder, iter(passages), folder))


def test_rows_across_batches(folder):
    reader = written(folder)
    assert reader.rows == 11 and [reader.passage(row) for row in range(11)] == PASSAGES
    assert [reader.docid(row) for row in (10, 0, 4)] == ['d10', 'd0', 'd4']
    assert reader.hashes().shape == (11,) and len(set(reader.hashes().tolist())) == 11


@pytest.mark.parametrize('size', [1, 3, 4, 5, 8])
def test_any_number_of_passages(folder, size):
    assert [written(folder, PASSAGES[:size]).passage(row) for row in range(size)] == PASSAGES[:size]


def test_only_the_damaged_batch_is_lost(folder):
    reader = written(folder)
    first, stop = (store_text.store_arrays.ArrayReader(folder / 'block_bounds').read()[[1, 2]]).tolist()
    content = bytearray(folder.read(store_text.FILE))
    content[(first + stop) // 2] ^= 1
    folder.write(store_text.FILE, bytes(content))
    reader = store_text.TextReader(folder, 11)
    assert reader.passage(3) == PASSAGES[3] and reader.passage(8) == PASSAGES[8]
    with pytest.raises(errors.StoreError, match=f'bytes {first} to {stop - 1} differ from those written'):
        reader.passage(4)


def test_parts_that_do_not_fit_together(folder):
    written(folder)
    with pytest.raises(errors.StoreError, match='its parts do not fit together'):
        store_text.TextReader(folder, 12)
    (folder.local / store_text.FILE).unlink()
    with pytest.raises(errors.StoreError, match='passages.arrow: damaged .No such file'):
        store_text.TextReader(folder, 11)


class Segment:
    """Hashes as a segment has them."""

    def __init__(self, docids, collide=()):
        self._hashes = [store_text._hash('the same' if docid in collide else docid) for docid in docids]

    def hashes(self) -> np.ndarray:
        return np.array(self._hashes, np.uint64)


def table(*segments, collide=()) -> store_text.DocidTable:
    docids = [docid for segment in segments for docid in segment]
    return store_text.DocidTable([Segment(segment, collide) for segment in segments], docids.__getitem__)


def test_the_last_row_of_a_docid_counts():
    found = table(['a', 'b', 'c'], ['b', 'd'], ['b'])
    assert [found.last_row(docid) for docid in 'abcde'] == [0, 5, 2, 4, None]
    assert found.superseded().tolist() == [False, True, False, True, False, False]
    assert table(['a']).superseded().tolist() == [False] and found.last_row('\ud800') is None


def test_docids_of_the_same_hash_are_told_apart(monkeypatch):
    whole = store_text._hash
    found = table(['a', 'b', 'a'], collide=('a', 'b'))
    monkeypatch.setattr(store_text, '_hash', lambda docid: whole('the same'))
    assert (found.last_row('a'), found.last_row('b'), found.last_row('c')) == (2, 1, None)
    assert found.superseded().tolist() == [True, False, False]
