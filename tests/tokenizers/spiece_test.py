"""The sentencepiece model rebuilt from a tokenizer.json."""

import copy

import pytest

from atlas_jax import errors
from atlas_jax.tokenizers import spiece, t5
from tests.testing import real_text, tiny_tokenizers


def test_the_rebuilt_model_gives_the_ids_of_the_file_it_was_made_from(demo_packages):
    oracle_lib = pytest.importorskip('tokenizers')
    oracle = oracle_lib.Tokenizer.from_file(str(demo_packages.reader_dir / 'tokenizer.json')) \
        if (demo_packages.reader_dir / 'tokenizer.json').is_file() else pytest.skip('the reader folder has spiece.model only')
    oracle.no_truncation()
    oracle.no_padding()
    tokenizer = t5.T5Tokenizer(*spiece.from_tokenizer_json(demo_packages.reader_dir / 'tokenizer.json'))
    for _, text in real_text.factbook_passages(demo_packages.factbook, 800):
        text = ' '.join(text.split())
        assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids, text


def test_pieces_sentinels_and_missing_normaliser(tmp_path):
    model, sentinels = spiece.from_tokenizer_json(tiny_tokenizers.write_t5(tmp_path) / 'tokenizer.json')
    assert sentinels == tiny_tokenizers.SENTINELS
    assert t5.T5Tokenizer(model, sentinels).encode('the ﬁ') == [4, 3, 2]  # without a table of normalisations fi stays one character


def test_sentinels_may_stand_among_the_added_tokens_alone(tmp_path):
    values = tiny_tokenizers.t5_json()
    values['model']['vocab'] = values['model']['vocab'][:-tiny_tokenizers.SENTINELS]
    _, sentinels = spiece.from_tokenizer_json(tiny_tokenizers.write_t5(tmp_path, values) / 'tokenizer.json')
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
        t5.T5Tokenizer.from_folder(tiny_tokenizers.write_t5(tmp_path, values))


def test_broken_json_is_refused(tmp_path):
    (tmp_path / 'tokenizer.json').write_text('{')
    with pytest.raises(errors.ModelFolderError, match='not a T5 tokenizer file'):
        t5.T5Tokenizer.from_folder(tmp_path)
