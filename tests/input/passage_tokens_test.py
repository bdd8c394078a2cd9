"""Files and stores give the same token ids; messages name lines without text and passages that are too short."""

import json

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.store import PassageStore
from atlas_jax.input import passage_tokens
from atlas_jax.tokenizers import bert_tokenizer
from tests.testing import word_tokenizers

ROWS = [{'id': f'd{i}', 'title': f'thing {i}', 'text': ' '.join(['the thing is red .'] * (i + 1))} for i in range(5)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'passages.jsonl'
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in ROWS))
    return path


@pytest.mark.parametrize('tokenised', [True, False])
def test_a_file_and_a_store_give_the_same_tokens(file, tmp_path, tokenised):
    tokenizer = word_tokenizers.bert()
    store = PassageStore.build([documents.Document(row['id'], row['title'], '', row['text']) for row in ROWS], tmp_path / 'store',
                               progress=False)
    if tokenised:
        store.tokenize(word_tokenizers.t5(), tokenizer, progress=False)
    found, of_store = passage_tokens.tokens_of_files(str(file), tokenizer), passage_tokens.tokens_of_store(store, tokenizer)
    assert len(found) == 5 and found.digest == of_store.digest
    np.testing.assert_array_equal(found[1], tokenizer.encode('thing 1 the thing is red . the thing is red .'))
    part = passage_tokens.tokens_of_store(store, tokenizer, np.array([1, 3]))
    np.testing.assert_array_equal(part[1], found[3])
    assert len(part) == 2 and part.digest != found.digest and part.place(1).endswith('passage "d3"')


@pytest.mark.parametrize(('row', 'message'), [({'title': 'x'}, ':6, field "text": empty or missing'), ({'text': ' '}, '"text": empty'),
                                              ({'text': 3}, ':6, field "text": is int'), ({'text': 'x', 'title': []}, '"title": is')])
def test_lines_without_text_are_named(file, row, message):
    file.write_text(file.read_text() + json.dumps(row))
    with pytest.raises(errors.InputFileError, match=message):
        passage_tokens.tokens_of_files(str(file), word_tokenizers.bert())


def test_passages_that_are_too_short_are_named_with_their_line(file):
    found = passage_tokens.tokens_of_files(str(file), word_tokenizers.bert())
    found.check_length(7)
    with pytest.raises(errors.InputFileError, match=r'passages.jsonl:1, \S+:2: 2 passages have fewer than the 13 tokens'):
        found.check_length(13)


def test_vocabularies_of_more_than_16_bits_keep_their_ids(file):
    # Like mBERT's vocabulary of 119,547 tokens.
    words = word_tokenizers.bert()._vocabulary
    large = bert_tokenizer.BertTokenizer(words | {'red': 119_546})
    found = passage_tokens.tokens_of_files(str(file), large)
    assert found.ids.dtype == np.uint32 and found.ids.max() == 119_546 and 119_546 in large.ordinary_ids
