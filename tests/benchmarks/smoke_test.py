"""Every benchmark against PyTorch runs through, at sizes that say nothing of speed."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import process_pairs
import pytest

from tests.testing import streams

pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.slow]  # slow: both sides are processes of their own

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark at size tiny in this process, which has jax already, and returns its figures; the sides are other processes."""
    environment = process_pairs.environment
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_pairs, 'environment', lambda tuned: environment(tuned) | {'XLA_FLAGS': streams.QUICK_FLAGS})

    def run(name: str, *arguments: str) -> dict:
        monkeypatch.setattr(sys, 'argv', [name, *options(name, *arguments)])
        importlib.import_module(name).main()
        return figures_of(name)

    return run


def options(name: str, *arguments: str) -> list[str]:
    """A benchmark's command line in the folder of a test."""
    return ['--size', 'tiny', '--rounds', '1', '--work', 'models', '--json', f'{name}.json', '--report', f'{name}.html', *arguments]


def figures_of(name: str) -> dict:
    """Returns the figures that a benchmark wrote."""
    assert '<svg' in pathlib.Path(f'{name}.html').read_text()
    return json.loads(pathlib.Path(f'{name}.json').read_text())


@pytest.mark.parametrize('opponents', [('flat_repaired',), pytest.param(('original_512', 'tuned'), marks=pytest.mark.exhaustive)])
def test_train_step(run, opponents):
    figures = run('train_step', '--opponents', *opponents)
    sides = figures['sides']
    assert (figures['ratio_tuned'] is None) == ('tuned' not in opponents)
    assert all(figures[f'ratio_{name}'] > 0 for name in opponents)
    for name in opponents:  # the same numbers: nobody times another computation
        assert sides[name]['first']['reader_loss'] == pytest.approx(sides['ours']['first']['reader_loss'], rel=1e-4)
        assert sides[name]['first']['retriever_loss'] == pytest.approx(sides['ours']['first']['retriever_loss'], rel=1e-3)
        assert bool(sides[name]['runs_on']['allocator']) == name.endswith('repaired')


def test_answer(run):
    figures = run('answer', '--opponents', 'tuned', '--beams', '1')
    assert figures['ratio_greedy_tuned'] > 0 and figures['sides']['greedy tuned']['same_tokens']


def test_embed_by_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, ROOT / 'benchmarks' / 'embed.py', *options('embed', '--opponents', 'original_longest')], check=True,
                   env=os.environ | {'XLA_FLAGS': streams.QUICK_FLAGS})
    figures = figures_of('embed')
    assert figures['ratio_original_longest'] > 0 and figures['sides']['original_longest']['largest_difference'] <= 1e-5


@pytest.mark.exhaustive  # the same sides as above, measured in other ways
def test_memory_and_growth(run):
    figures = run('memory', '--opponents', 'tuned')
    assert figures['ratio_tuned'] > 0 and figures['sides']['ours']['loaded_bytes'] <= figures['sides']['ours']['peak_bytes']
    figures = run('growth', '--opponents', 'tuned', '--axes', 'batch', '--points', '1')
    assert len(figures['axes']['batch']['seconds']['ours']) == 1
