"""Over-retrieval with filtering, re-ranking, int8 search and given passages inside the step, on a tiny Atlas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.searchers import int8
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import state, train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=10)
MESH = partitioning.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def params():
    return tiny.params()


@pytest.fixture(scope='module')
def known():
    return jax.tree.map(jnp.asarray, tiny.knowledge())


def spec_of(known, search, distill=None):
    return spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, MESH, tiny.lengths(known), 4, distill, search=search)


def find(params, known, search, batch, retrieved=None):
    spec = spec_of(known, search)
    run = jax.jit(lambda params, batch, known, retrieved: retrieve.find(params, batch, known, spec, retrieved, params))
    return jax.device_get(run(params['retriever'], batch, known, retrieved))


def excluding(batch, ids):
    return jax.tree.map(jnp.asarray, batch.replace(excluded_passage_ids=np.asarray(ids, np.int32)))


def test_an_examples_own_passage_is_filtered_out_and_others_move_up(params, known):
    batch = tiny.batch(4)
    every = find(params, known, SearchConfig(), excluding(batch, np.full((4, 2), -1)))
    own = np.stack([every.passage_ids[:, 0], np.full(4, -1)], axis=1)
    own[3] = every.passage_ids[3, [1, 2]]
    rest = find(params, known, SearchConfig(filtering_overretrieve_ratio=1), excluding(batch, own))
    np.testing.assert_array_equal(rest.passage_ids[:3, :2], every.passage_ids[:3, 1:])
    assert rest.passage_ids[3, 0] == every.passage_ids[3, 0]
    assert not (rest.passage_ids[:, :, None] == own[:, None]).any() and np.isfinite(rest.scores).all()


def test_candidates_are_put_in_the_order_of_fresh_embeddings(params, known):
    batch = excluding(tiny.batch(4), [[5], [-1], [9], [-1]])
    spec = spec_of(known, SearchConfig(rerank_candidates=17))
    assert spec.candidates == 17 and spec.top_k == 3
    candidates = find(params, known, SearchConfig(), batch)
    assert candidates.passage_ids.shape == (4, 3)
    wide = spec_lib.make_step_spec(tiny.config(17), tiny.SEGMENTS, MESH, tiny.lengths(known), 4, None)
    candidates = jax.device_get(jax.jit(lambda p, b, k: retrieve.find(p, b, k, wide))(params['retriever'], batch, known))
    table = jax.tree.map(np.asarray, known.retriever_table)
    rows = np.array([[2, *table.tokens[row, :table.lengths[row]], 3][:37] for row in range(len(table.lengths))], dtype=object)
    width = max(map(len, rows))
    tokens = np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)
    stream = retrieve.pack(jnp.asarray(tokens)[:, None], jnp.asarray(lengths)[:, None], spec, int(lengths.sum()), width)
    fresh = np.asarray(jax.jit(lambda p, stream: retrieve.embed(p, stream, spec))(params['retriever'], stream))[0]
    queries = np.asarray(jax.jit(lambda p, batch: retrieve.embed_queries(p, batch, spec))(params['retriever'], batch))
    scores = np.take_along_axis(queries @ fresh.T, candidates.passage_ids, axis=1)
    order = np.argsort(-scores, axis=1)[:, :3]
    found = find(params, known, SearchConfig(rerank_candidates=17), batch)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, order, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found.passage_ids, np.take_along_axis(candidates.passage_ids, order, axis=1))
    given = find(params, known.replace(index=None), SearchConfig('scann', rerank_candidates=17), batch, candidates)
    np.testing.assert_array_equal(given.passage_ids, found.passage_ids)


def test_given_passages_are_read_as_if_they_were_found(params, known):
    batch, spec = jax.tree.map(jnp.asarray, tiny.batch(4)), spec_of(known, SearchConfig())
    host_spec = spec_of(known, SearchConfig('bm25'))
    assert not host_spec.needs_embeddings and spec.needs_embeddings
    searched = jax.jit(lambda p, b, k: retrieve.retrieve_and_assemble(p, b, k, spec))(params['retriever'], batch, known)
    given = jax.jit(lambda p, b, k, r: retrieve.retrieve_and_assemble(p, b, k, host_spec, r))(
        params['retriever'], batch, known.replace(index=None), searched.retrieved)
    jax.tree.map(np.testing.assert_array_equal, given, searched)


def test_every_option_in_one_program_on_the_device(params, known):
    search = SearchConfig('int8', rerank_candidates=7, filtering_overretrieve_ratio=2)
    spec = spec_of(known, search, spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1))
    spec = dataclasses.replace(spec, read=spec.read[-1:], embedded=spec.embedded[-1:], scored=spec.scored[-1:])  # one to compile
    assert spec.needs_retriever_tokens
    known = known.replace(scanned=int8.scanned_rows(known.index, spec.mesh))
    step = train_step.make_train_step(spec, OPTIMIZER)
    current = state.create(params, spec, train_step.optimizer_for(spec, OPTIMIZER))
    batches = [excluding(tiny.batch(4, seed), [[seed], [-1], [7], [8]]) for seed in range(2)]
    text = step.lower(current, batches[0], known).compile().as_text()
    assert not [word for word in ('callback', 'infeed', 'outfeed') if word in text]
    for batch in batches:
        current, metrics = step(current, batch, known)
        assert np.isfinite(float(metrics['loss']))
    assert step._cache_size() == 1
