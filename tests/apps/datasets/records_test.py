import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import records

RECORD = records.PublishedRecord(pathlib.Path('f.json'), {
    'a': ' x ', 'n': 7, 'blank': ' ', 'list': ['p', ' p', '', 'q'], 'none': None, 'parts': [{'b': 1}, {}], 'half': '\ud800', 'yes': True},
    place='Data[2]')


def test_fields_are_taken_without_blanks():
    assert (RECORD.text('a'), RECORD.text('none', ''), RECORD.text('missing', 'd'), RECORD.identity('n')) == ('x', '', 'd', '7')
    assert RECORD.answers('list') == ['p', 'q']
    first, second = RECORD.objects('parts')
    assert (first.fields, first.place, second.place) == ({'b': 1}, 'Data[2].parts[0]', 'Data[2].parts[1]')
    assert RECORD.objects('missing') == RECORD.objects('none') == []


@pytest.mark.parametrize('take', [
    lambda: RECORD.text('blank'), lambda: RECORD.text('n'), lambda: RECORD.text('half', ''), lambda: RECORD.text('missing'),
    lambda: RECORD.identity('yes'), lambda: RECORD.identity('blank'), lambda: RECORD.answers('a'), lambda: RECORD.answers('none'),
    lambda: RECORD.objects('a'), lambda: RECORD.objects('list')])
def test_wrong_fields_are_told_with_their_place(take):
    with pytest.raises(errors.InputFileError, match=r'^f.json, field "Data\[2\]\.\w+": '):
        take()


def test_elements_that_are_no_objects_are_bad(tmp_path):
    (tmp_path / 'x.json').write_text('[{"a": 1}, 3, {"a": 2}]')
    found = list(records.read(tmp_path / 'x.json', 'array'))
    assert [getattr(item, 'place', None) for item in found] == ['[0]', None, '[2]']
    assert str(found[1]).endswith('x.json, field "[1]": expected an object, found 3')
