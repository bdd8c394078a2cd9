"""Checksums of a folder: every flipped bit, cut or missing file is found and named, and nothing else is."""

import json
import os
import random

import pytest

from atlas_jax import errors
from atlas_jax.io import checksum, contents


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, 'BLOCK_BYTES', 11)  # several blocks in small files
    (tmp_path / 'part').mkdir()
    (tmp_path / 'part' / 'weights').write_bytes(bytes(range(67)))
    (tmp_path / 'config.json').write_text('{"size": 3}')
    (tmp_path / 'empty').write_text('')
    (tmp_path / '.hidden').write_text('not listed')
    contents.write(tmp_path, parts={'part/weights': [(5, 29, 'embedding'), (29, 53, 'kernel')]})
    (tmp_path / 'notes.txt').write_text("the user's own")
    return tmp_path


def _flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_is_found(folder):
    assert contents.damage(folder) == []
    for name in ('part/weights', 'config.json'):
        for bit in range(8 * (folder / name).stat().st_size):
            _flip(folder / name, bit)
            found = contents.damage(folder)
            assert [problem.path for problem in found] == [folder / name], bit
            if name == 'part/weights':
                byte = bit // 8
                assert found[0].parts == (('embedding',) if 5 <= byte < 29 else ('kernel',) if 29 <= byte < 53 else ())
            _flip(folder / name, bit)
    assert contents.damage(folder) == []


def test_a_flipped_bit_in_the_list_is_never_taken_for_a_whole_folder(folder):
    generator = random.Random(3)
    size = (folder / contents.FILE).stat().st_size
    for bit in generator.sample(range(8 * size), 400):
        _flip(folder / contents.FILE, bit)
        try:
            found = contents.damage(folder)
        except errors.ModelFolderError as error:
            assert contents.FILE in str(error)
        else:  # white space of the JSON
            assert found == []
        _flip(folder / contents.FILE, bit)


def test_files_that_are_cut_longer_missing_or_unreadable_are_named(folder):
    (folder / 'part' / 'weights').write_bytes(bytes(range(66)))
    assert str(contents.damage(folder)[0]) == f'{folder}/part/weights: damaged (66 bytes, expected 67)'
    (folder / 'part' / 'weights').unlink()
    assert str(contents.damage(folder)[0]) == f'{folder}/part/weights: is missing'
    (folder / 'part' / 'weights').mkdir()
    (folder / 'empty').write_text('x')
    with pytest.raises(errors.ModelFolderError, match=r'empty: damaged \(1 bytes, expected 0\) \(and 1 more files\); res.*--no_verify'):
        contents.check(folder)


def test_a_folder_can_be_loaded_unchecked_and_one_without_a_list_passes(folder, tmp_path_factory):
    _flip(folder / 'config.json', 9)
    with pytest.raises(errors.ModelFolderError, match=r'config\.json: damaged'):
        contents.check(folder)
    with contents.unchecked():
        assert not contents.is_checking()
        contents.check(folder)
        contents.check_file(folder / 'config.json')
    contents.check(folder, ('part/',))  # reads the requested files only
    other = tmp_path_factory.mktemp('other')
    contents.check(other)
    (other / contents.FILE).write_text('{"format": "of another program"}')
    assert contents.damage(other) is None


def test_one_file_is_checked_by_the_list_of_a_folder_above(folder):
    contents.check_file(folder / 'part' / 'weights')
    contents.check_file(folder / 'notes.txt')
    contents.check_file(folder / 'part' / 'absent')
    _flip(folder / 'part' / 'weights', 300)
    with pytest.raises(errors.ModelFolderError, match='weights: damaged .*, in kernel; restore'):
        contents.check_file(folder / 'part' / 'weights')


def test_what_was_found_whole_is_read_again_only_after_it_has_changed(folder, monkeypatch):
    contents.check(folder)
    read = []
    digest = contents._digest
    monkeypatch.setattr(contents, '_digest', lambda place, name, *block: read.append(name) or digest(place, name, *block))
    contents.check(folder)
    assert not read
    _flip(folder / 'config.json', 9)
    os.utime(folder / 'config.json', ns=(7, 7))
    with pytest.raises(errors.ModelFolderError):
        contents.check(folder)
    assert read == ['config.json']


def test_a_pipe_in_the_place_of_a_file_is_damage_and_not_waited_for(folder):
    (folder / 'config.json').unlink()
    os.mkfifo(folder / 'config.json')
    assert str(contents.damage(folder)[0]) == f'{folder}/config.json: is no file'


def test_processes_share_the_blocks(folder):
    _flip(folder / 'part' / 'weights', 300)
    found = [contents.damage(folder, share=(process, 3)) for process in range(3)]
    assert sorted(map(len, found)) == [0, 0, 1]


def test_a_list_is_written_before_a_file_that_says_it_exists_and_grows(tmp_path):
    contents.write(tmp_path, [], pending={'model.json': b'{}'})
    assert str(contents.damage(tmp_path)[0]) == f'{tmp_path}/model.json: is missing'
    (tmp_path / 'model.json').write_bytes(b'{}')
    (tmp_path / 'late').write_text('x')
    contents.add(tmp_path, ['late'])
    assert contents.damage(tmp_path) == [] and set(contents.read(tmp_path)) == {'late', 'model.json'}


def test_lists_of_other_versions_and_names_that_lead_out_are_refused(folder):
    listed = json.loads((folder / contents.FILE).read_text())
    for changed, message in (({'version': 2}, 'checksums format 2'),
                             ({'files': {'../x': {'bytes': 1, 'blocks': []}}}, 'the name of a file in this folder'),
                             ({'files': {'x': {'bytes': 1, 'blocks': []}}}, 'do not fit'), ({'files': {'x': {'blocks': 3}}}, 'damaged'),
                             ({'files': [3]}, 'damaged'), ({'files': {'x': {'bytes': 1, 'blocks': [[1, 'a', 2]]}}}, 'expected text')):
        body = {**listed, **changed}
        del body['list_sha256']
        (folder / contents.FILE).write_text(json.dumps({**body, 'list_sha256': checksum.json_sha256(body)}))
        with pytest.raises(errors.ModelFolderError, match=message):
            contents.check(folder)
