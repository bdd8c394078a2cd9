"""Runs one section of .ci/run: in a session of its own, with nothing on its standard input, its output passed on, until a deadline.

    python3 watched.py --name NAME --seconds N [--record FILE] [--log FILE] [--logs FOLDER] -- COMMAND...

Every process that the section has started ends with it, also one that has left its group: this process adopts orphans. None inherits this
process's standard output, so nobody waits behind it for one that keeps the pipe open. At the deadline it prints the tree of processes, the
stacks of those that are Python's (faulthandler, on SIGABRT) and the last lines of each log kept aside, and exits with 124.
"""

import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import resource
import selectors
import signal
import subprocess
import sys
import time

_ADOPTS = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl; elsewhere orphans outside the group are not found
_EXPIRED = 124  # as timeout(1)
_SHOWN_LINES = 40


def descendants(pid: int) -> list[int]:
    """Process numbers of all that descend from a process, parents first."""
    children: dict[int, list[int]] = {}
    for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def command_of(pid: int) -> str:
    """A process's command, '' of one that has ended."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f'/proc/{pid}/cmdline').read_text(errors='replace').replace('\0', ' ').strip()
    return ''


class Section:
    """A command that runs, and what it has printed."""

    def __init__(self, command: list[str], log: str | None):
        """Starts the command."""
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_ADOPTS, 1, 0, 0, 0)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                         start_new_session=True, env=os.environ | {'PYTHONFAULTHANDLER': '1', 'PYTHONUNBUFFERED': '1'})
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._to = open(log, 'ab', buffering=0) if log else sys.stdout.buffer

    def passed_on(self, seconds: float) -> bool:
        """Passes on what is printed within `seconds`; returns whether there was anything."""
        if not self._selector.get_map() or not self._selector.select(seconds):
            return False
        data = os.read(self._output, 1 << 16)
        if not data:
            self._selector.unregister(self._output)
        self._to.write(data)
        self._to.flush()
        return bool(data)

    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def print(self, text: str) -> None:
        """Prints a line of this program's own."""
        self._to.write(f'{text}\n'.encode())
        self._to.flush()

    def show(self) -> None:
        """Prints all processes, and has those of Python print their stacks and end."""
        found = descendants(os.getpid())
        self.print(subprocess.run(['ps', '-o', 'pid,ppid,stat,etime,time,args', '-p', ','.join(map(str, found))], capture_output=True,
                                  text=True, stdin=subprocess.DEVNULL).stdout if found else 'no process is left')
        for pid in found:
            if 'python' in command_of(pid) or 'pytest' in command_of(pid):
                self.print(f'--- stacks of {pid} {command_of(pid)[:150]}')
                with contextlib.suppress(OSError, AttributeError):
                    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))  # its memory is of no use here
                    os.kill(pid, signal.SIGABRT)
                until = time.monotonic() + 3
                while time.monotonic() < until and self.passed_on(0.5):
                    pass

    def end(self) -> list[str]:
        """Kills and waits for everything that is left. Returns its commands."""
        left: list[str] = []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM if self.code() is None else 0)
        if self.code() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
        while found := [pid for pid in descendants(os.getpid()) if command_of(pid)]:
            left += [command for pid in found if (command := command_of(pid)) and command not in left]
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        while self.passed_on(0):
            pass
        self._process.wait()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those it adopted: their processor time counts
                pass
        return left


def main() -> int:
    """Runs the section and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--name', required=True)
    parser.add_argument('--seconds', type=float, required=True)
    parser.add_argument('--record', help='file that gets a JSON line of what the section took')
    parser.add_argument('--log', help='file that gets the output, in place of standard output')
    parser.add_argument('--logs', help='folder of the logs kept aside, shown at the deadline')
    parser.add_argument('command', nargs='+')
    options = parser.parse_args()
    began, parent, asked = time.monotonic(), os.getppid(), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    section = Section(options.command, options.log)
    code: int | None = None
    while code is None and not asked and os.getppid() == parent:
        if time.monotonic() - began > options.seconds:
            section.print(f'\n.ci/run: "{options.name}" has not ended within {options.seconds:.0f} s. It runs:')
            section.show()
            for log in sorted(pathlib.Path(options.logs).glob('*.log')) if options.logs else []:
                section.print(f'--- last lines of {log.name}\n' + '\n'.join(log.read_text(errors='replace').splitlines()[-_SHOWN_LINES:]))
            code = _EXPIRED
            break
        section.passed_on(0.2)
        code = section.code()
    while section.code() is not None and section.passed_on(0):
        pass
    left = section.end()
    if code == 0 and left:
        section.print(f'.ci/run: "{options.name}" has left {"; ".join(left)[:500]} running; ended')
    if options.record:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(options.record, 'a') as file:
            file.write(json.dumps({'section': options.name, 'seconds': round(time.monotonic() - began, 1),
                                   'cpu_seconds': round(used.ru_utime + used.ru_stime, 1), 'code': code}) + '\n')
    return 143 if code is None else code if code >= 0 else 128 - code


if __name__ == '__main__':
    sys.exit(main())
