"""Documents cut into passages at sentence borders."""

import time

import hypothesis
import pytest
from hypothesis import strategies

from atlas_jax import errors
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.passages import CutCounts, Passage, sentence_ends, split_passages, word_spans


def split(text, max_words=100):
    return list(split_passages([Document('d', 'T', 'S', text)], max_words))


def sizes(passages):
    return [len(word_spans(each.text)) for each in passages]


def test_title_for_the_models():
    assert Passage('d', 'Radium', 'Uses', 'x').full_title == 'Radium: Uses'
    assert Passage('d', '', 'Uses', 'x').full_title == 'Uses'
    assert Passage('d', 'Radium', '', 'x').full_title == 'Radium' and Passage('d', '', '', 'x').full_title == ''


@pytest.mark.parametrize('words', [1, 99, 100])
def test_short_documents_stay_whole(words):
    text = ' '.join(['One.\n'] * words)
    assert split(text) == [Passage('d', 'T', 'S', text.strip())]


def test_pieces_are_balanced_and_numbered():
    found = split('Seven words make up this short sentence. ' * 15)
    assert [each.docid for each in found] == ['d#0', 'd#1'] and sizes(found) == [56, 49]
    assert {(each.title, each.section) for each in found} == {('T', 'S')}


def test_pieces_end_at_sentence_borders_and_keep_the_text_between():
    text = 'One two three four.\n\n  Five six seven. Eight nine ten.'
    assert [each.text for each in split(text, 7)] == ['One two three four.', 'Five six seven. Eight nine ten.']
    assert [each.text for each in split(text, 9)] == ['One two three four.', 'Five six seven. Eight nine ten.']


def test_long_sentences_are_cut_at_words():
    assert sizes(split('word ' * 301)) == [75, 75, 75, 76]
    assert sizes(split('Ab cd. ' * 20 + 'Long ' + 'word ' * 100, 50)) == [36, 37, 34, 34]
    assert sizes(split('a b c', 1)) == [1, 1, 1]


def test_no_short_last_piece():
    found = sizes(split('Ten words are in this sentence, count them if needed. ' * 1001))
    assert set(found) <= {90, 100} and sum(found) == 10010


def test_documents_follow_one_another():
    documents = [Document('a', '', '', 'One. Two. Three.'), Document('b', '', '', 'x')]
    assert [each.docid for each in split_passages(iter(documents), 2)] == ['a#0', 'a#1', 'b']
    assert not list(split_passages([]))


def test_max_words_is_checked_at_once():
    with pytest.raises(errors.ConfigError, match='max_words is 0'):
        split_passages([], 0)


def test_passages_that_are_ready_stay_whole():
    documents = [Document('a', 'T', 'S', 'One two three. ' * 50), Document('b', '', '', 'x')]
    counts = CutCounts()
    assert [each.docid for each in split_passages(documents, None, counts=counts)] == ['a', 'b']
    assert counts == CutCounts(documents=2) and counts.messages(None) == []


def test_documents_that_are_cut_are_counted():
    counts = CutCounts()
    found = list(split_passages([Document(str(words), '', '', 'One. ' * words) for words in (7, 8, 29)], 7, counts=counts))
    assert len(found) == 1 + 2 + 5 and (counts.documents, counts.cut) == (3, 2)
    assert counts.messages(7) == ['2 of 3 documents were longer than 7 words and were cut; --as_passages keeps them whole']


def test_pieces_may_overlap():
    text = ' '.join(f'w{number}.' for number in range(23))
    counts = CutCounts()
    found = [each.text.split() for each in split_passages([Document('d', '', '', text)], 7, 3, counts)]
    assert counts.cut == 1 and max(map(len, found)) <= 7
    for before, after in zip(found, found[1:], strict=False):
        assert after[:3] == before[-3:]
    assert [word for number, piece in enumerate(found) for word in piece[3 if number else 0:]] == text.split()
    # Short documents stay whole, whatever the overlap.
    assert [each.docid for each in split_passages([Document('d', '', '', 'w. ' * 7)], 7, 3)] == ['d']


