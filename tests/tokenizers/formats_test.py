"""Formats cut at their fields."""

import pytest

from atlas_jax import errors
from atlas_jax.tokenizers import formats
from atlas_jax.tokenizers.formats import Segment
from tests.testing import word_tokenizers


def encode(text: str) -> list[int]:
    """Encodes a word as its length, braces included."""
    return [len(word) for word in text.split()]


def test_the_reader_format_of_the_original():
    assert formats.cut_format('{query} title: {title} context: {text}', encode, suffix_ids=(1,)) == (
        Segment('query'), Segment('literal', (6,)), Segment('title'), Segment('literal', (8,)), Segment('text'), Segment('literal', (1,)))


def test_query_last_line_breaks_and_special_tokens():
    template = 'Please answer about {title}:\n\n{text}\n\n{query}'.replace('}:', '} :')
    assert formats.cut_format(template, encode, prefix_ids=(101,), suffix_ids=(102, 103)) == (
        Segment('literal', (101,)), Segment('literal', (6, 6, 5)), Segment('title'), Segment('literal', (1,)), Segment('text'),
        Segment('query'), Segment('literal', (102, 103)))


@pytest.mark.parametrize('template, segments', [
    ('', ()), ('  ', ()), ('{text}', (Segment('text'),)), (' \n{text}\t', (Segment('text'),)),
    ('only words', (Segment('literal', (4, 5)),)),
    ('{title} {text}', (Segment('title'), Segment('text'))), ('{title}\r\n{text}', (Segment('title'), Segment('text'))),
    ('a{{b}}c {text} {{}}', (Segment('literal', (5,)), Segment('text'), Segment('literal', (2,)))),
])
def test_short_formats_and_braces(template, segments):
    assert formats.cut_format(template, encode) == segments


@pytest.mark.parametrize('template, named', [
    ('{title}{text}', '{text}'), ('{title}: {text}', '": "'), ('({text})', '{text}'), ('x{text}', '{text}'), ('{text}.', '"."'),
    ('{query} {{{text}}}', '{text}'), ('{title}\xa0{text}', 'title'), ('\x1f{text}', '{text}'),
])
def test_a_field_that_touches_something_is_refused(template, named):
    with pytest.raises(errors.FormatError, match='touches the field') as caught:
        formats.cut_format(template, encode)
    assert named in str(caught.value) and 'put a space' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('template, named', [
    ('{passage}', '{passage}'), ('{}', '{}'), ('{0}', '{0}'), ('{text!r}', '{text!r}'), ('{text:>9}', '{text:>9}'),
    ('{text.x}', '{text.x}'), ('{Query} {text}', '{Query}'),
])
def test_an_unknown_field_is_named_with_the_valid_ones(template, named):
    with pytest.raises(errors.FormatError) as caught:
        formats.cut_format(template, encode)
    assert f'unknown field {named}; the fields are {{query}}, {{title}}, {{text}}' in str(caught.value)


@pytest.mark.parametrize('template', ['{text', 'text}', '{text}} {title}', '{', '{text {title}'])
def test_unbalanced_braces_are_refused(template):
    with pytest.raises(errors.FormatError):
        formats.cut_format(template, encode)


def test_a_field_twice_is_refused():
    with pytest.raises(errors.FormatError, match='twice'):
        formats.cut_format('{text} {query} {text}', encode)


@pytest.mark.parametrize('text, expected', [
    ('', ''), ('plain', 'plain'), ('Zürich 東京', 'Zürich 東京'), ('a\udc80b', 'a?b'), ('\ud800é', '?é'),
])
def test_lone_surrogates_become_question_marks(text, expected):
    assert formats.without_lone_surrogates(text) == expected


def test_a_literal_is_the_text_itself():
    assert formats.fill(formats.literal('a {b} }{') + '{query}', {'query': '{x}'}) == 'a {b} }{{x}'


def test_every_border_of_bert_ends_a_word():
    tokenizer = word_tokenizers.bert()
    for mark in sorted(formats.PUNCTUATION):
        assert tokenizer.encode(f'red{mark}green') == [*tokenizer.encode(f'red{mark}'), *tokenizer.encode('green')], hex(ord(mark))
    assert formats.touching('为检索相关文章：{query}', formats.PUNCTUATION) is None and formats.touching('相关{query}', formats.PUNCTUATION)
