"""A run of tests ends by itself: a stuck test ends alone, a process that is left is named, and each file has its line."""

import os
import pathlib
import re
import sys

import psutil

from tests.testing import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUCK = """
import time
def test_before(): pass
def waits_for_ever(): time.sleep(1000)
def test_stuck(): waits_for_ever()
"""
FILES = {
    'middle_test.py': f'{STUCK}def test_behind(): pass\n',
    # The worker that takes over has nothing of this file to run, and a single test of the next: xdist alone would wait for ever.
    'last_test.py': STUCK,
    'leaves_test.py': """
import subprocess
def test_leaves(): subprocess.Popen(['sleep', '1017'])
""",
    'pytest.ini': '[pytest]\npython_files = *_test.py\n',
    'conftest.py': 'from tests.testing import gate\ngate._PATIENCE = 0.3\n'}
WITHOUT = [word for name in ('cacheprovider', 'nbmake', 'schemathesis', 'anyio', 'hypothesispytest') for word in ('-p', f'no:{name}')]


def test_what_is_stuck_or_left_is_named_and_the_rest_runs(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = processes.run([sys.executable, '-m', 'pytest', '-p', 'tests.testing.gate', *WITHOUT, '-n', '1', '--dist', 'loadfile',
                          '--timeout', '1', '--timeout-method', 'thread', 'middle_test.py', 'last_test.py', 'leaves_test.py'],
                         check=False, cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(ROOT)}, merged=True)
    assert done.returncode == 1 and re.search(r'= 3 failed, 4 passed in ', done.stdout), done.stdout
    for file in ('middle_test.py', 'last_test.py'):
        assert re.search(rf'^ +\d+ s  \S+ +FAILED {file}::test_stuck', done.stdout, re.MULTILINE), done.stdout
    for file in ('middle_test.py', 'leaves_test.py'):
        assert re.search(rf'^ +\d+ s  gw\d +{file}  \d+\.\d s$', done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.count('in waits_for_ever') == 2 and 'dearest files' in done.stdout, done.stdout
    assert re.search(r'FAILED gate.py::no_process_is_left|no_process_is_left', done.stdout) and ': sleep 1017' in done.stdout, done.stdout
    assert not [process for process in psutil.process_iter(['cmdline']) if process.info['cmdline'] == ['sleep', '1017']]
