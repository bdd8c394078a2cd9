import pytest

from atlas_jax.corpus import sentences


def split(text):
    words = sentences.word_spans(text)
    ends = [0, *sentences.sentence_ends(text, words)]
    return [text[words[first][0]:words[stop - 1][1]] for first, stop in zip(ends, ends[1:], strict=False)]


@pytest.mark.parametrize('parts', [
    ['Radium glows.', 'It was found in 1898.', 'Who found it?', 'Curie!'],
    ['Dr. M. Curie of the U.S. Navy lived at No. 5 St. James in approx. 1900.', 'She left.'],
    ['He said "It glows."', 'Then (at night.)', '“It” did…', 'Yes.'],
    ['It costs 3.50 a gram, i.e. much vs. gold.', 'So be it.'],
    ['A heading without a full stop', 'A paragraph, e.g. this.'],
    ['1. First item here.', '2. Second item.'],
    ['Ångström measured.', 'Ümit too.', '“Quoted.”', '¿Qué?', '3 left.'],
    ['the end. of nothing'],
    ['one'],
])
def test_borders(parts):
    assert split('\n\n'.join(parts)) == parts
    if len(parts) > 1 and not parts[0].startswith(('1.', 'A heading')):
        assert split(' '.join(parts)) == parts and split('\n'.join(parts)) == parts


def test_lists_keep_their_numbers():
    assert split('1. First item.\n 2. Second one.\nIn 1990. Then.') == ['1. First item.', '2. Second one.', 'In 1990.', 'Then.']


def test_languages_without_spaces():
    assert split('鐳是金屬。它發光！「真的？」Radium is 鐳。') == ['鐳是金屬。', '它發光！', '「真的？」', 'Radium is 鐳。']
    assert len(sentences.word_spans('鐳是 metal です')) == 5


def test_nothing():
    assert sentences.word_spans(' \n') == [] and sentences.sentence_ends('', []) == []
