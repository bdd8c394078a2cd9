"""Every key of every configuration file changes the model, is harmless for a stated reason, or is refused by name."""

import dataclasses
import json
import re

import pytest

from atlas_jax import errors
from atlas_jax.conversion import hf, known_keys, loading
from tests.testing import tiny_checkpoints, tiny_tokenizers

BERT = dataclasses.replace(tiny_checkpoints.BERT, vocab_size=29, max_positions=23, normalize=True)
CONFIG, PROMPTS, TRANSFORMER = 'config.json', 'config_sentence_transformers.json', 'sentence_bert_config.json'
TOKENIZER, SPECIAL, ADDED = 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'
MODULES, POOLING, NORMALIZE = 'modules.json', '1_Pooling/config.json', '2_Normalize/config.json'
RETRIEVER_FILES = {
    CONFIG: known_keys.BERT_CONFIG, PROMPTS: known_keys.SENTENCE_TRANSFORMERS, TRANSFORMER: known_keys.SENTENCE_BERT,
    TOKENIZER: known_keys.BERT_TOKENIZER, SPECIAL: known_keys.BERT_TOKENIZER, MODULES: known_keys.MODULE, POOLING: known_keys.POOLING,
    NORMALIZE: known_keys.NORMALIZE}
READER_FILES = {CONFIG: known_keys.T5_CONFIG, TOKENIZER: known_keys.T5_TOKENIZER, SPECIAL: known_keys.T5_TOKENIZER}
# Each honoured key gets another value than the folder's. It must change the model or be refused by the key's name.
OTHER = {
    'hidden_size': 8, 'num_attention_heads': 3,
    'model_type': 'nomic_bert', 'layer_norm_eps': 0.5, 'hidden_dropout_prob': 0.37, 'layer_norm': 'second_moment', 'normalize': False,
    'prompts': {'query': 'the '}, 'default_prompt_name': 'other', 'similarity_fn_name': 'manhattan', 'truncate_dim': 3,
    'max_seq_length': 17, 'do_lower_case': False, 'strip_accents': False, 'tokenize_chinese_chars': False, 'model_max_length': 17,
    'added_tokens_decoder': {'5': {'content': 'new'}}, 'additional_special_tokens': ['<new>'], 'extra_special_tokens': {'new': '<new>'},
    'type': 'somewhere.Transformer', 'path': 'elsewhere', 'word_embedding_dimension': 5, 'embedding_dimension': 5, 'pooling_mode': 'max',
    'include_prompt': False, 'dropout_rate': 0.37, 'layer_norm_epsilon': 0.5, 'feed_forward_proj': 'gated-silu', 'pad_token_id': 3,
    'eos_token_id': 3, 'decoder_start_token_id': 3, 'tie_word_embeddings': True, 'scale_decoder_outputs': True,
    'relative_attention_max_distance': 91, 'extra_ids': 3, 'pooling': 'cls', **{name: {'revision': 'x'} for name in known_keys.LOADERS}}


def _write(path, values):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def _retriever(folder):
    """A folder with every file; prompts, so that include_prompt matters."""
    hf.write_params(folder, BERT, tiny_checkpoints.model(BERT).params())
    tiny_tokenizers.write_bert(folder, do_lower_case=True)
    _write(folder / PROMPTS, {'prompts': {'query': 'sun '}})
    _write(folder / POOLING, {'pooling_mode': 'mean'})
    for name in (TRANSFORMER, NORMALIZE, SPECIAL):
        _write(folder / name, {})


def _load_retriever(folder):
    opened = loading.open_model(folder)
    config = opened.retriever().config
    return config, loading.retriever_tokenizer(None, [folder], config.vocab_size).fingerprint


def _reader(folder):
    hf.write_params(folder, tiny_checkpoints.V11, tiny_checkpoints.model(tiny_checkpoints.V11).params())
    tiny_tokenizers.write_t5(folder)
    for name in (TOKENIZER, SPECIAL):
        _write(folder / name, {})


def _load_reader(folder):
    opened = loading.open_model(folder)
    config = opened.reader().config
    return config, loading.reader_tokenizer(None, [folder], config.vocab_size).fingerprint


