"""Tokens on the host: steps get the passages that the tables on the devices would give, and the tables stay away."""

import functools

import jax
import numpy as np
import pytest

from atlas_jax.answering import api, prepare
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.corpus.passages import Passage
from atlas_jax.evaluation import evaluate
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny_run

JOINT = spec_lib.DistillConfig(retriever_n_context=3)
QUERY_SIDE = spec_lib.DistillConfig(retriever_n_context=3, retriever_training='query_side')
EXACT, HOST = SearchConfig(), SearchConfig(tokens='host')


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0)


@pytest.fixture(scope='module')
def indexes(atlas, tmp_path_factory):
    """Two indexes, with a passage deleted and one replaced."""
    folder = tmp_path_factory.mktemp('knowledge')
    first = tiny_run.index(atlas, folder)
    first.delete(['d4'])
    first.replace([Passage('d5', 'thing 5', '', 'The thing 5 is pink .' * 5)], atlas)
    more = [Passage(f'm{i}', f'thing {i}', '', f'The thing {i} is grey .' * (1 + i % 3)) for i in range(5)]
    store = api.PassageStore.from_passages(more, folder / 'more', progress=False)
    return [first, api.Index.build(store, atlas, folder / 'more-index', show_progress=False)]


@pytest.fixture(scope='module')
def examples(atlas):
    """Questions, the first of which must not find the passage it was made from."""
    made = tiny_run.examples(atlas, 5)
    object.__setattr__(made[0], 'own_docid', 'd0')
    return made


@pytest.mark.parametrize('search, distill', [
    ({}, JOINT), ({'rerank_candidates': 7}, JOINT), ({'searcher': 'bm25'}, QUERY_SIDE),
    ({'rerank_candidates': 5, 'searcher': 'bm25'}, None),
], ids=str)
def test_steps_read_the_same_passages(atlas, indexes, examples, search, distill):
    if 'searcher' in search:
        pytest.importorskip('bm25s')
    params, found = atlas.device_params(), []
    for where in ('device', 'host'):
        prepared = prepare.prepare_examples(atlas, examples, indexes, 2, 8, distill=distill, search=SearchConfig(tokens=where, **search))
        assert (prepared.knowledge.reader_table is None) == (where == 'host') and prepared.spec.needs_retriever_tokens == (
            distill is JOINT or 'rerank_candidates' in search)
        run = jax.jit(functools.partial(retrieve.retrieve_and_assemble, spec=prepared.spec))
        batch, retrieved = prepared.batch(examples, 8, params)
        found.append(jax.device_get(run(params['retriever'], batch, prepared.knowledge, retrieved=retrieved)))
    device, host = found
    assert jax.tree.structure(device) == jax.tree.structure(host) and host.retrieved.reader_rows is None
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6), device, host)
    np.testing.assert_array_equal(host.reader_tokens, device.reader_tokens)
    first, rows = prepared.index.rows_of('d0', atlas.mesh), host.retrieved.passage_ids[np.isfinite(host.retrieved.scores)]
    assert first[0] not in host.retrieved.passage_ids[0] and rows.max() > 23  # the second index's too
    assert len(host.reader_lengths[host.reader_lengths > 0]) >= 10


def test_answers_evaluations_and_searches_are_the_same(atlas, indexes, examples, monkeypatch):
    answers = [atlas.answer(['what is thing 3 ?', 'red', 'thing 2'], indexes, search=search, batch_size=2) for search in (EXACT, HOST)]
    assert [(answer.text, [passage.docid for passage in answer.passages]) for answer in answers[0]] == [
        (answer.text, [passage.docid for passage in answer.passages]) for answer in answers[1]]
    assert answers[1][0].passages[0].score == pytest.approx(answers[0][0].passages[0].score)
    texts = [[answer.text for answer in evaluate.evaluate_examples(atlas, examples, indexes, batch_size=4, search=search).answers]
             for search in (EXACT, HOST)]
    assert texts[0] == texts[1] and len(texts[0]) == 5
    # Nothing is read where nothing but the search is asked for.
    monkeypatch.setattr(prepare.TokenRows, 'read', None)
    searched = [atlas.search(['thing 3'], indexes, 4, search) for search in (EXACT, HOST)]
    assert searched[0] == searched[1]


def test_the_next_search_is_handed_over_before_a_step(atlas, indexes, examples, monkeypatch):
    prepared, events = prepare.prepare_examples(atlas, examples, indexes, 2, 2, search=HOST), []
    begin = PreparedExamples.begin

    def beginning(self, drawn, size, params, ahead=False):
        events.append('search')
        return begin(self, drawn, size, params, ahead)

    def step(params, batch, knowledge, retrieved):
        events.append('step')
        return batch.example_ids, retrieved.reader_rows.lengths

    monkeypatch.setattr(PreparedExamples, 'begin', beginning)
    found = list(prepared.run(step, atlas.device_params(), examples, 2))
    assert events == ['search', 'search', 'step', 'search', 'step', 'step']
    assert [ids.tolist() for _, (ids, _) in found] == [[0, 1], [2, 3], [4, -1]]


def test_an_error_of_the_thread_is_the_callers(atlas, indexes, examples, monkeypatch):
    prepared = prepare.prepare_examples(atlas, examples, indexes, 2, 2, search=HOST)
    monkeypatch.setattr(prepare.TokenRows, 'read', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(prepared.run(lambda *_: 1, atlas.device_params(), examples, 2))


