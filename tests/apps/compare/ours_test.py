"""Our side of a comparison against recordings of the original (fixtures/parity/README.md)."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.compare import ours as compare_ours
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.conversion import hf
from atlas_jax.models import contriever
from atlas_jax.steps import spec as spec_lib
from tests.testing import loaded, streams, tiny

PARITY = streams.FIXTURES / 'parity'


@pytest.fixture(scope='module')
def setting():
    configs, params = compare_ours.load_models(str(PARITY / 'reader_v11'), str(PARITY / 'contriever'), None, 'second_moment')
    return configs, params, compare_inputs.read(PARITY / 'inputs.npz')


def test_every_quantity_is_what_the_original_recorded(setting):
    configs, params, arrays = setting
    spec = compare_ours.make_compared_spec(configs.reader, configs.retriever, arrays, spec_lib.DistillConfig('pdist', 0.1, 0.1))
    found = compare_ours.all_outputs(params, spec, arrays, max_length=12, grads=True)
    assert {name.split('/')[0] for name in found} == {'0', '1', '2', '3'} and len(found) == 4 * (9 + 75 + 53)
    records, fid = json.loads((PARITY / 'losses_v11.json').read_text())['records'], np.load(PARITY / 'fid_v11.npz')
    for name in ('reader_loss', 'retriever_score', 'gold_score', 'retriever_loss'):
        assert streams.error(found[f'0/{name}'], records[0][f'{name}_f64']) <= 1e-5, name
    assert streams.error(found['0/logits'], fid['b0_n5_logits']) <= 1e-5
    real = arrays['reader_mask'][0].reshape(3, 240) > 0
    assert streams.error(found['0/encoder_states'][real], fid['b0_n5_encoder'][real]) <= 1e-5
    assert (found['0/encoder_states'][~real] == 0).all()
    embeddings = np.load(PARITY / 'contriever.npz')
    assert streams.error(found['0/query_embeddings'], embeddings['query_average_raw__f64']) <= 1e-5
    assert streams.error(found['0/passage_embeddings'].reshape(15, 64), embeddings['passage_average_raw__f64']) <= 1e-5
    assert found['0/generated'].tolist() == json.loads((PARITY / 'generation_v11.json').read_text())['records'][0]['sequences']
    gradients = np.load(PARITY / 'grads_v11.npz')
    for name in gradients.files:
        if name.startswith('reader/'):
            assert streams.error(found[f'0/grads/{name}'], gradients[name]) <= 5e-5, name
        elif name.startswith('ppmean_t0.1/') and not name.endswith('key.bias'):
            ours = f'0/grads/retriever/{name.removeprefix("ppmean_t0.1/contriever.")}'
            assert streams.error(found[ours], gradients[name]) <= 5e-5, name


def test_tokens_that_a_model_lacks(setting):
    configs, _, arrays = setting
    with pytest.raises(errors.ConfigError, match='reader_ids has token 512, but the reader only 512'):
        compare_ours.check_tokens(configs, arrays | {'reader_ids': np.where(arrays['reader_ids'] == 4, 512, arrays['reader_ids'])})
    long = {name: np.ones((1, 1, 513), np.int32) for name in ('query_ids', 'query_mask')}
    with pytest.raises(errors.ConfigError, match='query_ids has 513 tokens in a row, but the retriever has 512 positions'):
        compare_ours.check_tokens(configs, long)


ARRAYS = compare_inputs.random(2, 3, 10, 4, reader_vocab=50, retriever_vocab=40)


def test_a_batch_of_the_arrays():
    batch, inputs = compare_ours.batch_of(ARRAYS, 1)
    assert np.array_equal(inputs.reader_tokens, ARRAYS['reader_ids'][1]) and inputs.reader_tokens.shape == (2, 3, 12)
    assert np.array_equal(inputs.retriever_lengths, ARRAYS['passage_mask'][1].sum(axis=-1))
    assert np.array_equal(batch.decoder_loss_weights, ARRAYS['target_mask'][1]) and batch.example_ids.tolist() == [0, 1]
    assert batch.reader_query_lengths.tolist() == [0, 0]
    masked = ARRAYS | {'query_mask_reader': np.tile(np.arange(5) < 4, (4, 2, 1)).astype(np.int32)}
    batch, _ = compare_ours.batch_of(masked, 0)
    assert batch.reader_query_lengths.tolist() == [4, 4] and np.array_equal(batch.reader_query_tokens, ARRAYS['reader_ids'][0, :, 0, :5])


def test_parts_that_are_missing_have_one_token():
    batch, inputs = compare_ours.batch_of({name: ARRAYS[name] for name in ('reader_ids', 'reader_mask')}, 3)
    assert batch.decoder_target_tokens.tolist() == batch.retriever_query_tokens.tolist() == [[1], [1]]
    assert inputs.retriever_tokens is None


def test_streams_just_hold_the_fullest_batch_and_nothing_has_dropout():
    reader, retriever = dataclasses.replace(tiny.READER, dropout_rate=0.3), dataclasses.replace(tiny.RETRIEVER, dropout_rate=0.3)
    spec = compare_ours.make_compared_spec(reader, retriever, ARRAYS, spec_lib.DistillConfig('loop'))
    lengths = ARRAYS['reader_mask'].sum(axis=-1)
    assert [(capacity.stream_tokens, capacity.longest) for capacity in spec.read] == [(lengths.sum(axis=(1, 2)).max(), lengths.max())]
    assert spec.config.reader.dropout_rate == spec.config.retriever.dropout_rate == 0
    assert spec.distill.gold_score_mode == 'loop' and spec.distill.retriever_n_context == 3 and len(spec.embedded) == 1
    assert len(compare_ours.make_compared_spec(reader, retriever, ARRAYS, spec_lib.DistillConfig(), as_trained=True).read) > 1


def test_a_reader_alone_has_no_distillation():
    spec = compare_ours.make_compared_spec(tiny.READER, None, ARRAYS, spec_lib.DistillConfig())
    assert spec.distill is None and spec.embedded == () and spec.config.retriever.vocab_size == compare_ours.NO_RETRIEVER.vocab_size


def test_states_are_laid_out_as_the_inputs():
    states = np.arange(1 * 2 * 3 * 2.0).reshape(1, 2, 3, 2)
    assert compare_ours._to_width(states, 4).shape == (1, 8, 2)
    assert compare_ours._to_width(states, 2)[0, :, 0].tolist() == [0, 2, 6, 8]  # cut at two tokens a passage


def test_an_untied_model_embeds_passages_by_their_own_encoder(tmp_path):
    for name, source in (('reader', 'reader_v11'), ('retriever', 'contriever'), ('passage_encoder', 'contriever')):
        shutil.copytree(PARITY / source, tmp_path / name)
    config, params = loaded.contriever(tmp_path / 'passage_encoder', 'second_moment')
    hf.write_params(tmp_path / 'passage_encoder', config, jax.tree.map(lambda leaf: 1.5 * leaf, params))
    side = compare_ours.JaxSide()
    side.models(None, None, str(tmp_path), 'second_moment')
    arrays = compare_inputs.random(2, 3, 11, 1, reader_vocab=side._configs.reader.vocab_size, retriever_vocab=config.vocab_size)
    compare_inputs.write(tmp_path / 'inputs.npz', arrays)
    side.inputs(str(tmp_path / 'inputs.npz'))
    assert side._spec.trains_passage_encoder and set(side._params) == {'reader', 'retriever', 'passage_encoder'}
    side.outputs(str(tmp_path / 'out.npz'), 0, False)
    with np.load(tmp_path / 'out.npz') as file:
        found = file['0/passage_embeddings']  # [batch, n, dim]
    expected = []
    ids, lengths = (arrays['passage_ids'][0].reshape(6, -1), arrays['passage_mask'][0].sum(axis=-1).reshape(6))
    expected = jax.jit(contriever.Contriever(config).apply)({'params': side._params['passage_encoder']}, streams.padded(ids, lengths))
    np.testing.assert_allclose(found.reshape(6, -1), np.asarray(expected).reshape(6, -1), rtol=1e-4, atol=1e-5)
    exported = side.export(str(tmp_path / 'exported'))
    assert set(exported) == {'reader', 'retriever', 'passage_encoder'}


def test_models_must_be_given():
    with pytest.raises(errors.ConfigError, match='--model DIR, or --reader DIR'):
        compare_ours.load_models(None, None, None, None)
