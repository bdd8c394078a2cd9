"""The benchmark of a rolling refresh trains with every budget and compares them, at a size that says nothing of speed."""

import importlib
import json
import sys

import pytest

from tests.testing import tiny_run

refresh = importlib.import_module('refresh')


@pytest.mark.exhaustive  # tests/training/train_refresh_test.py trains with a rolling refresh; smoke_test.py runs a benchmark
def test_every_budget_is_trained_and_compared(tmp_path, monkeypatch, capsys):
    model = tiny_run.atlas(dropout_rate=0.0)
    model.save(tmp_path / 'model')
    tiny_run.index(model, tmp_path)
    (tmp_path / 'train.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in tiny_run.rows(6)))
    sizes = ('--batch', '2', '--n_context', '2', '--steps', '2', '--rounds', '1')
    monkeypatch.setattr(sys, 'argv', ['refresh', '--demo', str(tmp_path), '--model', str(tmp_path / 'model'), *sizes, '--json',
                                      str(tmp_path / 'figures.json')])
    refresh.main()
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert list(figures['seconds']) == ['0%', '1%', '5%'] and all(seconds > 0 for seconds in figures['seconds'].values())
    assert figures['overhead']['0%'] == 0 and figures['overhead']['5%'] == figures['seconds']['5%'] / figures['seconds']['0%'] - 1
    assert '5% of the index a step' in capsys.readouterr().out
