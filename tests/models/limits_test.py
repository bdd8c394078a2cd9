"""Every field of a configuration must have its declared type and be within its range; the error names it."""

import dataclasses
import time

import pytest

from atlas_jax import errors
from atlas_jax.models import atlas, contriever, limits, t5
from tests.testing import tiny_checkpoints

CONFIGS = (tiny_checkpoints.V11, tiny_checkpoints.BERT, atlas.InputConfig(), atlas.AtlasConfig(tiny_checkpoints.V11, tiny_checkpoints.BERT))
WRONG = (True, 1.5, 'x', [], {}, -1, 2**70, float('nan'))


def _changes():
    for config in CONFIGS:
        for field in dataclasses.fields(config):
            for value in WRONG:
                right = isinstance(value, str) and field.type in (str, str | None) and field.name not in limits.RANGES
                right |= field.type is bool and isinstance(value, bool)
                if not right or field.name in ('dtype', 'layer_norm', 'pooling'):
                    yield config, field.name, value


@pytest.mark.parametrize(('config', 'name', 'value'), list(_changes()))
def test_every_field_has_a_type_and_a_range(config, name, value):
    if (name, value) == ('mlp_activations', []):  # it becomes an empty tuple, which has its own test
        value = ('relu', 3)
    with pytest.raises(errors.ConfigError, match=f'{name}|mlp_activations') as caught:
        dataclasses.replace(config, **{name: value})
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(('changes', 'problem'), [
    ({'num_encoder_layers': 20_000}, 'num_encoder_layers is 20000; it must be at most 256'), ({'relpos_buckets': 1}, 'at least 4'),
    ({'relpos_max_distance': 16}, 'above half of relpos_buckets, 32'), ({'eos_id': 37}, 'below vocab_size, 37'),
    ({'vocab_size': 2**40}, 'at most'), ({'layer_norm_epsilon': 1}, 'below 1'), ({'dtype': 'int32'}, 'choose one of float32')])
def test_sizes_that_no_model_has(changes, problem):
    with pytest.raises(errors.ConfigError, match=problem):
        dataclasses.replace(tiny_checkpoints.V11, **changes)


def test_the_largest_models_are_within_the_ranges():
    t5.T5Config(vocab_size=250_112, emb_dim=4096, num_heads=128, head_dim=128, mlp_dim=65_536, num_encoder_layers=24, num_decoder_layers=24)
    contriever.ContrieverConfig(vocab_size=250_002, emb_dim=1024, num_heads=16, num_layers=24, mlp_dim=4096, max_positions=8194)


def test_a_forged_size_costs_no_time():
    start = time.process_time()
    for value in (2**31, 2**70):
        with pytest.raises(errors.ConfigError, match='num_layers'):
            dataclasses.replace(tiny_checkpoints.BERT, num_layers=value)
    assert time.process_time() - start < 1
