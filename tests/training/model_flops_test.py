"""The models' FLOPs by formula against those counted on the program, where no token is padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning, types
from atlas_jax.apps.planning import program
from atlas_jax.models import atlas, parameters
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import model_flops, train_step
from tests.testing import tiny

BATCH, LIMIT, QUERY, TARGET = 4, 128, 32, 16
READER = dataclasses.replace(tiny.READER, emb_dim=256, num_heads=4, head_dim=48, mlp_dim=640, vocab_size=1000, num_decoder_layers=3)
RETRIEVER = dataclasses.replace(tiny.RETRIEVER, emb_dim=192, mlp_dim=768, num_heads=4, max_positions=LIMIT)
INPUTS = atlas.InputConfig(text_max_tokens=LIMIT, query_max_tokens=QUERY, target_max_tokens=TARGET)


def _full(*shape):
    return np.full(shape, 9, np.int32)


def _counted_and_computed(n_context=3, **distill):
    config = atlas.AtlasConfig(READER, RETRIEVER, INPUTS, n_context)
    at_limit = types.TokenLengths(np.array([LIMIT]), np.array([LIMIT]), np.array([QUERY]))
    spec = spec_lib.make_step_spec(config, tiny.SEGMENTS, partitioning.make_mesh(devices=jax.devices()[:1]), at_limit, BATCH,
                              spec_lib.DistillConfig(**distill), spec_lib.StepConfig(attention='plain'))
    lengths = np.full(BATCH, QUERY, np.int32)
    batch = types.Batch(retriever_query_tokens=_full(BATCH, QUERY), retriever_query_lengths=lengths, reader_query_lengths=lengths,
                        reader_query_tokens=_full(BATCH, QUERY), decoder_target_tokens=_full(BATCH, TARGET),
                        decoder_loss_weights=np.ones((BATCH, TARGET), np.float32), example_ids=np.arange(BATCH, dtype=np.int32))
    inputs = types.ReaderInputs(reader_tokens=_full(BATCH, spec.top_k or 1, LIMIT),
                                reader_lengths=np.full((BATCH, spec.top_k or 1), spec.read[-1].longest, np.int32))
    if spec.embeds_passages:
        inputs = inputs.replace(retriever_tokens=_full(BATCH, spec.passages_scored, LIMIT),
                                retriever_lengths=np.full((BATCH, spec.passages_scored), LIMIT, np.int32))
    elif spec.passages_scored:
        inputs = inputs.replace(passage_embeddings=np.zeros((BATCH, spec.passages_scored, RETRIEVER.emb_dim), np.float32))
    params = partitioning.unboxed_shapes(parameters.abstract_params(config))
    traced = jax.make_jaxpr(lambda params: train_step.loss_and_gradients(params, batch, inputs, spec))(params)
    # the queries' embedding for the search is no part of the loss
    search = 0 if spec.closed_book else float(model_flops.of_retriever(RETRIEVER, lengths))
    return program.flops(traced), float(model_flops.of_step(spec, jax.tree.map(jnp.asarray, batch), inputs)) - search


@pytest.mark.parametrize('options', [
    {'retriever_n_context': 3}, {'retriever_n_context': 5}, {'retriever_n_context': 2, 'gold_scores': 'exact'},
    {'gold_score_mode': 'loop', 'retriever_n_context': 3}, {'gold_score_mode': 'adist', 'retriever_n_context': 3},
    {'gold_score_mode': 'stdprobssum'}, {'gold_score_mode': 'emdr', 'retriever_n_context': 3},
    {'retriever_training': 'query_side', 'retriever_n_context': 3}, {'retriever_training': 'frozen'}, {'n_context': 0}],
    ids=lambda options: '-'.join(str(value) for value in options.values()))
def test_the_formula_is_what_the_program_does_without_padding(options):
    counted, computed = _counted_and_computed(**options)
    assert computed == pytest.approx(counted, rel=0.02)


def test_a_passage_of_half_the_tokens_takes_less_than_half():
    whole, half = (float(model_flops.of_passages(READER, np.array([tokens]))) for tokens in (LIMIT, LIMIT // 2))
    assert 0.4 * whole < half < 0.5 * whole
    assert float(model_flops.of_passages(READER, np.array([0, 0]))) == 0


def test_the_largest_readers_fit_into_the_numbers():
    sizes = {'emb_dim': 4096, 'num_heads': 64, 'head_dim': 64, 'mlp_dim': 10240, 'num_encoder_layers': 24, 'num_decoder_layers': 24,
             'vocab_size': 32128}
    reader = dataclasses.replace(READER, **sizes)
    encoder, decoder = (float(jax.jit(lambda tokens, of=of: of(reader, tokens))(jnp.array([512])))
                        for of in (model_flops.of_passages, lambda reader, tokens: model_flops.of_decoder(reader, tokens, tokens)))
    assert encoder == pytest.approx(2 * 512 * (24 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096 * 512) + 24 * 2 * 4096**2))
    assert decoder == pytest.approx(2 * 512 * (24 * (6 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096 * 1024) + 4096 * 32128))
