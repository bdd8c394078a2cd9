"""Declared shapes: what has them passes, anything else is a ValueError that names the place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.io import schema

PAGE = schema.ObjectOf({'number': schema.Integer(1, 9)})
SIZE = schema.TupleOf((schema.Integer(), schema.Text('cm|mm', 'cm or mm')))
ALBUM = schema.ObjectOf(
    {
        'name': schema.LINE, 'shown': schema.Boolean(), 'pages': schema.Array(PAGE, 1), 'files': schema.of(schema.Files), 'size': SIZE,
        'sha256': schema.SHA256, 'worth': schema.Number(0, 1)}, optional=frozenset({'shown', 'worth'}))
GOOD = {'name': 'Summer', 'pages': [{'number': 3}], 'files': {'a/b.png': [7, 'a' * 64]}, 'size': [20, 'cm'], 'sha256': 'b' * 64}


def test_what_has_the_shape_passes():
    ALBUM.check(GOOD)
    ALBUM.check({**GOOD, 'shown': True, 'worth': 0.5})
    ALBUM.check({**GOOD, 'worth': 1})


@pytest.mark.parametrize(('change', 'message'), [
    ({'name': 7}, '"name" is 7, expected text of one line'), ({'name': 'a\nb'}, 'text of one line'), ({'name': 'a\n'}, 'text of one line'),
    ({'shown': 1}, '"shown" is 1, expected true or false'), ({'pages': []}, '"pages" is list, expected a list of at least 1'),
    ({'pages': [{'number': 3}, {'number': 10}]}, r'"pages\[1\].number" is 10, expected a whole number from 1 to 9'),
    ({'pages': [{'number': True}]}, 'is True, expected a whole number'), ({'pages': [{'number': 3.0}]}, 'is 3.0, expected a whole number'),
    ({'pages': [{}]}, r'no field "pages\[0\].number"'), ({'pages': [[]]}, r'"pages\[0\]" is list, expected an object'),
    ({'files': {'../x': [1, 'a' * 64]}}, 'is \'../x\', expected the name of a file in this folder'),
    ({'files': {'x': [1]}}, r"\"files\['x'\]\" is list, expected a list of 2"), ({'files': {'x': [1, 'A' * 64]}}, 'SHA-256'),
    ({'files': []}, 'an object'), ({'size': [20, 'km']}, r'"size\[1\]" is \'km\', expected cm or mm'), ({'sha256': 'b' * 10**6}, 'SHA-256'),
    ({'worth': 1.5}, '"worth" is 1.5, expected a number from 0 to 1'), ({'worth': float('nan')}, 'is nan'), ({'worth': True}, 'is True'),
    ({'colour': 1}, 'unknown field "colour"'),
])
def test_anything_else_is_refused_by_its_place(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        ALBUM.check({**GOOD, **change})
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize('name', ['name', 'pages', 'files', 'size', 'sha256'])
def test_only_optional_fields_may_be_absent(name):
    with pytest.raises(ValueError, match=f'no field "{name}"'):
        ALBUM.check({key: value for key, value in GOOD.items() if key != name})


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(JSON)
def test_any_value_is_a_value_error_or_passes(value):
    for shape in (ALBUM, schema.of(schema.Files), schema.Integer(), schema.LINE, schema.Array(schema.FileName())):
        try:
            shape.check(value, 'here')
        except ValueError:
            continue
        json.dumps(value)
        assert shape is not ALBUM
