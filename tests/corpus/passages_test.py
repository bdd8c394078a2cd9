import time

import hypothesis
import pytest
from hypothesis import strategies

from atlas_jax import errors
from atlas_jax.corpus import sentences
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.passages import Passage, split_passages


def split(text, max_words=100):
    return list(split_passages([Document('d', 'T', 'S', text)], max_words))


def sizes(passages):
    return [len(sentences.word_spans(each.text)) for each in passages]


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


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.text(strategies.sampled_from('aB1.!? \n"。鐳'), max_size=300), strategies.integers(1, 23))
def test_no_word_is_lost(text, max_words):
    found = split(text, max_words)
    wanted = [text[slice(*span)] for span in sentences.word_spans(text)]
    assert [each.text[slice(*span)] for each in found for span in sentences.word_spans(each.text)] == wanted
    assert max(sizes(found)) <= max_words and len({each.docid for each in found}) == len(found)
    assert all(each.text == each.text.strip() and each.text in text for each in found)
    if len(wanted) <= max_words:
        assert [each.docid for each in found] == ['d']


def test_long_documents_take_no_time():
    start = time.perf_counter()
    assert len(split('One short sentence here. ' * 25_000)) == 1000
    assert len(split('One\n\n' * 20_000)) == 200
    assert time.perf_counter() - start < 10
