"""Differences of two sets of quantities, and the tables that show them."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.compare import differences as compare_differences


def judge(ours, theirs, **options):
    found = compare_differences.differences(ours, theirs, **options)
    return {difference.quantity: difference for difference in found}


def test_largest_difference_and_where():
    theirs = {'0/logits': np.array([[1.0, 2.0], [4.0, -8.0]]), '1/logits': np.array([[1.0, 1.0], [1.0, 1.0]])}
    ours = {name: values.copy() for name, values in theirs.items()}
    ours['0/logits'][1, 0] += 8e-4
    ours['1/logits'][0, 1] += 2e-4
    found = judge(ours, theirs)['logits']
    assert found.where == 'batch 1 [0, 1]' and found.relative == pytest.approx(2e-4) and found.absolute == pytest.approx(2e-4)
    assert not found.agrees and judge(ours, theirs, rtol=3e-4)['logits'].agrees


def test_nan_never_agrees():
    found = judge({'0/reader_loss': np.array(np.nan)}, {'0/reader_loss': np.array(1.0)}, rtol=1e9)['reader_loss']
    assert not found.agrees


def test_their_own_error_against_float64_widens_what_is_allowed():
    exact = {'0/logits': np.array([1.0, 2.0])}
    theirs, ours = {'0/logits': np.array([1.0, 2.0 + 1e-4])}, {'0/logits': np.array([1.0, 2.0 - 1.4e-4])}
    found = judge(ours, theirs, reference=exact)['logits']
    assert found.allowed == pytest.approx(1.5e-4) and found.relative == pytest.approx(7e-5) and found.agrees
    assert not judge(ours, theirs)['logits'].agrees


def test_tokens_must_be_identical():
    theirs = {'0/generated': np.array([[0, 5, 1], [0, 7, 8]])}
    assert judge(theirs, theirs)['generated'].agrees
    found = judge({'0/generated': np.array([[0, 5, 1], [0, 7, 9]])}, theirs, rtol=1.0)['generated']
    assert not found.agrees and found.absolute == 1 and found.where == 'batch 0 [1, 2]'


def test_gradients_that_are_zero_but_for_rounding_are_judged_by_the_others():
    names = ['0/grads/retriever/encoder.layer.0.attention.self.key.bias', '0/grads/retriever/encoder.layer.0.output.dense.bias']
    theirs = {names[0]: np.array([1e-9, 0.0]), names[1]: np.array([2.0, 1.0])}
    ours = {names[0]: np.array([-1e-7, 0.0]), names[1]: np.array([2.0, 1.00003])}
    assert all(difference.agrees for difference in judge(ours, theirs).values())
    ours[names[0]] = np.array([1e-3, 0.0])
    found = compare_differences.differences(ours, theirs)
    assert not all(difference.agrees for difference in found)
    row, = compare_differences.summarised(found)
    assert row.quantity == 'grads/retriever (2 parameters)' and 'key.bias' in row.where and not row.agrees


def test_shapes_and_names_must_fit():
    with pytest.raises(errors.ConfigError, match=r'^0/grads/reader/shared.weight: shape \[3, 2\] here, \[4, 2\] in x.npz'):
        judge({'0/grads/reader/shared.weight': np.zeros((3, 2))}, {'0/grads/reader/shared.weight': np.zeros((4, 2))}, against='x.npz')
    with pytest.raises(errors.ConfigError, match='has none of our quantities'):
        judge({'0/logits': np.zeros(3)}, {'logits': np.zeros(3)})


ROWS = [compare_differences.Difference('logits', 1e-5, 2e-6, 1e-5, 'batch 0 [0, 1, 2]'),
        compare_differences.Difference('generated', 3.0, 1.0, 0.0, 'batch 1 [0, 4]'),
        compare_differences.Difference('grads/reader/shared.weight', 1e-4, 1e-4, 5e-5, 'batch 0 [7, 1]')]
SIDE = {'step_seconds': 0.5, 'tokens_per_second': 1234.0, 'peak_bytes': 2**30, 'device': 'cpu', 'version': 'v 1', 'allocator': True}
FIGURES = {'agrees': False, 'against': 'torch', 'ours': SIDE, 'theirs': SIDE | {'step_seconds': 2.0, 'allocator': False},
           'ratio': {'step_seconds': 4.0, 'peak_bytes': 1.0}}


def test_tables_for_a_terminal():
    text = compare_differences.as_text(ROWS, FIGURES, 'tuned', False)
    lines = text.splitlines()
    assert lines[1].startswith('logits') and ' ok ' in lines[1] and 'DIFFERS' in lines[2] and '3 tokens' in lines[2]
    assert 'THEY DIFFER' in text and '4.00 ×' in text and '1024 MiB' in text and 'allocator as it is' in text


def test_without_timing_there_is_one_table():
    figures = {'agrees': True, 'against': 'x.npz', 'ours': {'device': 'cpu'}}
    assert compare_differences.as_text(ROWS[:1], figures, 'tuned', False).endswith('all agree')


def test_page_has_every_gradient(tmp_path):
    compare_differences.write_page(tmp_path / 'page.html', ROWS, FIGURES, 'tuned', True)
    page = (tmp_path / 'page.html').read_text()
    assert 'grads/reader (1 parameters)' in page and 'grads/reader/shared.weight' in page and '<svg' in page and 'flush-denormal' in page
