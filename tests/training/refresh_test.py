"""The index keeps up with its encoder: the schedule fires as recorded, and refreshed rows equal those embedded again."""

import dataclasses
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.runtime import notes
from atlas_jax.searchers import int8
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from tests.testing import tiny

RECORDED = json.loads((pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'index_refresh.json').read_text())


@pytest.mark.parametrize('record', RECORDED, ids=lambda record: f'{record["format"]} frozen {record["freeze_retriever_steps"]}')
def test_the_schedule_is_due_as_recorded(record):
    if 'error' in record or isinstance(record['refresh'][0], str):  # what the original fails at
        with pytest.raises(errors.ConfigError, match='0-1000:500'):
            refresh.RefreshConfig(schedule=record['format'])
        return
    assert [list(interval) for interval in refresh.parse_schedule(record['format'])] == record['parsed']
    due = [refresh.is_due(record['format'], step, record['freeze_retriever_steps']) for step in range(len(record['refresh']))]
    assert due == record['refresh']


@pytest.mark.parametrize('schedule', ['-2', '0', '', ' ', 'never', '1.5', '+3', '1_000', '\u0663', '10,20', '-1,0-10:5', '0-10', '0-10:0',
                                      '0-10:-2', '10-10:1', '20-10:5', '0-10:5,', '-5-10:1', 'a-b:c', '0-10:5:5', -2, None, True])
def test_a_schedule_without_a_meaning_is_refused(schedule):
    with pytest.raises(errors.ConfigError, match='RefreshConfig.schedule is .*0-1000:500') as caught:
        refresh.RefreshConfig(schedule=schedule)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('schedule, due', [('-1', [0]), ('3', [0, 3, 6]), ('1-4:2, 4-7:1', [1, 3, 4, 5, 6]), ('2-5:-1', [2, 3, 4]),
                                           (5, [0, 5])])
def test_schedules_with_a_meaning(schedule, due):
    assert [step for step in range(8) if refresh.is_due(schedule, step)] == due
    assert refresh.RefreshConfig(schedule=schedule).refreshes == (schedule != '-1')


@pytest.fixture(scope='module')
def spec():
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    return spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, mesh, tiny.lengths(tiny.knowledge()), 4, spec_lib.DistillConfig())


@pytest.fixture(scope='module')
def params():
    return tiny.params()


def _knowledge():
    return jax.tree.map(jnp.asarray, tiny.knowledge())


def _fresh(known, params, spec):
    """Every passage embedded at its limit, in one go."""
    rows = known.index.valid.shape[0]

    @jax.jit
    def embed(known, params):
        tokens, lengths = retrieve.retriever_inputs(known.retriever_table, (1, rows), spec)
        stream = retrieve.pack(tokens, lengths, spec, rows * tokens.shape[-1], tokens.shape[-1])
        return retrieve.embed(params['retriever'], stream, spec)[0]

    return np.asarray(embed(known, params))


def _refresher(spec, fraction=0.0, schedule='-1', block=9):
    known = _knowledge()
    config = refresh.RefreshConfig(schedule=schedule, rolling_fraction=fraction, block_passages=block)
    return refresh.Refresher(spec, config, known.index.valid.shape[0], tiny.lengths(known)), known


def test_a_rolling_refresh_goes_round(spec, params):
    expected = _fresh(_knowledge(), params, spec)
    old = np.asarray(_knowledge().index.embeddings)
    refresher, known = _refresher(spec, fraction=2 / 7)  # 56 rows are 7 blocks of 9, two of them each time
    for step in (1, 2, 3):
        known = refresher.after_update(known, params, step)
    np.testing.assert_allclose(known.index.embeddings[:54], expected[:54], atol=1e-5)
    np.testing.assert_array_equal(known.index.embeddings[54:], old[54:])
    assert refresher.generations.tolist() == [1, 1, 2, 2, 3, 3, 0]
    assert refresher.ages(3) == {'index_age_mean': pytest.approx(9 / 7), 'index_age_max': 3.0}
    known = refresher.after_update(known, params, 4)
    np.testing.assert_allclose(known.index.embeddings, expected, atol=1e-5)
    assert refresher.generations.tolist() == [4, 1, 2, 2, 3, 3, 4]
    np.testing.assert_array_equal(known.index.valid, tiny.knowledge().index.valid)


def test_the_schedule_refreshes_all_and_a_frozen_retriever_nothing(spec, params):
    refresher, known = _refresher(spec, schedule='0-9:2', block=64)
    before = np.asarray(known.index.embeddings)
    known = refresher.after_update(known, params, 1)
    np.testing.assert_array_equal(known.index.embeddings, before)
    known = refresher.after_update(known, params, 2)
    np.testing.assert_allclose(known.index.embeddings, _fresh(known, params, spec), atol=1e-5)
    frozen = dataclasses.replace(spec, distill=spec_lib.DistillConfig(freeze_retriever_steps=5))
    refresher, known = _refresher(frozen, fraction=1.0)
    known = refresher.after_update(known, params, 4)
    np.testing.assert_array_equal(known.index.embeddings, before)
    assert refresher.ages(4)['index_age_max'] == 4


def test_int8_copies_follow(spec, params):
    refresher, known = _refresher(spec, fraction=1.0)
    dim = known.index.embeddings.shape[1]
    for rotation in (None, jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0][:, :dim // 2], jnp.float32)):
        turned = known.replace(index=jax.tree.map(jnp.copy, known.index))  # donated
        turned = turned.replace(scanned=int8.scanned_by(turned.index, spec.mesh, spec.search.metric, rotation))
        turned = refresher.after_update(turned, params, 1)
        expected = refresh.scanned_again(turned.scanned, turned.index, spec)
        found, expected = turned.scanned.rows, expected.rows
        assert np.abs(np.asarray(found.embeddings, np.int32) - np.asarray(expected.embeddings, np.int32)).max() <= 1
        np.testing.assert_allclose(found.scales, expected.scales, rtol=1e-5)


def test_state_comes_back(spec):
    refresher, _ = _refresher(spec, fraction=0.2)
    refresher.generations[3], refresher._next, refresher._owed = 5, 2, 0.4
    other, _ = _refresher(spec, fraction=0.2)
    other.restore(json.loads(json.dumps(refresher.state())))
    assert other.state() == refresher.state()
    with pytest.raises(errors.ConfigError, match='7 blocks, this run has 56'):
        _refresher(spec, block=1)[0].restore(refresher.state())


@pytest.mark.parametrize('training, candidates, searched, told', [
    ('joint', 0, True, True), ('untied', 0, True, True), ('query_side', 0, True, False), ('frozen', 0, True, False),
    ('joint', 16, True, False), ('joint', 0, False, False)])  # re-ranking embeds its candidates again
def test_a_run_that_leaves_its_index_behind_is_told(capsys, training, candidates, searched, told):
    notes.say_once.cache_clear()
    known = tiny.knowledge()
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    spec = spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, mesh, tiny.lengths(known), 4, spec_lib.DistillConfig(
        retriever_training=training), search=SearchConfig(rerank_candidates=candidates))
    prepared = types.SimpleNamespace(spec=spec, index=object() if searched else None, knowledge=None)
    assert refresh.refresher_of(None, prepared) is None
    assert ('the index stays as it was embedded before' in capsys.readouterr().err) == told


@pytest.mark.parametrize('options', [{'rolling_fraction': 1.5}, {'block_passages': 0}, {'schedule': '3-4'}, {'schedule': '1-2-3:4'}])
def test_wrong_options(options):
    with pytest.raises(errors.ConfigError, match='RefreshConfig'):
        refresh.RefreshConfig(**options)
