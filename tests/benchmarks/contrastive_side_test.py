"""Both sides of the contrastive benchmark compute the same: the losses of two steps, at a size that says nothing of speed."""

import pathlib

import contrastive_side
import pytest
import workload

from tests.testing import oracles

pytestmark = [oracles.needed('torch', 'transformers'), pytest.mark.torch]


def test_the_sides_compute_the_same(tmp_path_factory):
    models = workload.models('tiny', pathlib.Path(tmp_path_factory.mktemp('models')))
    found = {}
    for name in ('ours', 'original'):
        side = contrastive_side.Side()
        side.load(side=name, retriever=models.retriever, method='moco', batch_size=3, queue_size=6, batches=2, dtype='float32')
        answers = [side.step(number) for number in range(2)]
        assert all(answer['seconds'] > 0 for answer in answers) and side.memory()['peak_bytes'] > 0
        found[name] = [answer['retriever_loss'] for answer in answers]
    assert min(found['ours']) > 0.5
    assert found['original'] == pytest.approx(found['ours'], rel=1e-4)
