"""The static side of a step: what follows from model, distillation and search, and which settings are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.models import atlas
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
LENGTHS = types.TokenLengths(np.array([3, 11, 17, 29]), np.array([5, 7, 19, 23]), np.array([2, 7]))


def make(n_context: int = 3, batch_size: int = 5, **options) -> spec_lib.StepSpec:
    return spec_lib.make_step_spec(tiny.config(n_context), tiny.SEGMENTS, MESH, LENGTHS, batch_size, **options)


def test_what_is_computed_again_depends_on_the_platform():
    trained = {'distill': spec_lib.DistillConfig()}
    assert make(lower_for='tpu', **trained).remat == ('encoder_dots', 'encoder_mlp', 'full')
    assert [make(lower_for=platform, **trained).remat for platform in ('gpu', 'cpu')] == [('full',), ('none',)]
    assert make(lower_for='tpu').remat == ('none',)  # an answer
    assert make(lower_for='tpu', step=spec_lib.StepConfig(remat='dots'), **trained).remat == ('dots',)


def test_names_and_aliases():
    for alias, name in (('ppmean', 'pdist'), ('evalnormssum', 'adist'), ('evalnormsum', 'adist'), ('adist', 'adist')):
        assert spec_lib.DistillConfig(alias).gold_score_mode == name
    assert len(spec_lib.GOLD_SCORE_MODES) == 4 + 48
    assert spec_lib.DistillConfig('loop').attention is None


@pytest.mark.parametrize('changes, message', [
    ({'gold_score_mode': 'best'}, 'DistillConfig.gold_score_mode is "best"; choose one of pdist, emdr'),
    ({'retriever_training': 'often'}, 'DistillConfig.retriever_training is "often"; choose one of joint'),
    ({'gold_scores': 'both'}, 'DistillConfig.gold_scores is "both"'),
    ({'temperature_gold': 0.0}, 'temperature_gold is 0.0; it must be finite and greater than 0'),
    ({'temperature_score': float('inf')}, 'temperature_score is inf'),
    ({'temperature_score': float('nan')}, 'temperature_score is nan'),
    ({'retriever_n_context': 0}, 'retriever_n_context is 0; it must be at least 1'),
    ({'freeze_retriever_steps': -1}, 'freeze_retriever_steps is -1; it must be at least 0')])
def test_distillation_that_cannot_be_is_refused(changes, message):
    with pytest.raises(errors.ConfigError) as raised:
        spec_lib.DistillConfig(**changes)
    assert message in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.parametrize('changes, message', [
    ({'remat': 'some'}, 'StepConfig.remat is "some"; choose one of auto, none'),
    ({'attention': 'fast'}, 'StepConfig.attention is "fast"'),
    ({'compute_dtype': 'float16'}, 'StepConfig.compute_dtype is "float16"; choose one of None, float32, bfloat16'),
    ({'param_dtype': 'int8'}, 'StepConfig.param_dtype is "int8"'),
    ({'accumulation_steps': 0}, 'accumulation_steps is 0; it must be at least 1')])
def test_steps_that_cannot_be_are_refused(changes, message):
    with pytest.raises(errors.ConfigError) as raised:
        spec_lib.StepConfig(**changes)
    assert message in str(raised.value)


def test_an_answer_step_scores_and_embeds_nothing():
    spec = make()
    assert (spec.passages_read, spec.passages_scored, spec.top_k, spec.candidates) == (3, 0, 3, 3)
    assert spec.scored == spec.embedded == spec.reranked == () and not spec.needs_retriever_tokens and spec.needs_embeddings
    with pytest.raises(AssertionError):
        _ = spec.distillation


def test_a_closed_book_reads_one_input_and_searches_nothing():
    spec = make(n_context=0)
    assert spec.closed_book and spec.passages_read == 1 and spec.top_k == 0 and not spec.needs_embeddings


def test_only_passages_that_are_not_read_are_encoded_for_gold_scores():
    shared = make(n_context=2, distill=spec_lib.DistillConfig(retriever_n_context=5))
    assert (shared.encoded_for_gold, shared.top_k) == (slice(2, 5), 5) and shared.scored
    exact = make(n_context=2, distill=spec_lib.DistillConfig(retriever_n_context=5, gold_scores='exact'))
    assert exact.encoded_for_gold == slice(0, 5)
    fewer = make(n_context=3, distill=spec_lib.DistillConfig(retriever_n_context=2))
    assert fewer.encoded_for_gold == slice(2, 2) and not fewer.scored
    attention = make(n_context=3, distill=spec_lib.DistillConfig('stdprobssum', retriever_n_context=5))
    assert (attention.passages_scored, attention.encoded_for_gold) == (3, slice(0, 0))


def test_every_stream_has_room_for_everything_at_its_last_level():
    spec = make(n_context=2, distill=spec_lib.DistillConfig(retriever_n_context=5))
    limits = {'read': (2, 40), 'scored': (3, 40), 'embedded': (5, 40)}
    for name, (passages, rounded_limit) in limits.items():
        last = getattr(spec, name)[-1]
        assert last.stream_tokens >= 5 * passages * last.longest and last.longest <= rounded_limit
    assert len(spec.read) == len(spec.scored) == len(spec.embedded)


def test_candidates_are_re_ranked_where_they_are_asked_for():
    spec = make(search=SearchConfig(rerank_candidates=7))
    assert spec.candidates == 7 and spec.reranked and spec.needs_retriever_tokens
    assert make(n_context=0, search=SearchConfig(rerank_candidates=7)).reranked == ()


def test_a_kernel_that_does_not_hold_the_inputs_is_refused():
    long = dataclasses.replace(tiny.config(), inputs=atlas.InputConfig(text_max_tokens=600, query_max_tokens=11))
    lengths = dataclasses.replace(LENGTHS, reader_passages=np.array([599]))
    with pytest.raises(errors.ConfigError, match='does not hold reader inputs of 600 tokens'):
        spec_lib.make_step_spec(long, tiny.SEGMENTS, MESH, lengths, 1, step=spec_lib.StepConfig(attention='flash'))


def test_the_platform_that_is_lowered_for_decides_the_attention():
    assert make().platform == 'cpu' and not make().flash
    for platform in ('gpu', 'tpu'):
        lowered = make(lower_for=platform)
        assert lowered.platform == platform and lowered.flash and lowered != make() and lowered.reader.unroll == 1
    assert not make(lower_for='gpu', step=spec_lib.StepConfig(attention='plain')).flash
    # cuDNN does not take the tiny reader's heads of 7.
    with pytest.raises(errors.ConfigError, match=r'cuDNN takes bfloat16 without dropout .* float32, dropout 0.0 and 7; set compute_dtype'):
        make(lower_for='gpu', step=spec_lib.StepConfig(attention='flash'))


def test_networks_compute_in_the_dtype_of_the_step():
    spec = make(step=spec_lib.StepConfig(compute_dtype='bfloat16', param_dtype='bfloat16'))
    assert spec.reader.config.dtype == spec.retriever.config.dtype == 'bfloat16' and spec.step.param_type == 'bfloat16'
    assert make().reader.config.dtype == tiny.READER.dtype and make().flash is False


def test_lengths_of_nothing_fall_back_to_the_limit():
    sample, bound = spec_lib.embedded_lengths(tiny.SEGMENTS.retriever, dataclasses.replace(LENGTHS, retriever_passages=np.zeros(0)), 31)
    assert len(sample) == 0 and bound == 31
    sample, bound = spec_lib.embedded_lengths(tiny.SEGMENTS.retriever, LENGTHS, 13)
    assert sample.max() == bound == 13
