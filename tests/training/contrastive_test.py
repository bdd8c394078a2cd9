"""The options of contrastive training: refused values, and the capacities of its step."""

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import contrastive
from tests.testing import tiny

LENGTHS = (np.array([5, 9, 14]), np.array([4, 8, 20]))


def _spec(batch_size=12, step=None, **options):
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    given = contrastive.ContrastiveConfig(**{'queue_size': 24, **options})
    return contrastive.make_contrastive_spec(tiny.RETRIEVER, mesh, LENGTHS, (16, 24), batch_size, given, step, passages_each=1)


@pytest.mark.parametrize(('options', 'message'), [
    ({'method': 'simclr'}, 'choose one of moco, inbatch'), ({'momentum_schedule': 'step'}, 'choose one of constant, cosine'),
    ({'queue_size': 0}, 'at least 1'), ({'chunks': 0}, 'at least 1'), ({'momentum': 1.0}, 'below 1'),
    ({'label_smoothing': -0.1}, 'at least 0'),
    ({'temperature': float('nan')}, 'finite and greater than 0'), ({'hard_negatives': 2}, 'those of its queue: choose "inbatch"'),
    ({'ratio_max': 2.0}, 'ContrastiveConfig: ratio_min')])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(errors.ConfigError, match=message):
        contrastive.ContrastiveConfig(**options)


def test_batches_and_queues_that_do_not_divide_are_refused():
    with pytest.raises(errors.ConfigError, match='1 devices times 5 chunks; choose a multiple of 5'):
        _spec(chunks=5)
    with pytest.raises(errors.ConfigError, match='queue_size 24 is not a multiple of batch_size 10, .*such as 30'):
        _spec(batch_size=10)
    with pytest.raises(errors.ConfigError, match='batch_size 12 does not divide over 8 devices; choose a multiple of 8'):
        contrastive.check(contrastive.ContrastiveConfig(queue_size=36), spec_lib.StepConfig(), 12, 8)
    with pytest.raises(errors.ConfigError, match='accumulation_steps is 2; .* set ContrastiveConfig.chunks'):
        _spec(step=spec_lib.StepConfig(2))
    assert _spec(batch_size=10, method='inbatch').batch_size == 10  # there is no queue


def test_a_chunk_has_room_for_its_part_of_the_batch():
    whole, parts = _spec(), _spec(chunks=4)
    assert whole.queries[-1].stream_tokens == 12 * 16 and parts.queries[-1].stream_tokens == 3 * 16
    assert len(whole.queries) == len(whole.passages) and parts.passages[-1].longest == 24
    assert whole.trains and whole.retriever.config.emb_dim == tiny.RETRIEVER.emb_dim
