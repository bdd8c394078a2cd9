""".ci/run's sections: nothing that they start outlives them, each has a deadline, and the last run is kept."""

import json
import os
import pathlib
import re
import shutil
import time

import psutil
import pytest

from tests.testing import processes

CI = pathlib.Path(__file__).resolve().parents[1] / '.ci'
LEAVES = """
leaves() {
  sleep 1000 &
  echo "left $!"
  setsid sleep 1001 > /dev/null 2>&1 &
  echo "left $!"
}
section 'leaves two processes' 30 leaves
echo last line
"""
STUCK = """
beside() { echo said beside; sleep 1000; }
stuck() { python3 -c 'import time
def waits_for_ever(): time.sleep(1000)
waits_for_ever()'; }
begin aside 'runs beside' 100 beside
section 'is stuck' 2 stuck
echo never
"""


@pytest.fixture
def gate(tmp_path):
    """Runs a script of sections as CI runs .ci/run, behind a pipe; returns its exit code and what came through the pipe."""
    (tmp_path / '.ci').mkdir()
    for name in ('sections.sh', 'watched.py', 'last_run.py'):
        shutil.copy(CI / name, tmp_path / '.ci')

    def run(sections, **environment):
        (tmp_path / '.ci' / 'run').write_text(f'set -euo pipefail\n. .ci/sections.sh\n{sections}')
        command = 'set -o pipefail; setsid bash .ci/run < /dev/null 2>&1 | cat > log'
        variables = {name: value for name, value in os.environ.items() if name != 'CI_BUDGET'}
        done = processes.run(['bash', '-c', command], cwd=tmp_path, seconds=60, check=False, env=variables | environment)
        return done.returncode, (tmp_path / 'log').read_text()

    return run


def last_run(folder):
    """The kept file."""
    return json.loads((folder / '.ci' / 'last_run.json').read_text())


def test_nothing_outlives_a_section(gate, tmp_path):
    began = time.monotonic()
    code, log = gate(LEAVES)
    assert time.monotonic() - began < 5 and code == 0, log
    left = [int(number) for number in re.findall(r'left (\d+)', log)]
    assert len(left) == 2 and not [number for number in left if psutil.pid_exists(number)]
    assert 'has left sleep 1000' in log and 'last line' in log
    run = last_run(tmp_path)
    assert run['passed'] and run['clean'] is None and run['processor'] and [each['code'] for each in run['sections']] == [0]


def test_a_section_that_is_stuck_shows_where_and_ends_the_run(gate, tmp_path):
    code, log = gate(STUCK)
    assert code == 1 and 'never' not in log, log
    for part in ('"is stuck" has not ended within 2 s', 'in waits_for_ever', 'last lines of aside.log\nsaid beside',
                 'python3 -c import time'):
        assert part in log, log
    assert not last_run(tmp_path)['passed']
    assert {each['section']: each['code'] for each in last_run(tmp_path)['sections']} == {'is stuck': 124, 'runs beside': None}


def test_all_sections_together_have_a_budget(gate):
    code, log = gate("waits() { sleep 1000; }\nsection 'waits' 500 waits\n", CI_BUDGET='1')
    assert code == 1 and '"waits" has not ended within 1 s' in log, log


def test_a_section_that_fails_ends_the_run(gate, tmp_path):
    code, log = gate("fails() { false; echo behind; }\nsection 'fails' 9 fails\necho never\n")
    assert code == 1 and 'behind' not in log and 'never' not in log and 'FAILED' in log, log
    assert last_run(tmp_path)['sections'][0]['code'] == 1


def test_what_runs_beside_the_rest_fails_the_run_when_it_is_waited_for(gate):
    code, log = gate("fails() { echo why; exit 3; }\nbegin log 'fails' 9 fails\nended log\necho never\n")
    assert code == 1 and 'why' in log and 'never' not in log, log
