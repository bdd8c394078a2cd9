"""Rows of metrics outlive a kill; the overview counts every parameter."""

import json

import jax.numpy as jnp
import numpy as np

from atlas_jax.report import run_log


def test_rows_after_the_restored_step_are_dropped(tmp_path):
    log = run_log.RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.append({'step': step, 'loss': step / 2})
    with open(tmp_path / run_log.METRICS_FILE, 'a', encoding='utf-8') as file:
        file.write('{"step": 4, "lo')
    again = run_log.RunLog(tmp_path, 2)
    again.append({'step': 3, 'loss': 7.0})
    rows = [json.loads(line) for line in (tmp_path / run_log.METRICS_FILE).read_text().splitlines()]
    assert rows == again.rows == [{'step': 1, 'loss': 0.5}, {'step': 2, 'loss': 1.0}, {'step': 3, 'loss': 7.0}]
    assert len(list((tmp_path / run_log.TENSORBOARD_FOLDER).iterdir())) >= 1


def test_a_new_run_forgets_the_old_rows(tmp_path):
    run_log.RunLog(tmp_path, 0).append({'step': 1, 'loss': 1.0})
    assert run_log.RunLog(tmp_path, 0).rows == []


def test_the_overview_counts_every_parameter():
    params = {'reader': {'encoder': {'w': jnp.zeros((3, 5)), 'b': jnp.zeros(5)}, 'decoder': {'w': np.zeros((1024, 1024), np.float16)}},
              'retriever': {'w': jnp.zeros(7)}}
    lines = run_log.parameter_overview(params).splitlines()
    assert [line.split()[0] for line in lines] == ['parameters', 'reader/decoder', 'reader/encoder', 'retriever/w', 'all']
    assert '1,048,576' in lines[1] and '2.0' in lines[1] and 'float16' in lines[1]
    assert f'{20 + 1024 * 1024 + 7:,}' in lines[-1]
