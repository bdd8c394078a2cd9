"""The page of experiments says what the gin files say."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    found = importlib.util.spec_from_file_location('experiments', ROOT / 'benchmarks' / 'experiments.py')
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    page = module.page()
    assert (ROOT / 'docs' / 'experiments.md').read_text(encoding='utf-8') == page, 'run benchmarks/experiments.py'
    assert page.count('| `runs/') >= 27
