"""Flat search, embedding in any order, answering: PyTorch's side of the benchmarks."""

import numpy as np
import pytest

from tests.apps.compare.pytorch import joint_step_test
from tests.testing import streams

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.optimized]


def test_flat_search_finds_the_largest_products():
    from atlas_jax.apps.compare.pytorch import worker
    generator = np.random.default_rng(0)
    rows, queries = generator.standard_normal((23, 7)), generator.standard_normal((3, 7))
    scores, found = worker.flat_search(torch.from_numpy(rows), torch.from_numpy(queries), 5)
    expected = np.argsort(-queries @ rows.T, axis=1)[:, :5]
    assert found.tolist() == expected.tolist()
    assert streams.error(scores, np.take_along_axis(queries @ rows.T, expected, axis=1)) <= 1e-12


def test_order_and_padding_do_not_change_embeddings():
    from atlas_jax.apps.compare.pytorch import worker
    lengths = np.array([7, 31, 2, 19, 12])
    ids = streams.random_passages(lengths, 512, 31)
    found = {name: worker.embed_passages(joint_step_test.make(name), ids, lengths, batch_size=2)
             for name in ('original_200', 'original_longest', 'tuned', 'flat')}
    assert all(streams.error(found[name], found['original_200']) <= 1e-5 for name in found)


def test_answers_read_what_was_found():
    from atlas_jax.apps.compare.pytorch import torch_models, worker
    model = joint_step_test.make('tuned')
    queries = torch_models.pad_rows(streams.random_passages([5, 8], 512, 8), np.arange(8) < np.array([[5], [8]]), None, torch.device('cpu'))
    passages = streams.random_passages([9, 14, 3, 6], 512, 14)
    with torch.no_grad():
        index = model.embed(torch_models.pad_rows(passages, passages > 0, None, torch.device('cpu')))
    tokens, found = worker.answer(model, index, queries, lambda rows: (passages[rows], passages[rows] > 0), 2, 6, beams=1)
    scores = model.embed(queries) @ index.T
    assert found.tolist() == scores.topk(2).indices.tolist()
    assert tokens.shape[0] == 2 and tokens.shape[1] <= 6 and (tokens[:, 0] == 0).all()


def test_reader_inputs_are_query_passage_and_eos_within_the_limit():
    from atlas_jax.apps.compare.pytorch import worker
    arrays = {'reader_query_ids': np.array([[[5, 6, 0], [7, 0, 0]]]), 'reader_query_lengths': np.array([[2, 1]]),
              'table_ids': np.array([[11, 12, 13, 14], [21, 0, 0, 0]]), 'table_lengths': np.array([4, 1])}
    ids, mask = worker._assemble(arrays, 0, np.array([[0, 1], [1, 0]]), limit=5)
    assert ids.shape == (2, 2, 7)  # the longest query and passage, and eos
    assert ids[0, 0][mask[0, 0] > 0].tolist() == [5, 6, 11, 12, 1] and ids[0, 1][mask[0, 1] > 0].tolist() == [5, 6, 21, 1]
    assert ids[1, 1][mask[1, 1] > 0].tolist() == [7, 11, 12, 13, 1] and (ids[mask == 0] == 0).all()
