"""The page of reproductions says what the recipes say."""

import importlib.util
import pathlib

import pytest

from atlas_jax.apps.reproduce import recipes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def writer():
    found = importlib.util.spec_from_file_location('reproduce_page', ROOT / 'benchmarks' / 'reproduce.py')
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(writer):
    page = writer.page()
    assert (ROOT / 'docs' / 'reproduce.md').read_text(encoding='utf-8') == page, 'run benchmarks/reproduce.py'
    assert all(f'\n| `{run}` | ' in page for run in recipes.RECIPES) and all(f'`{name}`' in page for name in recipes.OTHERS)


def test_a_row_names_files_and_figures(writer):
    row = writer.row_of('templama', recipes.RECIPES['templama'])
    assert '`train.json`, `test.json`, (`val.json`)' in row and 'trained on 2017): 53.1' in row and '`train.2017`, `train.2020`' in row
    assert '5 of each label' in writer.row_of('fever_15_shot', recipes.RECIPES['fever_15_shot'])
    assert 'passages of the index' in writer.row_of('pretrain_lm', recipes.RECIPES['pretrain_lm'])
