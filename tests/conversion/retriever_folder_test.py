"""sentence-transformers' files beside a BERT: settings that are read, written, and refused by name."""

import json
import re

import pytest

from atlas_jax import errors
from atlas_jax.conversion import retriever_folder
from atlas_jax.models import contriever

KINDS = ('Transformer', 'Pooling', 'Normalize')


def write_modules(folder, kinds=KINDS[:2], prompts=None, package='sentence_transformers.models', **pooling):
    """modules.json, 1_Pooling and, with settings, config_sentence_transformers.json."""
    modules = [{'idx': i, 'path': f'{i}_{kind}' if i else '', 'type': f'{package}.{kind}'} for i, kind in enumerate(kinds)]
    (folder / 'modules.json').write_text(json.dumps(modules))
    (folder / '1_Pooling').mkdir(exist_ok=True)
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps({'word_embedding_dimension': 6, **(pooling or {'pooling_mode': 'mean'})}))
    if prompts is not None:
        (folder / 'config_sentence_transformers.json').write_text(json.dumps(prompts))
    return folder


def test_a_plain_folder_says_nothing(tmp_path):
    assert retriever_folder.describe(tmp_path) == retriever_folder.RetrieverDescription(tmp_path)


@pytest.mark.parametrize('pooling', contriever.POOLINGS)
@pytest.mark.parametrize('normalize', [False, True])
def test_round_trip(tmp_path, pooling, normalize):
    written = retriever_folder.RetrieverDescription(tmp_path, pooling, normalize, 5, 31, 'query: ', 'passage: ')
    retriever_folder.write(tmp_path, written, 6)
    assert retriever_folder.describe(tmp_path) == written


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path):
    write_modules(tmp_path)
    modules = json.loads((tmp_path / 'modules.json').read_text())
    modules[0]['path'] = '0_Transformer'
    (tmp_path / 'modules.json').write_text(json.dumps(modules))
    (tmp_path / '0_Transformer').mkdir()
    (tmp_path / '0_Transformer' / 'sentence_bert_config.json').write_text(json.dumps({'max_seq_length': 37}))
    found = retriever_folder.describe(tmp_path)
    assert found.bert_folder == tmp_path / '0_Transformer' and found.max_tokens == 37


@pytest.mark.parametrize(('mode', 'switch', 'pooling'), [
    ('mean', 'pooling_mode_mean_tokens', 'average'), ('mean_sqrt_len_tokens', 'pooling_mode_mean_sqrt_len_tokens', 'sqrt'),
    ('cls', 'pooling_mode_cls_token', 'cls'), ('max', 'pooling_mode_max_tokens', 'max'), ('lasttoken', 'pooling_mode_lasttoken', 'last'),
    ('weightedmean', 'pooling_mode_weightedmean_tokens', 'weighted')])
def test_poolings_by_their_new_and_their_old_names(tmp_path, mode, switch, pooling):
    assert retriever_folder.describe(write_modules(tmp_path, pooling_mode=mode)).pooling == pooling
    assert retriever_folder.describe(write_modules(tmp_path, **{switch: True})).pooling == pooling


@pytest.mark.parametrize(('prompts', 'default', 'query', 'passage'), [
    ({'query': 'query: ', 'document': 'passage: '}, None, 'query: ', 'passage: '),
    ({'query': 'query: ', 'passage': 'passage: '}, None, 'query: ', 'passage: '),
    ({'query': 'query: ', 'document': '', 'passage': 'passage: '}, None, 'query: ', 'passage: '),  # as the library saves the line above
    ({'query': 'find: ', 'document': None}, 'query', 'find: ', ''),
    ({'similar': 'same: '}, 'similar', 'same: ', 'same: '),
    ({'similar': 'same: '}, None, '', ''), ({}, None, '', ''), (None, None, '', '')])
def test_prompts(tmp_path, prompts, default, query, passage):
    found = retriever_folder.describe(write_modules(tmp_path, prompts={'prompts': prompts, 'default_prompt_name': default}))
    assert (found.query_prompt, found.passage_prompt) == (query, passage)


@pytest.mark.parametrize(('similarity', 'kinds', 'normalize'), [
    ('cosine', KINDS[:2], True), ('dot', KINDS[:2], False), (None, KINDS[:2], False), ('dot', KINDS, True)])
def test_cosine_is_the_inner_product_of_normalised_embeddings(tmp_path, similarity, kinds, normalize):
    assert retriever_folder.describe(write_modules(tmp_path, kinds, {'similarity_fn_name': similarity})).normalize is normalize


@pytest.mark.parametrize(('files', 'limit'), [
    ({'sentence_bert_config.json': {'max_seq_length': 37}, 'tokenizer_config.json': {'model_max_length': 41}}, 37),
    ({'sentence_bert_config.json': {'max_seq_length': None}, 'tokenizer_config.json': {'model_max_length': 41}}, 41),
    ({'sentence_roberta_config.json': {'max_seq_length': 37}}, 37),
    ({'tokenizer_config.json': {'model_max_length': 1000000000000000019884624838656}}, None), ({}, None)])
