"""The retriever against numbers recorded from the original (fixtures/parity/README.md)."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax.models import contriever
from tests.testing import loaded, streams

pytestmark = pytest.mark.optimized

PARITY = streams.FIXTURES / 'parity'
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def model():
    return loaded.contriever(PARITY / 'contriever', layer_norm='second_moment')


def _inputs(what: str):
    inputs = np.load(PARITY / 'inputs.npz')
    ids, mask = inputs[f'{what}_ids'][0], inputs[f'{what}_mask'][0]
    return ids.reshape(-1, ids.shape[-1]), mask.reshape(-1, ids.shape[-1]).sum(axis=-1)


@pytest.mark.parametrize('what', ['query', 'passage'])
@pytest.mark.parametrize('pooling', ['average', 'sqrt', 'cls'])  # the original's; sentence_transformers_test.py has the others
@pytest.mark.parametrize('normalize', [False, True])
def test_embeddings(model, what, pooling, normalize):
    config, params = model
    model = contriever.Contriever(dataclasses.replace(config, pooling=pooling, normalize=normalize))
    with jax.default_matmul_precision('highest'):
        found = jax.jit(model.apply)({'params': params}, streams.flat(*_inputs(what)))[0]
    name = f'{what}_{pooling}_{"norm" if normalize else "raw"}'
    assert streams.error(found, np.load(PARITY / 'contriever.npz')[f'{name}__f64']) <= TOLERANCE


def test_states_of_every_layer(model):
    config, params = model
    recorded, (ids, lengths) = np.load(PARITY / 'contriever.npz'), _inputs('query')
    for layers in range(1, config.num_layers + 1):
        model = contriever.Bert(dataclasses.replace(config, num_layers=layers))
        dropped = {f'layers_{i}' for i in range(layers, config.num_layers)}
        first = {name: value for name, value in params['bert'].items() if name not in dropped}
        with jax.default_matmul_precision('highest'):
            found = jax.jit(model.apply)({'params': first}, streams.padded(ids, lengths))
        real = np.arange(ids.shape[1]) < lengths[:, None]
        assert streams.error(np.asarray(found)[real], recorded[f'query_hidden_{layers}'][real]) <= TOLERANCE


def test_a_true_layer_norm_gives_other_embeddings(model):
    """The difference that the option makes: about 2 % in released checkpoints."""
    config, params = model
    model = contriever.Contriever(dataclasses.replace(config, layer_norm='true'))
    found = jax.jit(model.apply)({'params': params}, streams.flat(*_inputs('query')))[0]
    assert streams.error(found, np.load(PARITY / 'contriever.npz')['query_average_raw__f64']) > 1e-3
