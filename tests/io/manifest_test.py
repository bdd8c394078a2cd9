"""Manifests: what a folder is, or why it is not that."""

import errno
import json
import os

import pytest

from atlas_jax import errors
from atlas_jax.io import manifest, schema
from atlas_jax.io.folder import Folder

PAGES = schema.Record({'pages': schema.Array(schema.Integer(1, 9))})
KIND = manifest.Kind('an album', 'pictures', {3: PAGES, 4: PAGES}, 'atlas-jax album', errors.StoreError)


def test_comes_back_with_its_version(tmp_path):
    folder = Folder(tmp_path)
    assert not manifest.exists(folder)
    manifest.write(folder, KIND, {'pages': [1, 2]})
    assert manifest.exists(folder) and manifest.read(folder, KIND, 'working.json') == {'version': 4, 'pages': [1, 2]}


@pytest.mark.parametrize(('change', 'message'), [
    (lambda body: body.update(pages=3), 'damaged .its checksum does not match'),
    (lambda body: body.update(version=5), 'album format 5, this version of atlas_jax reads 4'),
    (lambda body: body.update(format='music'), 'not the manifest of an album'),
    (lambda body: body.pop('manifest_sha256'), 'checksum'),
])
def test_another_or_a_damaged_one_is_refused(tmp_path, change, message):
    manifest.write(Folder(tmp_path), KIND, {'pages': [2]})
    body = json.loads((tmp_path / manifest.FILE).read_text())
    change(body)
    (tmp_path / manifest.FILE).write_text(json.dumps(body))
    with pytest.raises(errors.StoreError, match=message):
        manifest.read(Folder(tmp_path), KIND, 'working.json')


def test_why_there_is_none(tmp_path):
    with pytest.raises(errors.StoreError, match='no such folder; build an album'):
        manifest.read(Folder(tmp_path / 'x'), KIND, 'working.json')
    (tmp_path / 'x').touch()
    with pytest.raises(errors.StoreError, match='not an album'):
        manifest.read(Folder(tmp_path), KIND, 'working.json')
    (tmp_path / 'working.json').write_text('{}')
    with pytest.raises(errors.StoreError, match='not finished; run the same `atlas-jax album` again'):
        manifest.read(Folder(tmp_path), KIND, 'working.json')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(errors.StoreError, match='the folder is empty; build an album there'):
        manifest.read(Folder(tmp_path / 'empty'), KIND, 'working.json')
    (tmp_path / 'empty' / 'lock').touch()
    with pytest.raises(errors.StoreError, match='not finished; run the same'):
        manifest.read(Folder(tmp_path / 'empty'), KIND, 'working.json')


@pytest.mark.parametrize('number', [errno.EACCES, errno.EIO])
def test_one_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, number):
    manifest.write(Folder(tmp_path), KIND, {'pages': [2]})

    def fail(path):
        raise OSError(number, os.strerror(number), str(path))
    monkeypatch.setattr('pathlib.Path.read_bytes', fail)
    with pytest.raises(errors.StorageError, match=f'{tmp_path}/manifest.json: cannot be read or written .{os.strerror(number)}.') as caught:
        manifest.read(Folder(tmp_path), KIND, 'working.json')
    assert 'build' not in str(caught.value)


@pytest.mark.parametrize(('body', 'message'), [
    ({'pages': [10]}, r'"pages\[0\]" is 10, expected a whole number from 1 to 9'), ({'pages': 'x'}, 'a list'), ({}, 'no field "pages"'),
    ({'pages': [], 'more': 1}, 'unknown field "more"'), ({'version': True, 'pages': []}, 'album format True'), ({'version': [4]}, 'format'),
    ({'pages': json.loads('[' * 900 + ']' * 900)}, 'expected a whole number|too deep')])
def test_a_right_checksum_does_not_vouch_for_the_fields(tmp_path, body, message):
    body = {'format': 'pictures', 'version': 4, **body}
    (tmp_path / manifest.FILE).write_text(json.dumps({**body, 'manifest_sha256': manifest.digest(body)}))
    with pytest.raises(errors.StoreError, match=message) as caught:
        manifest.read(Folder(tmp_path), KIND, 'working.json')
    assert '\n' not in str(caught.value)
