"""Tests start processes through tests/testing/processes.py alone, which gives each one a deadline and leaves none behind."""

import ast
import re

import pytest

from tests.house.source import TESTS, tree_of

# File below tests/: why it may start processes by other means.
EXCEPTIONS = {'testing/processes.py': 'the door itself'}
_WAYS = re.compile(r'(subprocess|multiprocessing|pexpect)(\..*)?'
                   r'|(.*\.)?(ProcessPoolExecutor|create_subprocess_exec|create_subprocess_shell)|concurrent\.futures\.process(\..*)?'
                   r'|os\.(system|popen|fork|forkpty|spawn\w+|posix_spawnp?)|pty\.(spawn|fork)')


def process_lines(tree: ast.AST) -> list[int]:
    """Returns the line numbers where a module or function that starts processes is imported or used."""
    found = set()
    for node in ast.walk(tree):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [f'{node.module}.{alias.name}' for alias in node.names] if isinstance(node, ast.ImportFrom)
                 else [ast.unparse(node)] if isinstance(node, ast.Attribute) else [])
        if any(_WAYS.fullmatch(name) for name in names):
            found.add(node.lineno)
    return sorted(found)


def test_tests_start_processes_through_one_door():
    wrong = [f'tests/{path}:{line}: start processes with tests/testing/processes.py' for path, lines in ways().items() for line in lines
             if path not in EXCEPTIONS]
    assert not wrong, '\n'.join(wrong)


def test_every_exception_is_needed():
    assert not EXCEPTIONS.keys() - ways().keys()


def ways() -> dict[str, list[int]]:
    """Returns the lines of `process_lines` of each file below tests/ that has any."""
    found = {path.relative_to(TESTS).as_posix(): process_lines(tree_of(path)) for path in sorted(TESTS.rglob('*.py'))}
    return {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(('text', 'lines'), [
    ('import subprocess', [1]), ('import os, subprocess as s', [1]), ('def run():\n    from subprocess import Popen', [2]),
    ('import multiprocessing.pool', [1]), ('from multiprocessing import Process', [1]), ('import pexpect', [1]),
    ('from concurrent.futures import ProcessPoolExecutor', [1]),
    ('from concurrent import futures\nfutures.ThreadPoolExecutor()\nfutures.ProcessPoolExecutor()', [3]),
    ('import os\nos.environ\nos.system("true")', [3]), ('from os import fork', [1]), ('import os\nstart = os.posix_spawn', [2]),
    ('os.popen("true")\nos.spawnve(0, "a", [], {})\nos.getpid()', [1, 2]), ('import pty\npty.spawn("sh")', [2]),
    ('await_ = asyncio.create_subprocess_exec("true")', [1]),
    ('from tests.testing import processes\nprocesses.run(["true"])\ntext = "import subprocess"', [])])
def test_ways_to_start_a_process_are_found_however_they_are_written(text, lines):
    assert process_lines(ast.parse(text)) == lines