@pytest.mark.parametrize('max_words, overlap, message', [
    (7, -1, 'overlap is -1; it must lie between 0 and half of max_words .7.'), (7, 4, 'overlap is 4'),
    (None, 1, 'overlap is 1; no document is cut: leave it out')])
def test_an_overlap_that_makes_no_sense_is_refused_at_once(max_words, overlap, message):
    with pytest.raises(errors.ConfigError, match=message):
        split_passages([], max_words, overlap)


def test_a_run_without_spaces_is_cut_and_named():
    run = 'QUJD' * 75_000
    counts = CutCounts()
    found = list(split_passages([Document('d', '', '', f'A picture: {run} and more.'), Document('e', '', '', 'x' * 999)], counts=counts))
    assert max(len(each.text) for each in found) <= 2100 and ''.join(each.text for each in found).count('QUJD') > 74_000
    assert ''.join(''.join(each.text.split()) for each in found[:-1]) == f'Apicture:{run}andmore.'
    [cut, odd] = counts.messages(100)
    assert cut.startswith('1 of 2 documents') and odd == ('document "d" has 300000 characters without a space, which counts as a word for '
                                                          'each 20 characters; is it text?')
    whole = CutCounts()
    assert len(list(split_passages([Document('d', '', '', run)], None, counts=whole))) == 1
    assert whole.messages(None) == ['document "d" has 300000 characters without a space, which was kept whole; is it text?']


def test_languages_without_spaces_and_addresses_are_text():
    counts = CutCounts()
    documents = [Document('zh', '', '', '\u9433\u662f\u91d1\u5c6c\u3002' * 700),
                 Document('url', '', '', f'See http://x.org/{"a" * 80} now.')]
    assert [each.docid for each in split_passages(documents, 10_000, counts=counts)] == ['zh', 'url']
    assert counts.longest_run == 0 and len(word_spans(documents[1].text)) == 3


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.text(strategies.sampled_from('aB1.!? \n"。鐳'), max_size=300), strategies.integers(1, 23))
def test_no_word_is_lost(text, max_words):
    found = split(text, max_words)
    wanted = [text[slice(*span)] for span in word_spans(text)]
    assert [each.text[slice(*span)] for each in found for span in word_spans(each.text)] == wanted
    assert max(sizes(found)) <= max_words and len({each.docid for each in found}) == len(found)
    assert all(each.text == each.text.strip() and each.text in text for each in found)
    if len(wanted) <= max_words:
        assert [each.docid for each in found] == ['d']


def test_long_documents_take_no_time():
    start = time.perf_counter()
    assert len(split('One short sentence here. ' * 25_000)) == 1000
    assert len(split('One\n\n' * 20_000)) == 200
    assert time.perf_counter() - start < 10


def sentences(text):
    words = word_spans(text)
    ends = [0, *sentence_ends(text, words)]
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
def test_sentence_borders(parts):
    assert sentences('\n\n'.join(parts)) == parts
    if len(parts) > 1 and not parts[0].startswith(('1.', 'A heading')):
        assert sentences(' '.join(parts)) == parts and sentences('\n'.join(parts)) == parts


def test_lists_keep_their_numbers():
    assert sentences('1. First item.\n 2. Second one.\nIn 1990. Then.') == ['1. First item.', '2. Second one.', 'In 1990.', 'Then.']


def test_languages_without_spaces():
    assert sentences('鐳是金屬。它發光！「真的？」Radium is 鐳。') == ['鐳是金屬。', '它發光！', '「真的？」', 'Radium is 鐳。']
    assert len(word_spans('鐳是 metal です')) == 5


def test_no_words_no_sentences():
    assert word_spans(' \n') == [] and sentence_ends('', []) == []
