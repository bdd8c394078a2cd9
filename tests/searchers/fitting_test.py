"""Fitting hybrid search: a mix only where it is better than a side alone, saved with what it belongs to, refused when damaged."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.io import checksum
from atlas_jax.runtime import notes
from atlas_jax.searchers import fitting, fusion
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.fusion import Mix
from atlas_jax.searchers.host_searcher import HostRetrieved, best

PASSAGES, CANDIDATES = 41, 23
HYBRID = SearchConfig('hybrid')


def sides(questions, dense_noise, lexical_noise, seed=0):
    """Two searchers that see the right passage, number i % PASSAGES of question i, through noise of their own."""
    generator = np.random.default_rng(seed)
    right = np.arange(questions) % PASSAGES
    found = []
    for noise in (dense_noise, lexical_noise):
        scores = noise * generator.standard_normal((questions, PASSAGES))
        scores[np.arange(questions), right] += 2
        ids = np.broadcast_to(np.arange(PASSAGES), scores.shape)
        found.append(best(scores, ids, CANDIDATES))
    return found, right


def fitted(questions=211, dense_noise=1.0, lexical_noise=1.0, seed=0):
    found, right = sides(questions, dense_noise, lexical_noise, seed)
    return fitting.fit(*found, *(side.passage_ids == right[:, None] for side in found))


def mean_reciprocal_rank(found: HostRetrieved, right):
    hit = found.passage_ids == right[:, None]
    return np.mean(np.where(hit.any(axis=1), 1 / (1 + hit.argmax(axis=1)), 0))


def test_two_sides_that_err_apart_are_mixed_and_better_on_other_questions():
    fit = fitted()
    assert 0 < fit.mix.lexical_weight < 1
    (dense, lexical), right = sides(400, 1.0, 1.0, seed=1)
    mixed = mean_reciprocal_rank(fusion.fuse(dense, lexical, 100, fit.mix), right)
    assert mixed > max(mean_reciprocal_rank(dense, right), mean_reciprocal_rank(lexical, right)) + 0.05
    # What was promised from questions held out is what other questions give.
    assert np.mean(fit.reciprocal_ranks) == pytest.approx(mixed, abs=0.05)


@pytest.mark.parametrize(('dense_noise', 'lexical_noise', 'weight'), [(0.3, 50.0, 0.0), (50.0, 0.3, 1.0)])
def test_a_useless_side_is_left_out(dense_noise, lexical_noise, weight):
    fit = fitted(dense_noise=dense_noise, lexical_noise=lexical_noise)
    assert fit.mix.lexical_weight == weight
    assert fit.reciprocal_ranks == (fit.lexical if weight else fit.dense)
    found, _ = sides(7, dense_noise, lexical_noise)
    better = found[int(weight)]
    np.testing.assert_array_equal(fusion.fuse(*found, 9, fit.mix).passage_ids, better.passage_ids[:, :9])


@pytest.mark.parametrize('seed', range(5))
def test_chance_makes_no_mix_much_worse_than_a_side(seed):
    """With few questions some mix is always the best of forty; other questions must not pay for it."""
    fit = fitted(questions=23, dense_noise=0.5, lexical_noise=2.0, seed=seed)
    (dense, lexical), right = sides(400, 0.5, 2.0, seed=seed + 100)
    mixed = mean_reciprocal_rank(fusion.fuse(dense, lexical, 100, fit.mix), right)
    assert mixed >= max(mean_reciprocal_rank(dense, right), mean_reciprocal_rank(lexical, right)) - 0.02


def test_ranks_are_those_of_the_fused_order():
    found, right = sides(29, 1.5, 1.0, seed=3)
    ranks = fitting._reciprocal_ranks(*found, *(side.passage_ids == right[:, None] for side in found))
    for number, mix in enumerate(fitting._MIXES):
        hit = fusion.fuse(*found, 2 * CANDIDATES, mix)
        hit = (hit.passage_ids == right[:, None]) & np.isfinite(hit.scores)
        np.testing.assert_allclose(ranks[number], np.where(hit.any(axis=1), 1 / (1 + hit.argmax(axis=1)), 0))


def test_too_few_questions():
    with pytest.raises(errors.ConfigError, match='19 questions are too few to fit hybrid search; give at least 20'):
        fitted(questions=19)


@dataclasses.dataclass
class Versions:
    """The part of an index that a fit belongs to."""

    path: pathlib.Path
    model_fingerprint: str = 'model'
    rows_digest: str = 'rows'
    deleted: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(11, bool))


@pytest.fixture
def saved(tmp_path):
    notes.say_once.cache_clear()
    index = Versions(tmp_path)
    fitting.save(index, 'store', fitting.Fit(Mix('weighted', 0.35), (1.0, 0.5), (1.0, 0.25), (0.5, 0.0)), HYBRID, 'abc')
    return index


def test_a_fit_is_used_where_nothing_else_is_set(saved, capsys):
    applied = fitting.apply(HYBRID, [(saved, 'store')])
    assert (applied.fusion, applied.lexical_weight) == ('weighted', 0.35) and not applied.wants_fit
    for own in (SearchConfig('bm25'), SearchConfig('hybrid', lexical_weight=0.5), SearchConfig('hybrid', fusion='weighted')):
        assert fitting.apply(own, [(saved, 'store')]) is own
    assert fitting.apply(HYBRID, [(Versions(saved.path / 'other'), 'store')]) is HYBRID
    body = fitting.read(saved.path)
    assert (body.questions, body.mrr, body.dense_mrr, body.lexical_mrr) == (2, 0.75, 0.625, 0.25)
    assert not capsys.readouterr().err


@pytest.mark.parametrize('change', [{'rows_digest': 'others'}, {'deleted': np.arange(11) == 3}])
def test_a_changed_index_tells_that_its_fit_is_stale(saved, capsys, change):
    assert fitting.apply(HYBRID, [(dataclasses.replace(saved, **change), 'store')]).lexical_weight == 0.35
    assert 'hybrid.json: stale: the index has changed' in capsys.readouterr().err


def test_changed_passages_tell_that_a_fit_is_stale_once(saved, capsys):
    for _ in range(2):
        fitting.apply(HYBRID, [(saved, 'another store')])
    err = capsys.readouterr().err
    assert 'stale' in err and 'index compare --fit' in err and err.count('\n') == 1


@pytest.mark.parametrize(('change', 'config'), [({'model_fingerprint': 'other'}, HYBRID), ({}, SearchConfig('hybrid', 'cosine'))])
def test_a_fit_for_another_retriever_or_metric_is_not_used(saved, capsys, change, config):
    assert fitting.apply(config, [(dataclasses.replace(saved, **change), 'store')]) is config
    assert 'stale: it was fitted for another retriever' in capsys.readouterr().err


def test_several_indexes_share_a_fit_only_where_it_is_the_same(saved, tmp_path, capsys):
    other = Versions(tmp_path / 'other')
    assert fitting.apply(HYBRID, [(saved, 'store'), (other, 'store')]) is HYBRID
    assert 'not fitted alike' in capsys.readouterr().err
    fitting.save(other, 'store', fitting.Fit(Mix('weighted', 0.35), (1.0,), (1.0,), (1.0,)), HYBRID)
    assert fitting.apply(HYBRID, [(saved, 'store'), (other, 'store')]).lexical_weight == 0.35


def test_a_damaged_fit_is_refused(saved):
    path = saved.path / fitting.FILE
    whole = path.read_text()
    for text, message in ((whole.replace('0.35', '0.95'), 'checksum does not match'), ('[' * 100_000, 'too deep'),
                          (whole[:40], 'damaged'), ('[]', 'damaged .not a JSON object')):
        path.write_text(text)
        with pytest.raises(errors.IndexFolderError, match=message) as raised:
            fitting.apply(HYBRID, [(saved, 'store')])
        assert 'delete it, or fit again' in str(raised.value)


@pytest.mark.parametrize('forged', [{'lexical_weight': 7}, {'lexical_weight': None}, {'fusion': 'sum'}, {'version': 2}])
def test_a_forged_fit_with_a_right_checksum_is_refused(saved, forged):
    path = saved.path / fitting.FILE
    body = {**json.loads(path.read_text()), **forged}
    del body['sha256']
    path.write_text(json.dumps({**body, 'sha256': checksum.json_sha256(body)}))
    with pytest.raises(errors.IndexFolderError, match='hybrid.json: (damaged|fit format 2)'):
        fitting.apply(HYBRID, [(saved, 'store')])


def test_a_fit_of_an_index_in_a_folder_that_is_a_file_is_none(tmp_path):
    (tmp_path / 'file').write_text('')
    assert fitting.read(tmp_path / 'file') is None
