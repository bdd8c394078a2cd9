"""modules.json and the pooling's config.json."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.conversion import hf


def _write(folder, kinds, **pooling):
    modules = [{'idx': i, 'path': f'{i}_{kind}' if i else '', 'type': f'sentence_transformers.models.{kind}'}
               for i, kind in enumerate(kinds)]
    (folder / 'modules.json').write_text(json.dumps(modules))
    (folder / '1_Pooling').mkdir(exist_ok=True)
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps({'word_embedding_dimension': 6, **pooling}))


def test_a_plain_folder_says_nothing(tmp_path):
    assert hf.describe_retriever(tmp_path) == hf.Description(tmp_path)


@pytest.mark.parametrize('pooling', ['average', 'sqrt', 'cls'])
@pytest.mark.parametrize('normalize', [False, True])
def test_round_trip(tmp_path, pooling, normalize):
    hf.write_modules(tmp_path, 6, pooling, normalize)
    assert hf.describe_retriever(tmp_path) == hf.Description(tmp_path, pooling, normalize)


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path):
    _write(tmp_path, ['Transformer', 'Pooling'], pooling_mode_mean_tokens=True)
    modules = json.loads((tmp_path / 'modules.json').read_text())
    modules[0]['path'] = '0_Transformer'
    (tmp_path / 'modules.json').write_text(json.dumps(modules))
    assert hf.describe_retriever(tmp_path).bert_folder == tmp_path / '0_Transformer'


@pytest.mark.parametrize(('kinds', 'pooling', 'message'), [
    (['Transformer', 'Pooling', 'Dense'], {'pooling_mode_mean_tokens': True}, "module 'Dense' is not supported"),
    (['Transformer', 'Pooling'], {'pooling_mode_max_tokens': True}, 'pools by pooling_mode_max_tokens'),
    (['Transformer', 'Pooling'], {'pooling_mode_mean_tokens': True, 'pooling_mode_cls_token': True}, 'exactly one'),
    (['Transformer', 'Pooling'], {}, 'pools by nothing')])
def test_what_a_retriever_cannot_be(tmp_path, kinds, pooling, message):
    _write(tmp_path, kinds, **pooling)
    with pytest.raises(errors.ModelFolderError, match=message):
        hf.describe_retriever(tmp_path)


def test_broken_pooling(tmp_path):
    _write(tmp_path, ['Transformer', 'Pooling'])
    (tmp_path / '1_Pooling' / 'config.json').write_text('[]')
    with pytest.raises(errors.ModelFolderError, match='expected a JSON object'):
        hf.describe_retriever(tmp_path)


@pytest.mark.parametrize('text', ['{}', '[3]', '['])
def test_broken_modules(tmp_path, text):
    (tmp_path / 'modules.json').write_text(text)
    with pytest.raises(errors.ModelFolderError, match='modules.json'):
        hf.describe_retriever(tmp_path)
