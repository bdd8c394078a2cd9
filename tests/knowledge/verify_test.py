"""Verifying an index with its passages: every kind of folder in it is read, and damage names its place."""

import json
import shutil

import pytest

from atlas_jax import errors
from atlas_jax.index import index_manifest
from atlas_jax.knowledge import verify
from atlas_jax.searchers import bm25, fitting
from atlas_jax.searchers.host_searcher import SAVED_FILE
from tests.knowledge import crash_test


@pytest.fixture
def root(tmp_path):
    crash_test.built(tmp_path)
    return tmp_path


def found(root) -> list[str]:
    return [str(problem) for problem in verify.verify(root / 'index')]


def test_a_whole_index_has_no_problem(root):
    assert found(root) == [] and verify.leftovers(root / 'index') == []


def test_the_saved_mix_and_the_saved_searchers_are_read(root):
    (root / 'index' / fitting.FILE).write_text('{', encoding='utf-8')
    # Several processes save a searcher each.
    for name in (bm25.FOLDER, f'{bm25.FOLDER}-1-of-2'):
        (root / 'index' / name).mkdir()
        (root / 'index' / name / SAVED_FILE).write_text('{', encoding='utf-8')
    problems = found(root)
    assert len(problems) == 3 and all('damaged' in problem for problem in problems)
    for name in (fitting.FILE, f'{bm25.FOLDER}/{SAVED_FILE}', f'{bm25.FOLDER}-1-of-2/{SAVED_FILE}'):
        assert any(f'{root / "index"}/{name}: ' in problem for problem in problems), problems


def test_a_store_without_manifest_is_one_problem_of_all_rows(root):
    (root / 'store' / 'manifest.json').unlink()
    [problem] = verify.verify(root / 'index')
    assert (problem.first_row, problem.stop_row) == (0, 8) and str(root / 'store') in str(problem)


def test_damaged_passages_name_their_rows(root):
    [segment] = [path for path in (root / 'store').iterdir() if path.is_dir()]
    shutil.rmtree(segment / 'tokens')
    # The store cannot be opened, so the rows have no names.
    assert any('tokens' in problem and '(rows 0 to 7)' in problem for problem in found(root))


def test_an_index_without_manifest_is_refused(root):
    manifest = root / 'index' / index_manifest.FILE
    manifest.write_text(json.dumps({'format': 'another'}), encoding='utf-8')
    with pytest.raises(errors.IndexFolderError, match='not the manifest of an index'):
        verify.verify(root / 'index')
