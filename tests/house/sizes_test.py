"""Files and functions that a reader can take in, with tests enough."""

import ast
import pathlib
import statistics

from tests.house.source import (
    ALL,
    FUNCTION,
    PACKAGE,
    SOURCES,
    TESTS,
    line_count,
    module_of,
    name_of,
    tree_of,
)

MOST_FILE_LINES = 500
MOST_FUNCTION_LINES = 60
# From this size on, a module has a test file of its own.
MIRRORED_STATEMENTS = 25


def test_files_and_functions_are_short():
    wrong = [f'{name_of(path)} has {line_count(path)} lines' for path in ALL if line_count(path) > MOST_FILE_LINES]
    wrong += [f'{name_of(path)}: {node.name} has {node.end_lineno - node.lineno + 1} lines' for path in ALL
              for node in ast.walk(tree_of(path)) if isinstance(node, FUNCTION) and node.end_lineno - node.lineno >= MOST_FUNCTION_LINES]
    assert not wrong, '\n'.join(wrong)


def test_a_file_has_about_a_dozen_functions():
    counts = [sum(isinstance(node, FUNCTION) for node in ast.walk(tree_of(path))) for path in SOURCES if path.name != '__init__.py']
    assert statistics.mean(counts) <= 12 and max(counts) <= 40


def test_every_folder_is_a_package():
    for folder in {path.parent for path in SOURCES}:
        assert (folder / '__init__.py').is_file(), f'{folder} has no __init__.py'


def test_no_file_for_odds_and_ends():
    assert not [name_of(path) for path in ALL if path.stem in ('utils', 'common', 'helpers', 'misc')]


def test_tests_are_four_fifths_of_the_source():
    # By statements: the lines of tests are longer.
    count = {'tests': 0, 'source': 0}
    for path in ALL:
        count['tests' if path.is_relative_to(TESTS) else 'source'] += sum(isinstance(node, ast.stmt) for node in ast.walk(tree_of(path)))
    assert count['tests'] >= .8 * count['source'], count


def statements(path: pathlib.Path) -> int:
    """Number of a module's statements, without imports, docstrings and the headers of classes and functions."""
    return sum(isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | FUNCTION)
               and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in ast.walk(tree_of(path)))


def mirrors(path: pathlib.Path) -> list[pathlib.Path]:
    """The test files of a module: `tests/room/module_test.py`, or several `module_*_test.py`."""
    folder = TESTS / path.relative_to(PACKAGE).parent
    return [*folder.glob(f'{path.stem}_test.py'), *folder.glob(f'{path.stem}_*_test.py')]


def test_modules_with_logic_have_a_test_file():
    wrong = [f'{module_of(path)}: {statements(path)} statements' for path in SOURCES
             if path.name != '__init__.py' and statements(path) > MIRRORED_STATEMENTS and not mirrors(path)]
    assert not wrong, '\n'.join(wrong)
