"""Formats with one field are filled, and removed again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.tasks import text_format

WORDS = st.lists(st.text('abcé.{}', min_size=1, max_size=5), min_size=1, max_size=7)


@pytest.mark.parametrize('template, around', [
    ('{x}', ('', '')), ('a {x} b', ('a ', ' b')), ('{{{x}}}', ('{', '}')), ('a}} {x} {{b {{c', ('a} ', ' {b {c'))])
def test_the_text_around_a_field(template, around):
    assert text_format.split_format(template, 'x', 'option') == around


@pytest.mark.parametrize('template, found', [
    ('', 'none'), ('x', 'none'), ('{y}', '{y}'), ('{x} {x}', '{x}, {x}'), ('{x} {y}', '{x}, {y}'), ('{x!r}', '{x}'), ('{x:>9}', '{x}')])
def test_wrong_fields_are_named(template, found):
    with pytest.raises(errors.FormatError) as caught:
        text_format.split_format(template, 'x', 'some_format')
    assert str(caught.value) == f'some_format "{template}": must have {{x}} once and no other field, found {found}'


@pytest.mark.parametrize('template', ['{x', 'x}', '{x} }'])
def test_stray_braces(template):
    with pytest.raises(errors.FormatError, match='some_format .*write a literal brace twice'):
        text_format.split_format(template, 'x', 'some_format')


@given(WORDS, st.sampled_from(['{target}', '<extra_id_0> {target}', 'It is {target}.', '{{{target}}}', 'a {target} <extra_id_1>']))
def test_what_is_filled_in_is_taken_off_again(words, template):
    text = ' '.join(words)
    filled = text_format.fill(template, 'target', text)
    assert text in filled and text_format.strip(template, 'target', f' {filled} ') == text


def test_values_with_braces_stay():
    assert text_format.fill('Q: {q}', 'q', '{q} {{x}}') == 'Q: {q} {{x}}'


@pytest.mark.parametrize('text, plain', [('', ''), ('<extra_id_0>', ''), (' a  b\n', 'a b'), ('<extra_id_0>a<extra_id_12> b', 'a b'),
                                         ('<extra_id_x>', '<extra_id_x>')])
def test_sentinels_go(text, plain):
    assert text_format.without_sentinels(text) == plain
