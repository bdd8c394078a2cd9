"""Files of one piece: written with a record, and reused only while its inputs and files are unchanged."""

import dataclasses
import functools
import json
import os

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import piece_files, piece_pool
from atlas_jax.apps.datasets.source import OutputRow, Piece


def _read(file):
    yield errors.InputFileError(file, 'bad', line=1)
    for number in range(300):
        yield OutputRow('passages', {'id': f'é{number}'})


@pytest.fixture
def piece(tmp_path):
    """A piece of 300 passages and a bad line."""
    (tmp_path / 'in').write_text('x')
    return Piece('0', (tmp_path / 'in',), functools.partial(_read, tmp_path / 'in'))


def _convert(piece, folder, limit=None, max_bad=1):
    return piece_files.convert(piece, folder, 0, True, limit, max_bad)


def test_a_finished_piece_is_known_again(piece, tmp_path):
    record = _convert(piece, tmp_path)
    assert (record.rows, record.limit, [parts['line'] for parts in record.bad]) == (300, None, [1])
    assert piece_files.finished(piece, tmp_path, 0, True, None) == record
    # Limits beyond the end of the input are equivalent.
    assert piece_files.finished(piece, tmp_path, 0, True, 301) == record and piece_files.finished(piece, tmp_path, 0, True, 300) is None
    assert piece_files.finished(Piece('1', piece.files, piece.read), tmp_path, 0, True, None) is None
    assert piece_files.ids_file(tmp_path, 0).stat().st_size == 8 * 300


@pytest.mark.parametrize('damage', [
    lambda folder: os.utime(folder / 'in', (7, 7)), lambda folder: (folder / 'in').write_text('xy'),
    lambda folder: (folder / 'passages-00000.jsonl').unlink(), lambda folder: (folder / 'pieces/00000.ids').write_bytes(b'x' * 8),
    lambda folder: (folder / 'passages-00000.jsonl').write_bytes((folder / 'passages-00000.jsonl').read_bytes().replace(b'7', b'8')),
    lambda folder: (folder / 'pieces/00000.json').write_text('{"key": "0"}'),
    lambda folder: (folder / 'pieces/00000.json').write_text('[]'),
    lambda folder: (folder / 'pieces/00000.json').write_text(json.dumps(
        json.loads((folder / 'pieces/00000.json').read_text()) | {'outputs': {'../../in': [1, 1, 'x']}}))])
def test_a_changed_one_is_not(piece, tmp_path, damage):
    _convert(piece, tmp_path)
    damage(tmp_path)
    assert piece_files.finished(piece, tmp_path, 0, True, None) is None


def test_reading_stops_at_the_limit_and_too_much_bad_leaves_no_record(piece, tmp_path):
    assert _convert(piece, tmp_path, limit=7).rows == 7
    assert len((tmp_path / 'passages-00000.jsonl').read_text().splitlines()) == 7
    assert _convert(piece, tmp_path, limit=0).rows == 0
    (tmp_path / 'other').mkdir()
    assert len(_convert(piece, tmp_path / 'other', max_bad=0).bad) == 1
    assert piece_files.finished(piece, tmp_path / 'other', 0, True, None) is None


def test_a_stopped_one_leaves_nothing(piece, tmp_path):
    def stopped():
        yield from piece.read()
        raise piece_pool.Stopped

    with pytest.raises(piece_pool.Stopped):
        _convert(dataclasses.replace(piece, read=stopped), tmp_path / 'out')
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