def test_the_limit_of_an_input(tmp_path, files, limit):
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    assert retriever_folder.describe(write_modules(tmp_path)).max_tokens == limit


@pytest.mark.parametrize(('kinds', 'pooling', 'message'), [
    ((*KINDS[:2], 'Dense'), {}, "module type 'sentence_transformers.models.Dense' is not supported"),
    (('Transformer', 'Normalize', 'Pooling'), {}, 'modules are Transformer, Normalize, Pooling'),
    (('Transformer',), {}, 'modules are Transformer;'),
    ((*KINDS, 'Normalize'), {}, 'modules are'),
    (KINDS[:2], {'pooling_mode': 'median'}, 'pooling_mode is median'),
    (KINDS[:2], {'pooling_mode': ['cls', 'mean']}, 'pooling_mode is cls, mean'),
    (KINDS[:2], {'pooling_mode_mean_tokens': True, 'pooling_mode_cls_token': True}, 'exactly one'),
    (KINDS[:2], {'pooling_mode_mean_tokens': False}, 'pooling_mode is not set')])
def test_what_a_retriever_cannot_be(tmp_path, kinds, pooling, message):
    write_modules(tmp_path, kinds, **pooling)
    with pytest.raises(errors.ModelFolderError, match=re.escape(message)):
        retriever_folder.describe(tmp_path)


def test_modules_of_another_package_are_refused(tmp_path):
    write_modules(tmp_path, package='custom_st')
    with pytest.raises(errors.ModelFolderError, match="module type 'custom_st.Transformer' is not supported"):
        retriever_folder.describe(tmp_path)


def test_a_module_cannot_lie_elsewhere(tmp_path):
    write_modules(tmp_path)
    path = tmp_path / 'modules.json'
    path.write_text(path.read_text().replace('1_Pooling', '../1_Pooling'))
    with pytest.raises(errors.ModelFolderError, match='leads out of the folder'):
        retriever_folder.describe(tmp_path)


@pytest.mark.parametrize(('prompts', 'message'), [
    ({'prompts': ['query: ']}, 'expected an object of texts'), ({'prompts': {'query': 3}}, 'expected an object of texts'),
    ({'default_prompt_name': 'query'}, "default_prompt_name is 'query', but prompts has only none"),
    ({'similarity_fn_name': 'euclidean'}, "similarity_fn_name is 'euclidean'; only cosine and dot"),
    ({'truncate_dim': 0}, 'truncate_dim is 0'), ({'truncate_dim': True}, 'truncate_dim is True'),
    ({'model_type': 'SparseEncoder'}, "model_type is 'SparseEncoder'"), ({'router': {}}, "the key 'router'")])
def test_prompts_that_are_refused(tmp_path, prompts, message):
    write_modules(tmp_path, prompts=prompts)
    with pytest.raises(errors.ModelFolderError, match=re.escape(message)):
        retriever_folder.describe(tmp_path)


def test_a_prompt_that_is_left_out_of_the_pooling_is_refused_and_harmless_without_one(tmp_path):
    write_modules(tmp_path, prompts={'prompts': {'query': 'query: '}}, pooling_mode='mean', include_prompt=False)
    with pytest.raises(errors.ModelFolderError, match='include_prompt is False'):
        retriever_folder.describe(tmp_path)
    write_modules(tmp_path, prompts={}, pooling_mode='mean', include_prompt=False)
    assert retriever_folder.describe(tmp_path).pooling == 'average'


def test_prompts_without_modules_are_refused(tmp_path):
    write_modules(tmp_path, prompts={})
    (tmp_path / 'modules.json').unlink()
    with pytest.raises(errors.ModelFolderError, match=re.escape('no modules.json')):
        retriever_folder.describe(tmp_path)


def test_lower_case_must_be_that_of_the_tokenizer(tmp_path):
    write_modules(tmp_path)
    (tmp_path / 'sentence_bert_config.json').write_text(json.dumps({'do_lower_case': True}))
    assert retriever_folder.describe(tmp_path).pooling == 'average'
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': False}))
    with pytest.raises(errors.ModelFolderError, match='do_lower_case is true'):
        retriever_folder.describe(tmp_path)


def test_the_width_of_the_pooling_is_that_of_the_states(tmp_path):
    retriever_folder.check_width(tmp_path, 7)
    retriever_folder.check_width(write_modules(tmp_path), 6)
    with pytest.raises(errors.ModelFolderError, match='word_embedding_dimension is 6, but the states have 7'):
        retriever_folder.check_width(tmp_path, 7)


def test_broken_pooling(tmp_path):
    write_modules(tmp_path)
    (tmp_path / '1_Pooling' / 'config.json').write_text('[]')
    with pytest.raises(errors.ModelFolderError, match='expected a JSON object'):
        retriever_folder.describe(tmp_path)


@pytest.mark.parametrize('text', ['{}', '[3]', '['])
def test_broken_modules(tmp_path, text):
    (tmp_path / 'modules.json').write_text(text)
    with pytest.raises(errors.ModelFolderError, match='modules.json'):
        retriever_folder.describe(tmp_path)
