"""Folders of T5 and Contriever: round trips, prefixes, shards, half precision, and all refusals."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from atlas_jax import errors
from atlas_jax.conversion import hf, hf_names, retriever_folder
from atlas_jax.models import contriever, t5
from tests.testing import loaded, tiny_checkpoints

V11 = t5.T5Config(vocab_size=11, emb_dim=6, num_heads=2, head_dim=5, mlp_dim=7, num_encoder_layers=1, num_decoder_layers=2)
V10 = dataclasses.replace(V11, mlp_activations=('relu',), logits_via_embedding=True)
RETRIEVER = contriever.ContrieverConfig(vocab_size=11, emb_dim=6, num_heads=2, num_layers=1, mlp_dim=7, max_positions=5, pooling='sqrt',
                                        normalize=True)


@pytest.fixture(scope='module')
def params():
    return {config: tiny_checkpoints.model(config).params() for config in (V11, V10, RETRIEVER)}


def _tensors(folder):
    return safetensors.numpy.load_file(folder / 'model.safetensors')


def _save(folder, tensors):
    safetensors.numpy.save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / 'model.safetensors')


def _edit_config(folder, **changes):
    config = json.loads((folder / 'config.json').read_text()) | changes
    (folder / 'config.json').write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def _assert_equal(found, expected):
    found, expected = hf_names.flatten(found), hf_names.flatten(expected)
    assert set(found) == set(expected)
    for path, array in expected.items():
        assert found[path].dtype == np.float32
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.fixture
def reader(params, tmp_path):
    """A written T5 v1.1 folder."""
    hf.write_params(tmp_path, V11, params[V11])
    return tmp_path


@pytest.fixture
def retriever(params, tmp_path):
    """A written Contriever folder."""
    hf.write_params(tmp_path, RETRIEVER, params[RETRIEVER])
    return tmp_path


@pytest.mark.parametrize('config', [V10, V11])
def test_t5_round_trip(params, tmp_path, config):
    hf.write_params(tmp_path / 'new' / 'folder', config, params[config])
    found_config, found = loaded.t5(tmp_path / 'new' / 'folder')
    assert found_config == config
    _assert_equal(found, params[config])


@pytest.mark.parametrize('config', [RETRIEVER, dataclasses.replace(RETRIEVER, layer_norm='second_moment', pooling='cls', normalize=False)])
def test_contriever_round_trip(params, tmp_path, config):
    hf.write_params(tmp_path, config, params[RETRIEVER])
    found_config, found = loaded.contriever(tmp_path)
    assert found_config == config
    _assert_equal(found, params[RETRIEVER])


def test_layer_norm_can_be_told(retriever):
    assert loaded.contriever(retriever, layer_norm='second_moment')[0].layer_norm == 'second_moment'
    with pytest.raises(errors.ConfigError, match='layer_norm'):
        loaded.contriever(retriever, layer_norm='rms')


@pytest.mark.parametrize('prefix', ['', 'bert.', 'contriever.'])
def test_prefixes_pooler_heads_and_buffers(params, retriever, prefix):
    tensors = {prefix + name: tensor for name, tensor in _tensors(retriever).items()}
    tensors |= {f'{prefix}pooler.dense.weight': np.zeros((6, 6)), f'{prefix}embeddings.position_ids': np.zeros((1, 5), np.int64),
                'cls.predictions.bias': np.zeros(11)}
    _save(retriever, tensors)
    _assert_equal(loaded.contriever(retriever)[1], params[RETRIEVER])


def test_plain_bert_folder_is_averaged(params, retriever):
    for name in ('modules.json', 'config_sentence_transformers.json'):
        (retriever / name).unlink()
    _edit_config(retriever, pooling=None, normalize=None)
    config, _ = loaded.contriever(retriever)
    assert (config.pooling, config.normalize) == ('average', False)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(params, reader, dtype):
    _save(reader, {name: tensor.astype(dtype) for name, tensor in _tensors(reader).items()})
    found = loaded.t5(reader)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype('float32')}
    np.testing.assert_allclose(found['token_embedder']['embedding'], params[V11]['token_embedder']['embedding'], rtol=1e-2)


def _shard(folder):
    tensors = sorted(_tensors(folder).items())
    (folder / 'model.safetensors').unlink()
    weight_map = {}
    for i in range(3):
        file = f'model-{i}.safetensors'
        safetensors.numpy.save_file(dict(tensors[i::3]), folder / file)
        weight_map |= {name: file for name, _ in tensors[i::3]}
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    return weight_map


def test_shards(params, reader):
    _shard(reader)
    _assert_equal(loaded.t5(reader)[1], params[V11])


def test_a_missing_shard_is_named(reader):
    _shard(reader)
    (reader / 'model-1.safetensors').unlink()
    with pytest.raises(errors.ModelFolderError, match='model-1.safetensors: no such file'):
        loaded.t5(reader)


def test_a_shard_outside_the_folder_is_refused(reader):
    weight_map = _shard(reader)
    weight_map['shared.weight'] = '../other.safetensors'
    (reader / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    with pytest.raises(errors.ModelFolderError, match='not a file name in this folder'):
        loaded.t5(reader)


def test_copies_of_the_embedding_are_accepted_and_compared(params, reader):
    tensors = _tensors(reader)
    shared = tensors.pop('shared.weight')
    _save(reader, tensors | {'encoder.embed_tokens.weight': shared, 'decoder.embed_tokens.weight': shared})
    _assert_equal(loaded.t5(reader)[1], params[V11])
    _save(reader, tensors | {'shared.weight': shared, 'decoder.embed_tokens.weight': shared + 1})
    with pytest.raises(errors.ModelFolderError, match='decoder.embed_tokens.weight differs from shared.weight'):
        loaded.t5(reader)


def test_a_tied_output_must_equal_the_embedding(params, tmp_path):
    hf.write_params(tmp_path, V10, params[V10])
    tensors = _tensors(tmp_path)
    _save(tmp_path, tensors | {'lm_head.weight': tensors['shared.weight']})
    _assert_equal(loaded.t5(tmp_path)[1], params[V10])
    _save(tmp_path, tensors | {'lm_head.weight': tensors['shared.weight'] + 1})
    with pytest.raises(errors.ModelFolderError, match='set "tie_word_embeddings": false'):
        loaded.t5(tmp_path)


def test_transformers_5_says_untied_in_its_own_way(reader):
    _edit_config(reader, tie_word_embeddings=True, scale_decoder_outputs=False)
    assert loaded.t5(reader)[0] == V11


def test_missing_extra_and_misshapen_parameters_are_named(reader):
    tensors = _tensors(reader)
    name = 'decoder.block.1.layer.1.EncDecAttention.k.weight'
    _save(reader, {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(errors.ModelFolderError, match=rf'lacks parameters {name} \[10, 6\], expected by config.json'):
        loaded.t5(reader)
    _save(reader, tensors | {'encoder.block.9.layer.0.layer_norm.weight': np.zeros(6)})
    with pytest.raises(errors.ModelFolderError, match=r'has unknown parameters encoder\.block\.9\S+ \[6\], not'):
        loaded.t5(reader)
    _save(reader, tensors | {name: np.zeros((6, 10), np.float32)})
    with pytest.raises(errors.ModelFolderError, match=r'k\.weight has shape \[6, 10\], expected \[10, 6\]'):
        loaded.t5(reader)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'model_type': 'bert'}, "model_type is 'bert', expected 't5'"), ({'model_type': None}, 'model_type is None'),
    ({'d_model': None}, 'd_model is None'), ({'d_ff': 'big'}, "d_ff is 'big', expected an integer"),
    ({'feed_forward_proj': 'gated-tanh'}, "feed_forward_proj is 'gated-tanh'"), ({'eos_token_id': [1, 2]}, 'eos_token_id'),
    ({'dropout_rate': 'low'}, "dropout_rate is 'low'"), ({'num_heads': 0}, 'num_heads is 0, expected an integer of at least 1')])
def test_bad_t5_config(reader, changes, message):
    _edit_config(reader, **changes)
    with pytest.raises(errors.ModelFolderError, match=message):
        loaded.t5(reader)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'model_type': 't5'}, "model_type is 't5', expected 'bert'"), ({'hidden_act': 'relu'}, "hidden_act is 'relu'"),
    ({'position_embedding_type': 'relative_key'}, 'position_embedding_type')])
def test_bad_bert_config(retriever, changes, message):
    _edit_config(retriever, **changes)
    with pytest.raises(errors.ModelFolderError, match=message):
        loaded.contriever(retriever)


def test_missing_and_broken_files(reader):
    with pytest.raises(errors.ModelFolderError, match='no such file'):
        loaded.t5(reader / 'nowhere')
    whole = (reader / 'model.safetensors').read_bytes()
    for broken in (b'', b'not safetensors', whole[:-7], whole[:40]):
        (reader / 'model.safetensors').write_bytes(broken)
        with pytest.raises(errors.ModelFolderError, match='not a whole safetensors file'):
            loaded.t5(reader)
    (reader / 'model.safetensors').unlink()
    with pytest.raises(errors.ModelFolderError, match='found neither'):
        loaded.t5(reader)
    (reader / 'pytorch_model.bin').write_bytes(b'')
    with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
        loaded.t5(reader)
    for text in ('{"d_model": ', '[]'):
        (reader / 'config.json').write_text(text)
        with pytest.raises(errors.ModelFolderError, match='config.json'):
            loaded.t5(reader)


def test_activations_without_a_name_are_refused_before_writing(params, tmp_path):
    with pytest.raises(errors.ConfigError, match='no name at Hugging Face'):
        hf.write_params(tmp_path / 'x', dataclasses.replace(V11, mlp_activations=('relu', 'gelu')), params[V11])
    assert not (tmp_path / 'x').exists()


def test_an_mt5_has_an_output_of_its_own_whatever_its_file_says(params, reader):
    _edit_config(reader, model_type='mt5', tie_word_embeddings=True, feed_forward_proj=None)
    config, found = loaded.t5(reader)
    assert config == V11 and not config.logits_via_embedding and config.mlp_activations == ('gelu', 'linear')
    _assert_equal(found, params[V11])


def test_a_dimension_above_the_states_keeps_them_whole(retriever):
    path = retriever / 'config_sentence_transformers.json'
    for truncate_dim, expected in ((5, 5), (6, None), (700, None)):
        path.write_text(json.dumps({'truncate_dim': truncate_dim}))
        assert loaded.contriever(retriever)[0].truncate_dim == expected


@pytest.mark.parametrize(('changes', 'problem'), [
    ({'feed_forward_proj': []}, 'feed_forward_proj is \\[\\]; known are'), ({'feed_forward_proj': {'a': 1}}, 'a value of type dict'),
    ({'relative_attention_num_buckets': 1}, 'relpos_buckets is 1; it must be at least 4'), ({'num_layers': 20_000}, 'at most 256'),
    ({'vocab_size': 2**31}, 'at most'), ({'dropout_rate': True}, 'expected a number'),
    ({'tie_word_embeddings': 'no'}, 'expected true or false'),
    ({'scale_decoder_outputs': 0}, 'expected true or false'), ({'model_type': []}, 'model_type is \\[\\]'),
    ({'eos_token_id': 37}, 'below vocab_size')])
def test_values_that_no_t5_has_name_the_file(tmp_path, changes, problem):
    (tmp_path / 'config.json').write_text(json.dumps(hf.t5_json(V11) | {'vocab_size': 37} | changes))
    with pytest.raises(errors.ModelFolderError, match=f'config.json: .*{problem}'):
        hf.read_t5_config(tmp_path)


@pytest.mark.parametrize(('changes', 'problem'), [
    ({'num_hidden_layers': 2**31}, 'at most 256'), ({'layer_norm': []}, 'layer_norm is'), ({'pooling': {}}, 'pooling is'),
    ({'normalize': 1}, 'true or false'),
    ({'hidden_act': []}, 'hidden_act is \\[\\]'), ({'num_attention_heads': 7}, 'multiple')])
def test_values_that_no_retriever_has_name_the_file(tmp_path, changes, problem):
    (tmp_path / 'config.json').write_text(json.dumps(hf.contriever_json(tiny_checkpoints.BERT) | changes))
    with pytest.raises(errors.ModelFolderError, match=f'config.json: .*{problem}'):
        hf.read_contriever_config(retriever_folder.RetrieverDescription(tmp_path), None)


def test_prompts_and_limits_are_written_and_read(params, tmp_path):
    config = dataclasses.replace(RETRIEVER, query_prompt='query: ', passage_prompt='passage: ', max_tokens=4, truncate_dim=3,
                                 pooling='last')
    hf.write_params(tmp_path, config, params[RETRIEVER])
    assert loaded.contriever(tmp_path)[0] == dataclasses.replace(config, dropout_rate=0.1)
