"""Our side of a comparison against what the original recorded (fixtures/parity/README.md)."""

import json

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.compare import inputs as compare_inputs
from atlas_jax.compare import ours as compare_ours
from atlas_jax.steps import spec as spec_lib
from tests.testing import streams

PARITY = streams.FIXTURES / 'parity'


@pytest.fixture(scope='module')
def setting():
    configs, params = compare_ours.load_models(str(PARITY / 'reader_v11'), str(PARITY / 'contriever'), None, 'second_moment')
    return configs, params, compare_inputs.read(PARITY / 'inputs.npz')


def test_every_quantity_is_what_the_original_recorded(setting):
    configs, params, arrays = setting
    spec = compare_ours.make_spec(configs.reader, configs.retriever, arrays, spec_lib.DistillConfig('pdist', 0.1, 0.1))
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
