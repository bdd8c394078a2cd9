"""Files and functions that a reader can take in, each saying what it is for."""

import ast
import pathlib
import statistics

from atlas_jax import errors

PACKAGE = pathlib.Path(errors.__file__).parent
TESTS = pathlib.Path(__file__).parents[1]
SOURCES = sorted(PACKAGE.rglob('*.py'))
ALL = SOURCES + sorted(TESTS.rglob('*.py'))
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: pathlib.Path) -> str:
    """The path from the folder that holds the package or the tests."""
    return str(path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else TESTS.parent))


def tree_of(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def line_count(path: pathlib.Path) -> int:
    return len(path.read_text(encoding='utf-8').splitlines())


def test_files_and_functions_are_short():
    wrong = [f'{name_of(path)} has {line_count(path)} lines' for path in ALL if line_count(path) > 500]
    wrong += [f'{name_of(path)}: {node.name} has {node.end_lineno - node.lineno + 1} lines' for path in ALL
              for node in ast.walk(tree_of(path)) if isinstance(node, FUNCTION) and node.end_lineno - node.lineno >= 60]
    assert not wrong, '\n'.join(wrong)


def test_a_file_has_about_a_dozen_functions():
    counts = [sum(isinstance(node, FUNCTION) for node in ast.walk(tree_of(path))) for path in SOURCES if path.name != '__init__.py']
    assert statistics.mean(counts) <= 12 and max(counts) <= 30


def test_the_median_file_fits_on_two_screens():
    assert statistics.median(line_count(path) for path in SOURCES if path.name != '__init__.py') <= 150


def test_modules_classes_and_functions_say_what_they_are_for():
    wrong = []
    for path in SOURCES:
        tree = tree_of(path)
        public = [node for node in tree.body if isinstance(node, FUNCTION | ast.ClassDef) and not node.name.startswith('_')]
        wrong += [f'{name_of(path)}: {getattr(node, "name", "the module")}' for node in [tree, *public] if not ast.get_docstring(node)]
    assert not wrong, '\n'.join(['no docstring:', *wrong])


def test_every_folder_is_a_package():
    for folder in {path.parent for path in SOURCES}:
        assert (folder / '__init__.py').is_file(), f'{folder} has no __init__.py'


def test_no_file_for_odds_and_ends():
    assert not [name_of(path) for path in ALL if path.stem in ('utils', 'common', 'helpers', 'misc')]
