"""Hostile JSON and hostile file names are ValueErrors."""

import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.io import untrusted


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000, '1' * 5_000, '{"a": ' + '9' * 5_000 + '}', '', b'\xff', 'nan!'])
def test_hostile_json_is_a_value_error(text):
    with pytest.raises(ValueError, match='.'):
        untrusted.parse_json(text)


def test_json_is_parsed():
    assert untrusted.parse_json('{"a": [1, 2.5, null], "b": "é"}') == {'a': [1, 2.5, None], 'b': 'é'}


@pytest.mark.parametrize('name', ['../victim', 'a/../../victim', '/etc/passwd', '', 'a\0b', 'a\\..\\b', 5, None, ['a'], 'x' * 5_000, '..'])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match='name'):
        untrusted.inside(tmp_path, name)


def test_links_that_lead_out_are_refused_where_files_are_written(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'link').symlink_to(tmp_path)
    with pytest.raises(ValueError, match='leads out'):
        untrusted.inside(tmp_path / 'folder', 'link/victim', links=False)
    # As in the cache of Hugging Face.
    assert untrusted.inside(tmp_path / 'folder', 'link/victim') == tmp_path / 'folder' / 'link' / 'victim'


@given(st.text(max_size=30))
def test_every_name_stays_inside_or_is_refused(name):
    here = os.getcwd()
    try:
        found = untrusted.inside(pathlib.Path(here), name, links=False)
    except ValueError:
        return
    assert os.path.commonpath([os.path.realpath(found), os.path.realpath(here)]) == os.path.realpath(here)


def test_only_regular_files_are_read(tmp_path):
    untrusted.require_regular_file(tmp_path / 'absent')
    (tmp_path / 'file').touch()
    untrusted.require_regular_file(tmp_path / 'file')
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'pipe', tmp_path):
        with pytest.raises(ValueError, match='no regular file'):
            untrusted.require_regular_file(path)
