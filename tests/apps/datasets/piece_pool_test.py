"""Pieces in processes: the same rows for any number of processes; errors and limits end all of them."""

import functools

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import piece_pool
from atlas_jax.apps.datasets.source import OutputRow, Piece


def _rows(file, wanted):
    for number in range(wanted):
        yield OutputRow('passages', {'id': f'{file.name}{number}'})
    if not wanted:
        yield errors.InputFileError(file, 'empty')


def _pieces(tmp_path, *counts):
    found = []
    for number, count in enumerate(counts):
        (tmp_path / f'{number}').write_text('x')
        found.append(Piece(f'{number}', (tmp_path / f'{number}',), functools.partial(_rows, tmp_path / f'{number}', count)))
    return found


@pytest.mark.parametrize('workers', [1, 2])
def test_records_come_in_order_up_to_the_limit(tmp_path, workers):
    pieces = _pieces(tmp_path, 3, 4, 5)
    job = piece_pool.PieceJob(tmp_path / 'out', True, 0)
    for limit, rows in ((None, [3, 4, 5]), (5, [3, 2]), (7, [3, 4])):
        records = piece_pool.convert_all(pieces, job, limit, workers, show_progress=False)
        assert [record.rows for record in records] == rows
        assert len(list(job.folder.glob('passages-*.jsonl'))) == len(rows)


@pytest.mark.parametrize('workers', [1, 2])
def test_bad_parts_end_it_once_too_many(tmp_path, workers):
    pieces = _pieces(tmp_path, 0, 2, 0)
    with pytest.raises(errors.InputFileError, match='2: empty; more than the 1 that --skip_bad allows'):
        piece_pool.convert_all(pieces, piece_pool.PieceJob(tmp_path / 'out', True, 1), None, workers, show_progress=False)
    records = piece_pool.convert_all(pieces, piece_pool.PieceJob(tmp_path / 'out', True, 2), None, workers, show_progress=False)
    assert [len(record.bad) for record in records] == [1, 0, 1]


def test_bytes_that_were_read_move_the_bar(tmp_path, monkeypatch):
    read = iter(range(0, 99, 7))
    monkeypatch.setattr(piece_pool.compressed, 'bytes_read', lambda: next(read))
    moved = []
    [piece] = _pieces(tmp_path, 3)
    assert len(list(piece_pool._counted(piece, moved.append))) == 3 and moved == [7, 7, 7]


def test_a_piece_that_reads_nothing_can_be_stopped(tmp_path):
    def stop(count):
        raise piece_pool.Stopped

    [piece] = _pieces(tmp_path, 3)
    with pytest.raises(piece_pool.Stopped):
        list(piece_pool._counted(piece, stop))
