"""Attention reduced to scores of passages, compared with a plain loop; empty passages, padding in the top k, fillers."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.losses import attention_scores

LENGTHS = np.array([[7, 0, 3], [1, 5, 7]])
LONGEST, QUERY, LAYERS, TARGETS = 7, 2, 2, np.array([3, 1])
ATTENTION = np.random.default_rng(0).standard_normal((LAYERS, 2, 5, 3, LONGEST)).astype(np.float32)
WEIGHTS = (np.arange(5) < TARGETS[:, None]).astype(np.float32)
MASK = np.arange(LONGEST) < LENGTHS[..., None]
EOS = np.arange(LONGEST) == LENGTHS[..., None] - 1
IS_QUERY = MASK & (np.arange(LONGEST) < QUERY)


def _scores(reduction, weights=WEIGHTS, padded_tokens=None, attention=ATTENTION):
    return attention_scores.passage_scores(jnp.asarray(attention), reduction, weights, MASK, eos_mask=EOS, query_mask=IS_QUERY,
                                           padded_tokens=padded_tokens)


def _plain(reduction, i, j, padded):
    """One passage of one example, by loops in float64."""
    length, targets = LENGTHS[i, j], TARGETS[i]
    rows = [[sum(np.float64(ATTENTION[layer, i, t, j, k]) for layer in range(LAYERS)) for k in range(length)] for t in range(targets)]
    if length == 0:
        return 0.0
    if reduction.startswith('top'):
        k = int(reduction.removeprefix('top'))
        return sum(sum(sorted(row + [0.0] * (padded - length), reverse=True)[:k]) for row in rows) / (k * LAYERS * targets)
    if reduction == 'first':
        return sum(rows[0]) / (length * LAYERS)
    taken = {'nosep': [length - 1], 'woquery': range(QUERY, length)}.get(reduction, range(length))
    total = sum(row[k] for row in rows for k in taken if k < length)
    return total / ((length if reduction == 'avg' else 256) * LAYERS * targets)


@pytest.mark.parametrize('reduction', attention_scores.REDUCTIONS)
@pytest.mark.parametrize('padded', [7, 9, 40])
def test_reductions(reduction, padded):
    found = _scores(reduction, padded_tokens=padded)
    expected = [[_plain(reduction, i, j, padded) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_narrow_rows_give_what_wide_ones_give():
    """The top k depend on the width to which the original pads, not on our capacity."""
    wide = np.pad(ATTENTION, ((0, 0),) * 4 + ((0, 4),), constant_values=9.0)
    mask = np.pad(MASK, ((0, 0), (0, 0), (0, 4)))
    for padded in (7, 9, 40):
        found = attention_scores.passage_scores(jnp.asarray(wide), 'top5', WEIGHTS, mask, padded_tokens=padded)
        np.testing.assert_allclose(found, _scores('top5', padded_tokens=padded), rtol=1e-6)


@pytest.mark.parametrize('reduction', attention_scores.REDUCTIONS)
def test_an_example_without_targets_is_zero_and_junk_behind_masks_is_not_seen(reduction):
    weights = WEIGHTS * np.array([[1.0], [0.0]], np.float32)
    inside = MASK[None, :, None] & (WEIGHTS > 0)[None, :, :, None, None]
    found = _scores(reduction, weights, attention=np.where(inside, ATTENTION, np.nan))
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_allclose(found[0], _scores(reduction)[0], rtol=1e-6)


def test_names_are_the_originals():
    assert len(attention_scores.STATISTICS) == 24
    assert attention_scores.STATISTICS['normstop20'] == attention_scores.Statistic('norms', 'top20')


@pytest.mark.parametrize('reduction, missing', [('nosep', 'eos_mask'), ('woquery', 'query_mask')])
def test_a_reduction_without_its_mask_is_refused(reduction, missing):
    with pytest.raises(ValueError, match=f'reduction "{reduction}" needs {missing}'):
        attention_scores.passage_scores(jnp.asarray(ATTENTION), reduction, WEIGHTS, MASK)
