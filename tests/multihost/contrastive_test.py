"""Two processes of two devices each train a retriever alone as one process of four does: losses, order and queue."""

import contextlib
import json
import pathlib

import numpy as np
import pytest

from tests.testing import processes, tiny_run

PROGRAM = str(pathlib.Path(__file__).with_name('contrastive_program.py'))
ROOT = str(pathlib.Path(__file__).parents[2])


@pytest.mark.exhaustive  # multidevice/train_step_test.py has the same steps on eight devices, train_test.py two processes that train
def test_two_processes_compute_what_one_does(tmp_path):
    tiny_run.write_passages(tmp_path / 'passages.jsonl', 19)
    arguments = [PROGRAM, str(tmp_path / 'passages.jsonl')]
    # All at once: neither knows of the other.
    with contextlib.ExitStack() as stack:
        started = [*processes.start_together(stack, [*arguments, 'several'], devices=2, PYTHONPATH=ROOT),
                   *processes.start_together(stack, arguments, processes=1, devices=4, PYTHONPATH=ROOT)]
        first, second, alone = (process.wait()[:2] for process in started)
    assert [code for code, _ in (first, second, alone)] == [0, 0, 0], (first, second, alone)
    two, one = (json.loads(output.split('RESULT ')[1].splitlines()[0]) for _, output in (first, alone))
    for method in ('moco', 'inbatch'):
        for found, expected in zip(two[method]['rows'], one[method]['rows'], strict=True):
            assert found['examples'] == expected['examples'] and abs(found['loss'] - expected['loss']) <= 1e-6
        assert len({row['loss'] for row in one[method]['rows']}) == 3
    # Each process holds the rows of its own devices, and after two batches none is left of those that it began with.
    assert (two['moco']['own_rows'], one['moco']['own_rows']) == (8, 16)
    np.testing.assert_allclose(two['moco']['queue'], one['moco']['queue'], rtol=0, atol=1e-6)
