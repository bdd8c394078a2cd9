"""Damage in the saved files of a searcher: it is built again with one line, never a traceback or a wrong answer."""

import pathlib
import shutil

import numpy as np
import pytest

from atlas_jax.io.folder import Folder
from atlas_jax.searchers import bm25, host_searcher, scann
from atlas_jax.searchers.host_searcher import HostQueries
from tests.testing import damage

TEXTS = ('radium was discovered by Marie Curie', 'the Seine flows through Paris', 'Marie wrote of radium and radium', 'nothing at all here',
         'Paris is a city', 'Curie street in Paris', 'radium glows')
VALID = np.array([True, True, False, True, True, True, True])
VECTORS = np.random.default_rng(0).standard_normal((7, 16)).astype(np.float32)
QUERIES = HostQueries(['radium in Paris', 'Curie'], VECTORS[:2] + VECTORS[3:5])


def build(name: str):
    if name == 'bm25':
        pytest.importorskip('bm25s')
        return bm25.build(bm25.count(TEXTS), VALID)
    pytest.importorskip('scann')
    return scann.build(VECTORS, VALID)


def open_saved(name: str, folder: pathlib.Path):
    return (bm25 if name == 'bm25' else scann).open_saved(folder, 'version', VALID)


@pytest.fixture(scope='module', params=['bm25', 'scann'])
def saved(request, tmp_path_factory):
    """The name of a searcher, its saved folder, and what it finds."""
    folder = tmp_path_factory.mktemp('saved') / request.param
    searcher = build(request.param)
    searcher.save(folder, 'version')
    return request.param, folder, searcher.search(QUERIES, 3)


def test_a_damaged_searcher_is_built_again_with_one_line(saved, tmp_path, capsys):
    name, folder, found = saved
    copy = shutil.copytree(folder, tmp_path / name)
    for what, path in damage.every_damage(copy):
        opened, err = open_saved(name, copy), capsys.readouterr().err
        if opened is not None:  # white space of the description
            assert path.name == host_searcher.SAVED_FILE and not err
            same(opened, found)
        elif path.name == host_searcher.SAVED_FILE and what == 'deleted':
            assert not err
        else:
            assert err.count('\n') == 1 and str(path) in err and 'built again' in err, (what, path.name, err)
    same(open_saved(name, copy), found)


def same(searcher, found) -> None:
    again = searcher.search(QUERIES, 3)
    np.testing.assert_array_equal(again.passage_ids, found.passage_ids)
    np.testing.assert_array_equal(again.scores, found.scores)


def test_verify_names_every_damaged_file(saved, tmp_path):
    name, folder, _ = saved
    copy = shutil.copytree(folder, tmp_path / name)
    kind = (bm25 if name == 'bm25' else scann).KIND
    assert host_searcher.saved_damage(Folder(copy), kind) == []
    for what, path in damage.every_damage(copy, seed=1):
        problems = host_searcher.saved_damage(Folder(copy), kind)
        if path.name != host_searcher.SAVED_FILE or problems:
            assert [problem.path for problem in problems] == [str(path)], (what, path.name)
        else:
            assert open_saved(name, copy) is not None
