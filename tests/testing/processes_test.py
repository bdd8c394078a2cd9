"""Processes of tests end: at their deadline with their stacks, with the block that started them, and with all their children."""

import math
import os
import signal
import sys
import time

import psutil
import pytest

from tests.testing import processes

PYTHON = [sys.executable, '-S', '-c']
SLEEPS = """
import time
def waits_for_nothing():
    time.sleep(1000)
print('began', flush=True)
waits_for_nothing()
"""


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize('shell', ['exec "$@"', '"$@"; true', 'timeout 1000 "$@"; true'], ids=['alone', 'in a shell', 'in another group'])
def test_at_the_deadline_the_failure_has_what_was_printed_and_the_stack(shell):
    with pytest.raises(AssertionError) as failure, processes.started(['bash', '-c', shell, '', *PYTHON, SLEEPS], seconds=1) as process:
        process.wait()
    message = str(failure.value)
    assert 'has not ended within 1 s' in message and 'began' in message and 'in waits_for_nothing' in message
    assert not process.is_running()


@pytest.mark.parametrize('command', ['sleep 1000', 'timeout 1000 sleep 1000'])
def test_a_grandchild_keeps_nothing_waiting_and_ends_with_the_block(command):
    with processes.started(['bash', '-c', f'{command} & echo $!']) as process:
        number = int(process.line())
        assert process.line() == '' and process.wait().returncode == 0
        assert not is_gone(number)
    assert is_gone(number)


def test_what_leaves_the_session_is_not_waited_for():
    with processes.started(['bash', '-c', 'sleep 0.2 & setsid sleep 1000 & echo $!']) as process:
        number = int(process.line())
        try:
            process.wait_for_rest()
            assert not process.is_running() and not is_gone(number)
        finally:
            os.kill(number, signal.SIGKILL)


def test_standard_input_is_empty_or_what_is_given(tmp_path):
    command = [*PYTHON, 'import sys; print([sys.stdin.read()])']
    assert processes.run(command).stdout == "['']\n"
    assert processes.run(command, input='two\nlines').stdout == "['two\\nlines']\n"
    (tmp_path / 'file').write_text('é')
    with open(tmp_path / 'file') as file:
        assert processes.run(['cat'], stdin=file).stdout == 'é'


def test_a_failure_has_what_was_printed():
    command = ['bash', '-c', 'echo spoken; echo complained >&2; exit 3']
    with pytest.raises(AssertionError, match=r'(?s)ended with 3\n.*stdout\nspoken\n.*stderr\ncomplained\n'):
        processes.run(command)
    assert processes.run(command, check=False) == (3, 'spoken\n', 'complained\n')
    assert processes.run(command, check=False, merged=True) == (3, 'spoken\ncomplained\n', '')
    with pytest.raises(ZeroDivisionError) as failure, processes.started(command) as process:
        process.wait()
        raise ZeroDivisionError
    assert 'complained' in failure.value.__notes__[0]


def test_lines_come_as_they_are_printed():
    with processes.started(['bash', '-c', r'printf "one\ntw"; sleep 0.1; printf "o\nthree"']) as process:
        assert [process.line() for _ in range(5)] == ['one\n', 'two\n', 'three', '', '']
    with processes.started(['sleep', '1000'], seconds=0.1) as process, pytest.raises(AssertionError, match='not printed another line'):
        process.line()


def test_waiting_for_something_ends_with_the_process_and_at_the_deadline(tmp_path):
    with processes.started(['bash', '-c', f'echo last words; touch {tmp_path}/file; exit 4']) as process:
        process.wait_for((tmp_path / 'file').exists)
        with pytest.raises(AssertionError, match=r'(?s)ended with 4 before it opened its port\n.*last words'):
            process.wait_for(lambda: False, 'opened its port')
    with processes.started(['sleep', '1000'], seconds=0.1) as process, pytest.raises(AssertionError, match='not opened its port within'):
        process.wait_for(lambda: False, 'opened its port')


def test_a_signal_is_seen_in_the_exit_code():
    with processes.started(['sleep', '1000']) as process:
        assert process.is_running()
        process.signal(signal.SIGTERM)
        assert process.wait().returncode == -signal.SIGTERM


def test_processes_of_one_run_know_their_numbers():
    program = [*PYTHON[1:], 'import os; print(*(os.environ[name] for name in ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "WORD")))']
    assert processes.run_together(program, processes=3, WORD='x') == [(0, '0 3 x\n'), (0, '1 3 x\n'), (0, '2 3 x\n')]
    with pytest.raises(AssertionError) as failure:
        processes.run_together([*PYTHON[1:], SLEEPS], processes=2, seconds=1)
    assert 'in waits_for_nothing' in str(failure.value)


def test_a_function_runs_in_a_forked_process():
    assert processes.run_forked(math.comb, 5, 2) == (0, 10)
    assert processes.run_forked(os._exit, 7) == (7, None)
    assert processes.run_forked(signal.raise_signal, signal.SIGKILL) == (-signal.SIGKILL, None)


def test_a_forked_process_ends_at_its_deadline():
    with pytest.raises(AssertionError, match=r'(?s)sleep\(1000,\) has not ended within 0.3 s\n.*in _forked\n'):
        processes.run_forked(time.sleep, 1000, seconds=0.3)
