"""Token rows as padded tensors, layer norms, pooling, and the memory of a padded reader."""

import types

import numpy as np
import pytest

from tests.testing import streams

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = pytest.mark.torch

CPU = torch.device('cpu')


def test_padding_keeps_tokens_and_refuses_to_cut():
    from atlas_jax.apps.compare.pytorch import torch_models
    ids, mask = np.array([[5, 6, 7], [8, 9, 0]]), np.array([[1, 1, 1], [1, 0, 0]])
    rows = torch_models.pad_rows(ids, mask, 5, CPU)
    assert rows.ids.tolist() == [[5, 6, 7, 0, 0], [8, 0, 0, 0, 0]] and rows.mask.sum(dim=1).tolist() == [3, 1]
    assert torch_models.pad_rows(ids[1:], mask[1:], None, CPU).ids.tolist() == [[8]]
    with pytest.raises(ValueError, match='3 tokens, more than the 2'):
        torch_models.pad_rows(ids, mask, 2, CPU)


def test_flat_joins_the_leading_axes():
    from atlas_jax.apps.compare.pytorch import torch_models
    rows = torch_models.pad_rows(np.arange(30).reshape(2, 3, 5), np.ones((2, 3, 5), int), None, CPU).flat
    assert rows.ids.shape == rows.mask.shape == (6, 5) and rows.ids[4, 1] == 21


def test_the_second_moment_norm_divides_by_the_second_moment():
    from atlas_jax.apps.compare.pytorch import torch_models
    norm = torch.nn.LayerNorm(7, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    inputs = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)) + 2
    found = torch_models.SecondMomentNorm(norm)(inputs)
    expected = (inputs - inputs.mean(-1, keepdim=True)) / (inputs.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight + norm.bias
    assert streams.error(found.detach(), expected.detach()) <= 1e-6


@pytest.mark.parametrize(('pooling', 'expected'), [('average', [2.0, 3.0]), ('sqrt', [2 * 2**0.5, 3 * 2**0.5]), ('cls', [1.0, 1.0]),
                                                   ('last', [3.0, 5.0]), ('max', [3.0, 5.0]), ('weighted', [7 / 3, 11 / 3])])
def test_pooling_sees_real_tokens_alone(pooling, expected):
    from atlas_jax.apps.compare.pytorch import torch_models
    states = torch.tensor([[[1.0, 1.0], [3.0, 5.0], [9.0, 9.0]]])
    retriever = torch_models.TorchContriever(torch.nn.Identity(), pooling)
    assert streams.error(retriever.pool(states, torch.tensor([[1, 1, 0]])), [expected]) <= 1e-6
    normalized = torch_models.TorchContriever(torch.nn.Identity(), pooling, normalize=True).pool(states, torch.tensor([[1, 1, 0]]))
    assert float(normalized.norm()) == pytest.approx(1.0)
    cut = torch_models.TorchContriever(torch.nn.Identity(), pooling, truncate_dim=1).pool(states, torch.tensor([[1, 1, 0]]))
    assert cut.tolist() == [pytest.approx(expected[:1])]


def test_fusing_lays_passages_side_by_side_and_hides_one():
    from atlas_jax.apps.compare.pytorch import torch_models
    reader = torch_models.PaddedReader(types.SimpleNamespace())
    memory = torch_models.Memory(torch.arange(4 * 3 * 2.0).reshape(4, 3, 2), torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]))
    fused = reader.fuse(memory, 2, without=1)
    assert fused.content.shape == (2, 6, 2) and fused.content[1, 0].tolist() == [12.0, 13.0]
    assert fused.mask.tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert memory.mask[1].tolist() == [1, 0, 0]  # the memory itself is unchanged
