"""A damaged file of a store is named with the passages it hits."""

import pytest

from atlas_jax.corpus import store_arrays, store_text
from atlas_jax.corpus.store import PassageStore
from tests.corpus.store_test import PASSAGES, READER, build, ids, passage


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Two segments, of 17 and 2 passages, in small pieces."""
    monkeypatch.setattr(store_arrays, 'CHUNK_VALUES', 5)
    monkeypatch.setattr(store_text, 'BATCH_ROWS', 4)
    build(tmp_path / 's').append([passage(40, 2), passage(41, 3)], progress=False)
    assert PassageStore.problems(tmp_path / 's') == []
    return tmp_path / 's'


def rows_hit(path, name, place=None):
    """The rows that are named when one byte of a file is flipped, or the file is removed where no place is given."""
    content = (path / name).read_bytes()
    if place is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    [problem] = PassageStore.problems(path)
    (path / name).write_bytes(content)
    assert problem.path == str(path / name)
    return problem.first_row, problem.stop_row


def test_text(path):
    bounds = store_arrays.ArrayReader(store_arrays.Folder(path / 'segment-00000' / 'block_bounds')).read()
    assert rows_hit(path, 'segment-00000/passages.arrow', bounds[2] + 9) == (8, 12)
    assert rows_hit(path, 'segment-00000/passages.arrow', bounds[4] + 9) == (16, 17)
    assert rows_hit(path, 'segment-00000/passages.arrow', -9) == (0, 17)
    assert rows_hit(path, 'segment-00000/passages.arrow') == (0, 17)
    assert rows_hit(path, 'segment-00001/passages.arrow', bounds[0] + 9) == (17, 19)


def test_token_ids(path):
    owners = [row for row, each in enumerate(PASSAGES) for _ in ids(READER, each)]
    for chunk in range(len(owners) // 5):
        first, stop = rows_hit(path, f'segment-00000/tokens/reader/ids/c/{chunk}', 3)
        assert list(range(first, stop)) == sorted(set(owners[chunk * 5:chunk * 5 + 5])), chunk
    assert rows_hit(path, 'segment-00000/tokens/reader/ids/c/2') == (owners[10], owners[14] + 1)


@pytest.mark.parametrize('name, rows', [('docids/c/1', (5, 10)), ('tokens/retriever/lengths/c/3', (15, 17)),
                                        ('tokens/retriever/title_lengths/c/0', (0, 5)), ('block_bounds/c/0', (0, 17)),
                                        ('tokens/reader/ids/zarr.json', (0, 17))])
def test_the_rest(path, name, rows):
    assert rows_hit(path, f'segment-00000/{name}', 3) == rows
