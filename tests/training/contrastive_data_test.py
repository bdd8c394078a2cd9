"""A retriever's data: the same passages of a file, a store and an index; prompts around crops; questions with passages."""

import dataclasses
import json

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.input import question_passages
from atlas_jax.model import RetrieverModel
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.training import contrastive, contrastive_data
from tests.testing import tiny, tiny_run, word_tokenizers

OPTIONS = contrastive.ContrastiveConfig(0.3, 0.6, method='inbatch', augmentation='none')


@pytest.fixture(scope='module')
def model():
    tokenizer = word_tokenizers.bert()
    config = dataclasses.replace(tiny.RETRIEVER, vocab_size=tokenizer.vocab_size, query_prompt='what : ', passage_prompt='the : ')
    return RetrieverModel(atlas_lib.RetrieverConfig(config), {}, tokenizer)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A store, an index of it, and the same passages as a file; the index has lost its first passage."""
    folder = tmp_path_factory.mktemp('data')
    atlas = tiny_run.atlas(dropout_rate=0.0)
    index = tiny_run.index(atlas, folder)
    passages = [index.store[row] for row in range(len(index.store))]
    (folder / 'passages.jsonl').write_text(''.join(json.dumps({'title': each.title, 'text': each.text}) + '\n' for each in passages))
    index.delete(['d0'])
    return folder


def test_files_and_stores_give_the_same_crops_and_an_index_those_that_it_has(folder, model):
    def pairs(**data):
        return contrastive_data.pairs_of(contrastive_data.RetrieverData(**data), model, OPTIONS)

    of_file, of_store = pairs(train_file=str(folder / 'passages.jsonl')), pairs(store_dir=str(folder / 'store'))
    of_index = pairs(index_dir=str(folder / 'index'))
    assert of_file.digest == of_store.digest and len(of_index) == len(of_store) - 1
    one, other = (part.draw(number, np.random.default_rng(5)) for part, number in ((of_store, 3), (of_index, 2)))
    np.testing.assert_array_equal(one.query_tokens, other.query_tokens)
    # [CLS] and the prompt of each side before the crop.
    before = [[model.tokenizer.cls_id, *model.tokenizer.encode(prompt)] for prompt in ('what :', 'the :')]
    assert one.query_tokens[:len(before[0])].tolist() == before[0] and one.passage_tokens[0, :len(before[1])].tolist() == before[1]


def test_questions_come_with_their_passages(tmp_path, model):
    path = tmp_path / 'questions.jsonl'
    row = {'question': 'what is thing 1 ?', 'positive_passages': ['the thing is red .'], 'negative_passages': ['blue']}
    path.write_text(json.dumps(row))
    data = contrastive_data.RetrieverData(questions_file=str(path))
    pairs = contrastive_data.pairs_of(data, model, contrastive.ContrastiveConfig(method='inbatch', hard_negatives=1))
    assert isinstance(pairs, question_passages.QuestionPairs) and pairs.passages_each == 2
    query = pairs.draw(0, np.random.default_rng(0)).query_tokens.tolist()
    assert query == [model.tokenizer.cls_id, *model.tokenizer.encode('what : what is thing 1 ?'), model.tokenizer.sep_id]


@pytest.mark.parametrize('data', [{}, {'train_file': 'a', 'store_dir': 'b'}])
def test_one_source_is_wanted(data):
    with pytest.raises(errors.ConfigError, match='a retriever learns from one of train_file, store_dir, index_dir, questions_file;'):
        contrastive_data.RetrieverData(**data)


def test_crops_have_no_hard_negatives(folder, model):
    data = contrastive_data.RetrieverData(store_dir=str(folder / 'store'))
    with pytest.raises(errors.ConfigError, match='crops have none: give questions_file, or 0'):
        contrastive_data.pairs_of(data, model, dataclasses.replace(OPTIONS, hard_negatives=2))
