"""The growth benchmark's bookkeeping; its sides run in smoke_test.py."""

import json
import sys

import growth


def test_a_side_without_memory_leaves_its_point_empty(tmp_path, monkeypatch):
    def seconds(axis, point, side, options):
        if side == 'tuned' and point > 2:
            raise RuntimeError('atlas_jax.apps.compare.pytorch ended with code -9 during "step"')
        return float(point)

    monkeypatch.setattr(growth, '_seconds', seconds)
    result, page = tmp_path / 'growth.json', tmp_path / 'growth.html'
    monkeypatch.setattr(sys, 'argv', ['growth.py', '--axes', 'batch', '--opponents', 'tuned', '--json', str(result), '--report', str(page)])
    growth.main()
    assert json.loads(result.read_text())['axes']['batch']['seconds'] == {'ours': [1, 2, 4, 8], 'tuned': [1, 2, None, None]}
    assert 'no memory' in page.read_text() and '<svg' in page.read_text()
