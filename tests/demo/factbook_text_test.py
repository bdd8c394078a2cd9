import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.demo import factbook_text


@pytest.mark.parametrize('raw, text', [
    ('<strong>note:</strong>&nbsp;C&ocirc;te d&rsquo;Ivoire', "note: Côte d'Ivoire"),
    ('one<br><br>two<br/>three', 'one; two; three'), ('one.<br>two;<br> three', 'one. two; three'), ('a ++ b', 'a; b'),
    ('other &lt;1%', 'other <1%'), (' spaced ( out ) , text ', 'spaced (out), text'), ('', ''), ('<br>', '')])
def test_clean(raw, text):
    assert factbook_text.clean(raw) == text


def test_parts_are_named_once():
    value = {'Exports 2024': {'text': '$1 trillion'}, 'Exports 2023': {'text': '$2 trillion.'}, 'note': '<b>note:</b> in dollars'}
    assert factbook_text.statement('Exports', value) == 'Exports: 2024: $1 trillion; 2023: $2 trillion; note: in dollars.'
    value = {'improved: urban': {'text': 'urban: 99%'}, 'unimproved: urban': {'text': 'urban: 1%'}}
    assert factbook_text.statement('Water', value) == 'Water: improved: urban: 99%; unimproved: urban: 1%.'
    assert factbook_text.statement('Languages', {'Languages': {'text': 'French (official)'}}) == 'Languages: French (official).'
    assert factbook_text.statement('Area', {'total ': {'text': '5 sq km'}, 'water': {'text': 'none'}}) == 'Area: total: 5 sq km.'
    assert factbook_text.statement('Empty', {'a': {'text': 'NA'}, 'b': {}}) == ''


def test_fields_are_grouped_and_a_long_one_is_cut_at_a_sentence():
    body = {'One': {'text': 'a b c'}, 'Two': {'text': 'd e'}, 'None': {'text': 'none'},
            'Long': {'text': ' '.join(f'w{i}' + ('.' if i == 8 else '') for i in range(17))}, 'Last': {'text': 'end'}}
    packed = list(factbook_text.pack(body, 11))
    assert packed == [('One: a b c. Two: d e.', ('One', 'Two')),
                      ('Long: w0 w1 w2 w3 w4 w5 w6 w7 w8.', ('Long',)),
                      ('Long: w9 w10 w11 w12 w13 w14 w15 w16. Last: end.', ('Long', 'Last'))]


@given(st.dictionaries(st.text('abc', min_size=1, max_size=3), st.lists(st.text('xyz', min_size=1, max_size=4), max_size=40), max_size=7),
       st.integers(5, 17))
def test_packing_keeps_every_word_in_order_and_the_limit(fields, max_words):
    packed = list(factbook_text.pack({name: {'text': ' '.join(words)} for name, words in fields.items()}, max_words))
    assert all(len(text.split()) <= max_words for text, _ in packed)
    kept = [word.rstrip('.') for text, _ in packed for word in text.split() if not word.endswith(':')]
    assert kept == [word for words in fields.values() for word in words]
