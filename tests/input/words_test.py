"""Shares of tokens become shares of words."""

import pytest

from atlas_jax.input import words
from tests.testing import word_tokenizers

ENCODE = word_tokenizers.t5().encode


def test_words_get_what_their_tokens_got_and_the_title_is_passed_over():
    text = 'The thing 3 is  white .'
    before, inside = ENCODE('what is it ? title: The thing 33 context:'), ENCODE(text)
    shares = [0.01 * number for number in range(len(before) + len(inside) + 1)]
    found = words.shares_of_words(text, ENCODE, [*before, *inside, 1], shares)
    assert [word for word, _ in found] == ['The', 'thing', '3', 'is', 'white', '.']
    assert sum(share for _, share in found) == pytest.approx(sum(shares[len(before):-1]))
    pieces = [len(ENCODE(word)) for word, _ in found]
    assert found[2][1] == pytest.approx(sum(shares[len(before) + sum(pieces[:2]):len(before) + sum(pieces[:3])]))


def test_words_that_were_cut_are_left_out_and_half_ones_are_kept():
    tokens = ENCODE('x: red zebra fish')
    cut = len(ENCODE('x: red')) + 2
    found = words.shares_of_words('red zebra fish', ENCODE, tokens[:cut], [1.0] * cut)
    assert found == (('red', 1.0), ('zebra', 2.0))


@pytest.mark.parametrize(('text', 'tokens'), [('', [5, 6]), ('red', []), ('zebra', ENCODE('blue'))])
def test_nothing_in_common(text, tokens):
    assert words.shares_of_words(text, ENCODE, tokens, [0.5] * len(tokens)) == ()
