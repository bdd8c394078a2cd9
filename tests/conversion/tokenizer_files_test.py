"""Tokenizers that lie with the model, beside it, or where an option says."""

import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.conversion import original_options, tokenizer_files
from tests.testing import word_tokenizers

T5, BERT = word_tokenizers.t5(), word_tokenizers.bert()


def test_given_found_and_missing(tmp_path):
    nowhere, there = tmp_path / 'nowhere', tmp_path / 'there'
    T5.save(there)
    BERT.save(there)
    for find, tokenizer, option in ((tokenizer_files.reader_tokenizer, T5, '--reader_tokenizer'),
                                    (tokenizer_files.retriever_tokenizer, BERT, '--retriever_tokenizer')):
        for given, places in ((None, [nowhere, there]), (there, [nowhere]), (str(there), [])):
            assert find(given, places, tokenizer.vocab_size).fingerprint == tokenizer.fingerprint
        with pytest.raises(errors.ModelFolderError, match=f'in {nowhere} nor beside it; give its folder by {option}'):
            find(None, [nowhere], tokenizer.vocab_size)
        with pytest.raises(errors.ModelFolderError, match=f'has {tokenizer.vocab_size} tokens and the model 9'):
            find(there, [], 9)
    assert tokenizer_files.reader_tokenizer(there / 'spiece.model', [], T5.vocab_size).fingerprint == T5.fingerprint
    with pytest.raises(errors.ModelFolderError, match='vocab.txt: not a sentencepiece model'):
        tokenizer_files.reader_tokenizer(there / 'vocab.txt', [], T5.vocab_size)
    assert tokenizer_files.has_tokenizer([nowhere, there]) and not tokenizer_files.has_tokenizer([nowhere])


def test_where_the_folders_of_an_option_may_lie():
    found = original_options.folders(pathlib.Path('/runs/nq/checkpoint/step-1/model.pth.tar'), 'models/contriever')
    assert found[0] == pathlib.Path('models/contriever')
    assert {pathlib.Path('/runs/nq/contriever'), pathlib.Path('/runs/nq/models/contriever')} <= set(found)
    assert original_options.folders(pathlib.Path('/x'), None) == original_options.folders(pathlib.Path('/x'), 'none') == []
