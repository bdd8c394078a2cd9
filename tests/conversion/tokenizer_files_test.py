"""Files beside a tokenizer's vocabulary: settings, added tokens and steps of other tokenizers are refused by name."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.conversion import tokenizer_files
from tests.testing import tiny_tokenizers


def _fast(folder, **values):
    (folder / 'tokenizer.json').write_text(json.dumps({'model': {'type': 'WordPiece', 'vocab': {}}, **values}))
    return folder


def test_ordinary_folders_pass(tmp_path):
    tokenizer_files.check_bert(tiny_tokenizers.write_bert(tmp_path, do_lower_case=True, tokenizer_class='BertTokenizer', mask_token={
        'content': '[MASK]', 'lstrip': False}, added_tokens_decoder={'0': {'content': '[PAD]'}}))
    _fast(tmp_path, normalizer={'type': 'BertNormalizer'}, pre_tokenizer={'type': 'BertPreTokenizer'}, added_tokens=[{'content': '[CLS]'}])
    tokenizer_files.check_bert(tmp_path)
    tokenizer_files.check_t5(tiny_tokenizers.write_t5(tmp_path / 't5'))
    tokenizer_files.check_t5(tmp_path / 'nothing')


@pytest.mark.parametrize(('values', 'message'), [
    ({'normalizer': {'type': 'Lowercase'}}, "normalizer is 'Lowercase'; only 'BertNormalizer'"),
    ({'pre_tokenizer': {'type': 'Metaspace'}}, "pre_tokenizer is 'Metaspace'"),
    ({'added_tokens': [{'content': '[PAD]'}, {'content': '<new>'}]}, "adds the token '<new>'")])
def test_steps_of_other_tokenizers_are_refused(tmp_path, values, message):
    with pytest.raises(errors.ModelFolderError, match=message):
        tokenizer_files.check_bert(_fast(tmp_path, **values))


def test_a_reader_may_have_sentinels_and_no_other_token(tmp_path):
    (tmp_path / 'special_tokens_map.json').write_text(json.dumps({'additional_special_tokens': ['<extra_id_0>', '<extra_id_99>']}))
    tokenizer_files.check_t5(tmp_path)
    (tmp_path / 'special_tokens_map.json').write_text(json.dumps({'additional_special_tokens': ['<extra_id_0>', '<question>']}))
    with pytest.raises(errors.ModelFolderError, match="special_tokens_map.json: additional_special_tokens adds the token '<question>'"):
        tokenizer_files.check_t5(tmp_path)


def test_a_list_is_no_configuration(tmp_path):
    (tmp_path / 'tokenizer_config.json').write_text('[3]')
    with pytest.raises(errors.ModelFolderError, match='tokenizer_config.json: expected a JSON object'):
        tokenizer_files.check_bert(tmp_path)


def test_files_of_the_other_tokenizer_in_the_same_folder_are_left_to_it(tmp_path):
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'BertTokenizer', 'cls_token': '[CLS]'}))
    tokenizer_files.check_t5(tmp_path)
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'T5Tokenizer', 'pad_token': '<pad>'}))
    tokenizer_files.check_bert(tmp_path)
