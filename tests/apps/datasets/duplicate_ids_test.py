"""Docids of several passages: the error names both places, and later passages may be left out."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import convert_dataset, duplicate_ids, piece_files
from atlas_jax.io import jsonl
from tests.apps.datasets.convert_dataset_test import PASSAGES


def _files(tmp_path, *lines):
    files = [tmp_path / f'f{number}' for number in range(len(lines))]
    for file, line in zip(files, lines, strict=True):
        file.write_text('\n'.join(line.split(',')) + '\n')
    return files


def test_both_places_are_named(tmp_path):
    with pytest.raises(errors.InputFileError, match=r'f1, field "id": "a2" is the id of two passages \(.*passages-00000.jsonl:2 and '
                                                    r'.*passages-00001.jsonl:1\); --skip_bad N leaves out'):
        convert_dataset.convert(PASSAGES, _files(tmp_path, 'a1,a2', 'a2,b1'), tmp_path / 'out', workers=1)
    assert not (tmp_path / 'out').exists()


def test_later_ones_are_left_out_in_all_outputs_and_counted(tmp_path):
    files = _files(tmp_path, 'a1,a2,infobox a1', 'b1,a2,b1', 'c1')
    with pytest.raises(errors.InputFileError, match='more than the 2 that --skip_bad allows'):
        convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=2, workers=1)
    made = convert_dataset.convert(PASSAGES, files, tmp_path / 'out', skip_bad=3, workers=1)
    # infobox comes before passages, because files are read in sorted order.
    assert made.rows == {'infobox': 1, 'passages': 3} and made.bad == 3
    assert [row['id'] for file in sorted((tmp_path / 'out').glob('*.jsonl')) for _, row in jsonl.read(file)
            ] == ['a1', 'a2', 'b1', 'c1']
    manifest = json.loads((tmp_path / 'out/manifest.json').read_text())
    for name, (_, size, sha256) in manifest['outputs'].items():
        content = (tmp_path / 'out' / name).read_bytes()
        assert len(content) == size and piece_files.checksum.sha256_file(tmp_path / 'out' / name) == sha256


def test_equal_hashes_of_different_docids_are_no_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr(piece_files, 'hash_of', lambda docid: 7)
    made = convert_dataset.convert(PASSAGES, _files(tmp_path, 'a1,a2', 'b1'), tmp_path / 'out', workers=1)
    assert made.rows == {'passages': 3}


def test_a_file_given_twice_is_told_without_holding_its_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicate_ids, '_SPARE', 3)
    lines = ','.join(f'a{number}' for number in range(500))
    with pytest.raises(errors.InputFileError, match='is the id of two passages'):
        convert_dataset.convert(PASSAGES, _files(tmp_path, lines, lines), tmp_path / 'out', workers=1)
