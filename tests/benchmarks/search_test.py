"""The search benchmark runs through, and its sides search for the same thing in the same numbers."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import search_text
import search_vectors

from atlas_jax.corpus.passages import Passage
from atlas_jax.evaluation import beir_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_queries_are_float32(tmp_path):
    """In float64 numpy would convert all vectors at every call, and lose by it."""
    queries = search_vectors.write(tmp_path / 'vectors.f32', rows=97, queries=7)
    vectors = search_vectors.read(tmp_path / 'vectors.f32')
    assert queries.dtype == vectors.dtype == np.float32
    assert queries.shape == (7, search_vectors.DIM) and vectors.shape == (97, search_vectors.DIM)


@pytest.mark.slow  # a benchmark is a program of its own; each searcher is compiled in it
def test_exact_sides_find_the_same(tmp_path):
    subprocess.run([sys.executable, ROOT / 'benchmarks' / 'search.py', '--rows', '600', '900', '--rounds', '1', '--json',
                    tmp_path / 'search.json', '--sides', 'numpy_matmul', 'exact', 'int8'], check=True,
                   env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    figures = json.loads((tmp_path / 'search.json').read_text())
    assert {(row['searcher'], row['rows'], row['batch']) for row in figures} == {
        (name, rows, batch) for name in ('numpy', 'exact', 'int8') for rows in (600, 900) for batch in (1, 64)}
    assert all(row['recall_at_20'] == pytest.approx(1) for row in figures if row['searcher'] != 'int8')
    assert all(row['queries_per_second'] > 0 and row['peak_bytes'] >= row['searching_bytes'] > 0 for row in figures)
    assert all(row['baseline'] == 'exact' and (row['to_baseline'] == 1) == (row['searcher'] == 'exact') for row in figures)


def test_sets_become_beir_folders(tmp_path):
    search_text.write_beir(tmp_path, [Passage('boolq/0', 'Title', '', 'text'), Passage('boolq/1', '', '', 'other')], [('why?', 'boolq/1')])
    folder = beir_folder.read(tmp_path)
    assert folder.queries == {'q0': 'why?'} and folder.qrels == {'q0': {'boolq/1': 1}} and folder.documents == {'boolq/0', 'boolq/1'}
