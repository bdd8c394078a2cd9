"""Versioned folders: what a folder is, or why it is not that."""

import dataclasses
import errno
import json
import os
from typing import Annotated

import pytest

from atlas_jax import errors
from atlas_jax.io import checksum, schema, versioned_folder
from atlas_jax.io.folder import Folder


@dataclasses.dataclass(frozen=True)
class Album:
    pages: tuple[Annotated[int, schema.Integer(1, 9)], ...]


PAGES = schema.object_of(Album)
KIND = versioned_folder.FolderKind[Album]('an album', Album, errors.StoreError, 'atlas-jax album', 'pictures', version=4,
                                          older={3: (PAGES, lambda folder, body: body)}, unfinished='working.json')


def test_comes_back_with_its_version(tmp_path):
    folder = Folder(tmp_path)
    assert not KIND.exists(folder)
    KIND.write(folder, Album((1, 2)))
    assert KIND.exists(folder) and KIND.read(folder) == Album((1, 2))


@pytest.mark.parametrize(('change', 'message'), [
    (lambda body: body.update(pages=3), 'damaged .its checksum does not match'),
    (lambda body: body.update(version=5), 'album format 5, this version of atlas_jax reads 4'),
    (lambda body: body.update(format='music'), 'not the manifest of an album'),
    (lambda body: body.pop('manifest_sha256'), 'checksum'),
])
def test_another_or_a_damaged_one_is_refused(tmp_path, change, message):
    KIND.write(Folder(tmp_path), Album((2,)))
    body = json.loads((tmp_path / versioned_folder.FILE).read_text())
    change(body)
    (tmp_path / versioned_folder.FILE).write_text(json.dumps(body))
    with pytest.raises(errors.StoreError, match=message):
        KIND.read(Folder(tmp_path))


def test_why_there_is_none(tmp_path):
    with pytest.raises(errors.StoreError, match='no such folder; build an album'):
        KIND.read(Folder(tmp_path / 'x'))
    (tmp_path / 'x').touch()
    with pytest.raises(errors.StoreError, match='not an album'):
        KIND.read(Folder(tmp_path))
    (tmp_path / 'working.json').write_text('{}')
    with pytest.raises(errors.StoreError, match='not finished; run the same `atlas-jax album` again'):
        KIND.read(Folder(tmp_path))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(errors.StoreError, match='the folder is empty; build an album there'):
        KIND.read(Folder(tmp_path / 'empty'))
    (tmp_path / 'empty' / 'lock').touch()
    with pytest.raises(errors.StoreError, match='not finished; run the same'):
        KIND.read(Folder(tmp_path / 'empty'))


@pytest.mark.parametrize('number', [errno.EACCES, errno.EIO])
def test_one_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, number):
    KIND.write(Folder(tmp_path), Album((2,)))

    def fail(path):
        raise OSError(number, os.strerror(number), str(path))
    monkeypatch.setattr('pathlib.Path.read_bytes', fail)
    with pytest.raises(errors.StorageError, match=f'{tmp_path}/manifest.json: cannot be read or written .{os.strerror(number)}.') as caught:
        KIND.read(Folder(tmp_path))
    assert 'build' not in str(caught.value)


@pytest.mark.parametrize(('body', 'message'), [
    ({'pages': [10]}, r'"pages\[0\]" is 10, expected a whole number from 1 to 9'), ({'pages': 'x'}, 'a list'), ({}, 'no field "pages"'),
    ({'pages': [], 'more': 1}, 'unknown field "more"'), ({'version': True, 'pages': []}, 'album format True'), ({'version': [4]}, 'format'),
    ({'pages': json.loads('[' * 900 + ']' * 900)}, 'expected a whole number|too deep')])
def test_a_right_checksum_does_not_vouch_for_the_fields(tmp_path, body, message):
    body = {'format': 'pictures', 'version': 4, **body}
    (tmp_path / versioned_folder.FILE).write_text(json.dumps({**body, 'manifest_sha256': checksum.json_sha256(body)}))
    with pytest.raises(errors.StoreError, match=message) as caught:
        KIND.read(Folder(tmp_path))
    assert '\n' not in str(caught.value)
