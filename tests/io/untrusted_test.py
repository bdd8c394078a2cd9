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


def test_files_are_measured_before_they_are_read(tmp_path):
    (tmp_path / 'x.json').write_text('{"a": 1}')
    assert untrusted.read_json(tmp_path / 'x.json') == {'a': 1}
    with open(tmp_path / 'holes', 'wb') as file:
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'endless').symlink_to('/dev/zero')
    for name, problem in (('holes', 'expected at most'), ('pipe', 'no regular file'), ('endless', 'no regular file')):
        with pytest.raises(ValueError, match=problem):
            untrusted.read_bytes(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        untrusted.read_json(tmp_path / 'absent')


@pytest.mark.parametrize('name', ['x' * 256, 'é' * 128, 'a/' + 'x' * 300, '\ud800'])
def test_names_that_no_file_system_takes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match='.'):
        untrusted.inside(tmp_path, name)


@pytest.mark.parametrize(('declared', 'right', 'wrong'), [
    (int, [0, -5, 2**70], [True, 1.0, '1', None, [], {}]), (float, [1, 0.5], [True, float('nan'), float('inf'), 10**400, '1', None]),
    (str, ['', 'x'], [1, None, []]), (bool, [True], [1, 0, 'true', None]), (str | None, ['x', None], [1, True]),
    (tuple[str, ...], [[], ['a'], ('a',)], ['a', [1], {}, None]), (dict[str, float], [{}, {'a': 1}], [[], {'a': 'x'}])])
def test_values_are_held_against_declared_types(declared, right, wrong):
    assert all(untrusted.has_type(value, declared) for value in right)
    assert not any(untrusted.has_type(value, declared) for value in wrong)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner)))
def test_any_value_is_shown_on_one_short_line(value):
    assert len(untrusted.shown(value)) < 500 and '\n' not in untrusted.shown(value)


def test_what_would_take_gigabytes_is_shown_by_its_kind():
    nested = ()
    for _ in range(40):
        nested = nested, nested
    assert untrusted.shown(nested) == 'a value of type tuple' and untrusted.shown(10**6000) == 'an integer of 19,932 bits'
