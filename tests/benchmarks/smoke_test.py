"""Every benchmark against PyTorch runs through, at sizes that say nothing of speed."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.testing import streams

pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.slow]  # slow: programs of their own, which start PyTorch as another

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(name: str, folder: pathlib.Path, *arguments: str) -> dict:
    """The figures of a benchmark at size tiny."""
    result = folder / f'{name}.json'
    subprocess.run([sys.executable, ROOT / 'benchmarks' / f'{name}.py', '--size', 'tiny', '--rounds', '1', '--work', folder / 'models',
                    '--json', result, '--report', result.with_suffix('.html'), *arguments], check=True, cwd=folder,
                   env=os.environ | {'XLA_FLAGS': streams.QUICK_FLAGS})
    assert '<svg' in result.with_suffix('.html').read_text()
    return json.loads(result.read_text())


def test_train_step(tmp_path):
    figures = run('train_step', tmp_path, '--opponents', 'original_512', 'flat_repaired')
    sides = figures['sides']
    assert figures['ratio_tuned'] is None
    assert all(figures[f'ratio_{name}'] > 0 for name in ('original_512', 'flat_repaired'))
    for name in ('original_512', 'flat_repaired'):  # the same numbers: nobody times another computation
        assert sides[name]['first']['reader_loss'] == pytest.approx(sides['ours']['first']['reader_loss'], rel=1e-4)
        assert sides[name]['first']['retriever_loss'] == pytest.approx(sides['ours']['first']['retriever_loss'], rel=1e-3)
    assert sides['flat_repaired']['runs_on']['allocator'] and not sides['original_512']['runs_on']['allocator']


def test_answer(tmp_path):
    figures = run('answer', tmp_path, '--opponents', 'tuned', '--beams', '1')
    assert figures['ratio_greedy_tuned'] > 0 and figures['sides']['greedy tuned']['same_tokens']


def test_embed(tmp_path):
    figures = run('embed', tmp_path, '--opponents', 'original_longest')
    assert figures['ratio_original_longest'] > 0 and figures['sides']['original_longest']['largest_difference'] <= 1e-5


def test_memory_and_growth(tmp_path):
    figures = run('memory', tmp_path, '--opponents', 'tuned')
    assert figures['ratio_tuned'] > 0 and figures['sides']['ours']['loaded_bytes'] <= figures['sides']['ours']['peak_bytes']
    figures = run('growth', tmp_path, '--opponents', 'tuned', '--axes', 'batch', '--points', '1')
    assert len(figures['axes']['batch']['seconds']['ours']) == 1
