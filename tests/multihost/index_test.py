"""Two processes that build an index together: the same index as one process builds, and neither waits for ever for the other."""

import json
import pathlib

import numpy as np

from atlas_jax.index import verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from tests.testing import processes

PROGRAM = str(pathlib.Path(__file__).with_name('index_program.py'))
ROOT = str(pathlib.Path(__file__).parents[2])


def run(folder, how, count):
    return processes.run_together([PROGRAM, folder, how], processes=count, devices=2, PYTHONPATH=ROOT)


def test_together_as_alone(tmp_path):
    together = run(tmp_path / 'together', 'together', 2)
    assert [code for code, _ in together] == [0, 0], together
    assert all('done 2 32' in output for _, output in together), together
    [(code, output)] = run(tmp_path / 'alone', 'alone', 1)
    assert code == 0 and 'done 1 32' in output, output
    one, two = EmbeddingIndex.open(tmp_path / 'alone'), EmbeddingIndex.open(tmp_path / 'together')
    np.testing.assert_array_equal(one.embeddings(np.arange(31)), two.embeddings(np.arange(31)))
    assert verification.verify(two.path) == [] and one.info()['model_fingerprint'] == two.info()['model_fingerprint']


def test_one_that_fails_does_not_leave_the_other_waiting(tmp_path):
    first, second = run(tmp_path / 'index', 'fails', 2)
    assert 'other: process 1 of 2 failed' in first[1] and 'own: killed' in second[1], (first, second)
    unfinished = json.loads((tmp_path / 'index' / 'building.json').read_text())
    assert unfinished['stop_row'] == 29 and len(list((tmp_path / 'index' / 'shards').iterdir())) >= 3