def _set(path, key, value):
    values = json.loads(path.read_text())
    if isinstance(values, list):
        values[0][key] = value
    elif key.startswith('pooling_mode_'):
        values = {key: value}
    else:
        values[key] = value
    path.write_text(json.dumps(values))


def _check(folder, load, file, key, rule):
    before, other = load(folder), OTHER.get(key, True if key.startswith('pooling_mode_') else 19)
    _set(folder / file, key, 'something else' if isinstance(rule, known_keys.Harmless | known_keys.Only) else other)
    if isinstance(rule, known_keys.Harmless):
        assert rule.reason and load(folder) == before
    elif isinstance(rule, known_keys.Only):
        with pytest.raises(errors.ModelFolderError, match=rf'{re.escape(file)}: {key} is '):
            load(folder)
    else:
        try:
            changed = load(folder) != before
        except errors.UserError as error:
            # The message names the key, the parameter that no longer fits, or the missing file.
            changed = any(word in str(error) for word in (key, ' parameters ', ' has shape ', 'differs from', 'no such file'))
        # The folder pools by the mean.
        assert changed or key == 'pooling_mode_mean_tokens' or (file, key) in NOT_ALONE, f'{file}: {key} is ignored'


# Settings that another file of the folder also states, with priority.
NOT_ALONE = {
    (CONFIG, 'pooling'), (CONFIG, 'normalize'),  # modules.json
    (TRANSFORMER, 'do_lower_case'),  # the tokenizer's own
    (TOKENIZER, 'extra_ids'), (SPECIAL, 'extra_ids'),  # the vocabulary
    *((SPECIAL, key) for key in ('do_lower_case', 'strip_accents', 'tokenize_chinese_chars', 'model_max_length'))}


@pytest.mark.parametrize(('file', 'key'), [(file, key) for file, table in RETRIEVER_FILES.items() for key in table])
def test_every_key_of_a_retriever(tmp_path, file, key):
    _retriever(tmp_path)
    _check(tmp_path, _load_retriever, file, key, RETRIEVER_FILES[file][key])


@pytest.mark.parametrize(('file', 'key'), [(file, key) for file, table in READER_FILES.items() for key in table])
def test_every_key_of_a_reader(tmp_path, file, key):
    _reader(tmp_path)
    _check(tmp_path, _load_reader, file, key, READER_FILES[file][key])


@pytest.mark.parametrize('file', [PROMPTS, TRANSFORMER, MODULES, POOLING, NORMALIZE])
def test_unknown_keys_of_sentence_transformers_are_refused(tmp_path, file):
    _retriever(tmp_path)
    _set(tmp_path / file, 'new_option', 3)
    with pytest.raises(errors.ModelFolderError, match=f"{re.escape(file)}: the key 'new_option' .value 3. is not known"):
        _load_retriever(tmp_path)


@pytest.mark.parametrize('file', [CONFIG, TOKENIZER, SPECIAL])
def test_unknown_keys_of_transformers_are_left_alone(tmp_path, file):
    _retriever(tmp_path)
    before = _load_retriever(tmp_path)
    _set(tmp_path / file, 'new_option', 3)
    assert _load_retriever(tmp_path) == before


def test_added_tokens_are_refused_by_name(tmp_path):
    _retriever(tmp_path)
    _write(tmp_path / ADDED, {'[MASK]': 4, '<new>': 31})
    with pytest.raises(errors.ModelFolderError, match="added_tokens.json: .* the token '<new>'"):
        _load_retriever(tmp_path)


def test_values_that_are_long_are_shortened(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='x{70}') as caught:
        known_keys.check(tmp_path, {'kwargs': 'x' * 3000}, known_keys.MODULE)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_true_is_no_one(tmp_path):
    known_keys.check(tmp_path, {'kwargs': 0}, known_keys.MODULE)
    with pytest.raises(errors.ModelFolderError, match='kwargs is 1'):
        known_keys.check(tmp_path, {'kwargs': 1}, known_keys.MODULE)


def test_what_transformers_writes_is_known(tmp_path):
    transformers = pytest.importorskip('transformers')
    for config, table in ((transformers.BertConfig(), known_keys.BERT_CONFIG), (transformers.T5Config(), known_keys.T5_CONFIG),
                          (transformers.MT5Config(), known_keys.T5_CONFIG)):
        known_keys.check(tmp_path, config.to_dict(), table)  # an unknown key would be refused
