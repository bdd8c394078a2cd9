"""Files of lines in pieces: every line is in exactly one piece, and errors give its number in the whole file."""

import bz2

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets.corpora import file_lines
from atlas_jax.apps.datasets.source import OutputRow
from atlas_jax.io import jsonl
from tests.apps.datasets.corpora.passage_files_test import lines


def _row(record):
    return [OutputRow('passages', record.fields)]


def test_pieces_of_a_file_hold_each_line_once(tmp_path, monkeypatch):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(lines(*({'id': f'{number}', 'text': 'é' * (number % 7 + 1)} for number in range(40))) + b'{"id"')
    total = path.stat().st_size
    for size in (1, 7, 33, 34, total - 1, total, 10**6):
        monkeypatch.setattr(file_lines, '_PIECE_BYTES', size)
        pieces = file_lines.pieces([path], file_lines.convert_lines, required=(), passages_of=_row)
        found = [row for piece in pieces for row in piece.read()]
        assert [row.fields['id'] for row in found[:-1]] == [f'{number}' for number in range(40)]
        assert found[-1].line == 41, 'the line is counted in the whole file'
        assert len({piece.key for piece in pieces}) == len(pieces) == -(-total // size)


def test_compressed_files_are_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(file_lines, '_PIECE_BYTES', 5)
    (tmp_path / 'a').write_bytes(bz2.compress(lines({'id': '1'}, {'id': '2'})))
    [piece] = file_lines.pieces([tmp_path / 'a'], file_lines.json_lines)
    assert [record.fields['id'] for record in piece.read()] == ['1', '2']


def test_folders_stand_for_their_files(tmp_path):
    for name in ('b.jsonl', 'a.jsonl.gz', 'c.txt', '.d.jsonl'):
        (tmp_path / name).write_text('x')
    assert [file.name for file in file_lines.expand([tmp_path / 'c.txt', tmp_path], ('.jsonl',), 'x')] == ['c.txt', 'a.jsonl.gz', 'b.jsonl']
    for files, message in (([], '--from: no files; give x'), ([tmp_path / 'z'], 'z: no such file or folder; give x')):
        with pytest.raises(errors.InputFileError, match=message):
            file_lines.expand(files, ('.jsonl',), 'x')
    with pytest.raises(errors.InputFileError, match='no files in this folder that end in .tsv; give x'):
        file_lines.expand([tmp_path], ('.tsv',), 'x')


def test_long_lines_end_it_and_blank_ones_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, 'MAX_LINE', 9)
    (tmp_path / 'a').write_bytes(b'\xef\xbb\xbf12345678\n\n \r\n' + b'x' * 11)
    found = file_lines.lines(tmp_path / 'a', 0, None)
    with pytest.raises(errors.InputFileError, match='a line of more than 9 bytes'):
        list(found)
    (tmp_path / 'b').write_bytes(b'\xef\xbb\xbf1\n\n \r\n2')
    assert list(file_lines.lines(tmp_path / 'b', 0, None)) == [(1, b'1\n'), (4, b'2')]
