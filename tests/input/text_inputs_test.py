"""Inputs put together on the host equal those of the graph, or else are the tokens of the joined text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax import errors, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.input import text_inputs
from atlas_jax.nn import assembly
from atlas_jax.tokenizers import formats
from tests.testing import word_tokenizers

T5, BERT = word_tokenizers.t5(), word_tokenizers.bert()
TEMPLATE = 'the {query} title: {title} context: {text} is'
WORDS = st.lists(st.sampled_from(['the', 'red', 'blue', 'thing', 'x7', 'is']), max_size=9).map(' '.join)


def reader(template: str = TEMPLATE, limit: int = 19) -> text_inputs.FormatEncoder:
    return text_inputs.FormatEncoder(template, T5.encode, limit, suffix_ids=(T5.eos_id,))


@jax.jit
def in_graph(query, query_length, tokens, title_length, length):
    segments = formats.cut_format(TEMPLATE, T5.encode, suffix_ids=(T5.eos_id,))
    table = types.TokenTable(tokens=tokens[None], title_lengths=title_length[None], lengths=length[None])
    return assembly.assemble(segments, query[None], query_length[None], table, 19)


@settings(max_examples=40, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_equals_the_graph(query, title, text):
    def padded(ids):
        return jnp.asarray([*ids, *[0] * (64 - len(ids))], jnp.int32), jnp.int32(len(ids))

    title_ids = T5.encode(title)
    tokens, length = padded([*title_ids, *T5.encode(text)])
    expected, expected_length = in_graph(*padded(T5.encode(query)[:7]), tokens, jnp.int32(len(title_ids)), length)
    found = reader().ids(query, title, text, query_max_tokens=7)
    assert found == expected[0, :int(expected_length[0])].tolist()


@given(WORDS, WORDS, WORDS)
def test_fields_that_touch_text_are_tokenised_with_it(query, title, text):
    template = 'Q{query}the:{title}red{text}.'
    whole = [*T5.encode(f'Q{query}the:{title}red{text}.'), T5.eos_id]
    assert reader(template, 400).ids(query, title, text) == whole
    cut = reader(template, 30).ids(query, title, text)
    assert len(cut) <= 30 and cut[-1] == T5.eos_id and (cut == whole) == (len(whole) <= 30)


def test_what_is_too_long_is_cut_at_the_text_then_the_title():
    form, text = reader('Q{query}T{title}C{text}.', 24), 'red blue ' * 30
    assert T5.decode(form.ids('x y', 'a b', text)).startswith('Qx yTa bCred')
    assert T5.decode(form.ids('x y', text, 'the')).startswith('Qx yTred') and T5.decode(form.ids('x y', text, 'the')).endswith('C.')
    short = reader('Q{query}T{title}C{text}.', 60).ids('1 2 3 4 5 6 7 8 9', 'a', 'b', query_max_tokens=6)
    assert T5.decode(short) == 'Q1 2 3TaCb.'


def test_a_query_may_lose_its_beginning_instead_of_its_end():
    query = '1 2 3 4 5 6 7 8 9'
    for template, cut in (('Q {query} T {title} C {text}', 6), ('Q{query}T{title}C{text}.', 6)):
        kept = T5.decode(reader(template, 60).ids(query, 'a', 'b', query_max_tokens=cut, keep_end=True)).replace(' ', '')
        assert kept.startswith('Q7') or kept.startswith('Q8') or kept.startswith('Q4')
        assert '9Ta' in kept and '1' not in kept
    beginning = reader('Q {query} C {text}', 60).ids(query, '', 'b', query_max_tokens=4)
    assert '1' in T5.decode(beginning) and '9' not in T5.decode(beginning)


def test_bert_takes_punctuation_for_a_border():
    whole = text_inputs.FormatEncoder('[{title}]: {text}.', BERT.encode, 40, (BERT.cls_id,), (BERT.sep_id,), formats.PUNCTUATION)
    expected = [BERT.cls_id, *BERT.encode('[red thing]: the blue is.'), BERT.sep_id]
    assert whole.ids('', 'red thing', 'the blue is') == expected
    assert formats.touching('[{title}]: {text}.') and not formats.touching('[{title}]: {text}.', formats.PUNCTUATION)
    assert formats.touching('x{title} {text}', formats.PUNCTUATION) and formats.touching('{title}{text}', formats.PUNCTUATION)


def test_examples_with_too_many_too_few_and_no_passages():
    retriever = text_inputs.FormatEncoder('{title} {text}', BERT.encode, 11, (BERT.cls_id,), (BERT.sep_id,))
    encoder = text_inputs.PassageEncoder(reader(limit=33), retriever, n=2, query_max_tokens=9)
    given = [Passage(str(i), f'thing {i}', 'S', f'the thing {i} is red') for i in range(3)]
    full = encoder.encode('what', given)
    assert full['passage_tokens'].shape == (2, 33) and full['retriever_passage_tokens'].shape == (2, 11)
    np.testing.assert_array_equal(full['passage_tokens'], encoder.encode('what', given[:2])['passage_tokens'])
    title = T5.decode(full['passage_tokens'][1])
    assert 'thing 1: S' in title and full['retriever_passage_lengths'].tolist() == [11, 11]
    one, none = encoder.encode('what', given[:1]), encoder.encode('what', [])
    assert one['passage_lengths'][0] > 0 and one['passage_lengths'][1] == one['retriever_passage_lengths'][1] == 0
    assert none['passage_lengths'].tolist() == [len(encoder.reader.ids('what', '', '')), 0]
    assert none['retriever_passage_lengths'].tolist() == [2, 0]  # [CLS] [SEP]


def test_a_format_longer_than_the_limit():
    with pytest.raises(errors.ConfigError, match='alone takes .* more than the limit of 5; raise text_max_tokens'):
        reader('the red the blue the green {text}', limit=5)
