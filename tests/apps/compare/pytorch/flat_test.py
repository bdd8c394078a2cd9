"""The stream layout: there and back, and gradients through both gathers. Whole models: joint_step_test.py."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = pytest.mark.torch


def layout(lengths, width):
    from atlas_jax.apps.compare.pytorch import flat, torch_models
    mask = np.arange(width) < np.array(lengths)[:, None]
    return flat.FlatLayout(torch_models.pad_rows(np.where(mask, 7, 0), mask.astype(int), None, torch.device('cpu')), torch.float64)


def test_rows_and_stream_are_inverse_on_real_tokens():
    found = layout([3, 1, 5], 5)
    assert found.tokens.shape == (9,) and found.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    values = torch.arange(18.0, dtype=torch.float64).reshape(9, 2)
    rows = found.to_rows(values)
    assert rows.shape == (3, 5, 2) and rows[1, 1:].abs().sum() == 0 and rows[2, 4].tolist() == [16.0, 17.0]
    assert torch.equal(found.to_stream(rows), values)


def test_gradients_gather_back():
    found = layout([2, 4], 4)
    values = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(found.to_rows, (values,))
    assert torch.autograd.gradcheck(found.to_stream, (rows,))


def test_heads_and_attention_that_hides_keys():
    from atlas_jax.apps.compare.pytorch import flat
    query, key, value = (flat._heads(torch.randn(2, 3, 10, dtype=torch.float64), 2) for _ in range(3))
    assert query.shape == (2, 2, 3, 5)
    hidden = torch.tensor([[[[False, False, True]]]])
    found = flat._attend(query, key, value, None, hidden)
    assert torch.allclose(found, flat._attend(query, key[:, :, :2], value[:, :, :2], None, hidden[..., :2])) and found.shape == (2, 3, 10)
