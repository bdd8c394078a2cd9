"""What a run of many tests needs to end and to say where it is: a line for each file, the tests behind a stuck one, no process left.

pytest.ini has the deadlines of tests. Imports neither jax nor the library, so that tests of it start quickly.
"""

import collections
import faulthandler
import os
import resource
import time
import uuid

import psutil
import pytest

MARK = 'ATLAS_JAX_TEST_SESSION'  # in the environment of every process of a session, but not of the one that began it
DEAREST = 20
_PATIENCE = 10  # seconds that a process may take to end after the workers
_ENDS_FILE = pytest.StashKey[bool]()


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def pytest_configure(config: pytest.Config) -> None:
    """Registers what measures files, and where the session begins what watches it."""
    if not hasattr(config, 'workerinput'):
        os.environ[MARK] = uuid.uuid4().hex  # a session inside a test has its own
        config.pluginmanager.register(Session(config), 'atlas_jax_session')
    config.pluginmanager.register(Files(is_worker=hasattr(config, 'workerinput')), 'atlas_jax_files')


class Files:
    """Measures, in the process that runs the tests, what each file takes, and hands it over with the report of the file's last test."""

    def __init__(self, is_worker: bool) -> None:
        self._began: tuple[float, float] | None = None
        self._stderr = os.fdopen(os.dup(2), 'w') if is_worker else None  # before it is captured

    @pytest.hookimpl(optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings) -> bool | None:
        """In a worker, whose terminal nobody sees, shows the stacks on standard error; also where a C call holds the interpreter."""
        if self._stderr is None or settings.method != 'thread':
            return None
        faulthandler.dump_traceback_later(settings.timeout, exit=True, file=self._stderr)
        item.cancel_timeout = faulthandler.cancel_dump_traceback_later
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None):
        """Notes whether this is the last test of its file."""
        self._began = self._began or (time.monotonic(), cpu_seconds())
        item.stash[_ENDS_FILE] = nextitem is None or nextitem.path != item.path
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Adds what the file took to its last report."""
        report = yield
        if call.when == 'teardown' and item.stash[_ENDS_FILE] and self._began is not None:
            report.file_took = [time.monotonic() - self._began[0], cpu_seconds() - self._began[1]]
            self._began = None
        return report


class Session:
    """Prints a line as each file ends and one for each failure, at the end the dearest files; fails if a process is left."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._begin = config, time.monotonic()
        self._has_workers = bool(getattr(config.option, 'numprocesses', None))
        self.took: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])  # seconds and CPU seconds by file
        self._passed: set[str] = set()  # files with a test that passed

    def costs(self) -> dict[str, float]:
        """Returns the CPU seconds of each file with a test that passed: what one costs that was skipped is not known."""
        return {file: took[1] for file, took in self.took.items() if file in self._passed}

    def _write(self, report: pytest.TestReport, text: str) -> None:
        terminal = self._config.pluginmanager.getplugin('terminalreporter')
        if self._has_workers and terminal is not None:
            terminal.write_line(f'{time.monotonic() - self._begin:6.0f} s  {getattr(report, "worker_id", "-"):4}  {text}')
            terminal.flush()  # a log that is cut anywhere names what ran before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tells of a failure at once, and of a file as it ends."""
        file = report.nodeid.partition('::')[0]
        if report.failed:
            crash = getattr(report.longrepr, 'reprcrash', None)
            self._write(report, f'FAILED {report.nodeid} {crash.message.splitlines()[0][:200] if crash else ""}')
        if report.when == 'call' and report.passed:
            self._passed.add(file)
        if took := getattr(report, 'file_took', None):  # several times, if a worker has died in the file
            self.took[file] = [sum(both) for both in zip(self.took[file], took, strict=True)]
            self._write(report, f'{file}  {took[0]:.1f} s')

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: pytest.TestReport):
        """Prints no dots where files have their lines."""
        status = yield
        return (status[0], '', '') if self._has_workers and self._config.option.verbose <= 0 else status

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log):
        """Gives a file's tests to one worker. If it dies, the rest goes to the next one, without the test that it died in."""
        from xdist.scheduler import loadfile

        class Scheduler(loadfile.LoadFileScheduling):
            def remove_node(self, node):
                # xdist would begin the rest with the test in which the worker died, and that would end the next one too.
                files = self.assigned_work[node]
                crashed = next(((file, test) for file, tests in files.items() for test, done in tests.items() if not done), None)
                if crashed is not None:
                    files[crashed[0]][crashed[1]] = True
                    if all(files[crashed[0]].values()):
                        del files[crashed[0]]
                super().remove_node(node)
                return crashed and crashed[1]

            def schedule(self):
                super().schedule()
                # A worker runs a test when it knows what follows. One that takes the place of another is given a single file by xdist,
                # and if that has a single test left, it and so the whole session would wait for ever.
                for node in self.nodes if self.collection else ():
                    while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
                        self._reschedule(node)

        return Scheduler(config, log) if config.option.dist == 'loadfile' else None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Ends what tests have started and left, and fails the session with its names."""
        left = left_processes()
        if not left:
            return
        lines = [f'{process.pid}: {_command(process)}' for process in left]
        for process in left:
            process.kill()
        text = '\n'.join(['processes were still running when all tests had ended; start them with tests/testing/processes.py:', *lines])
        place = ('tests/testing/gate.py', 0, '')
        report = pytest.TestReport('tests/testing/gate.py::no_process_is_left', place, {}, 'failed', text, 'call')
        session.config.hook.pytest_runtest_logreport(report=report)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Prints the dearest files."""
        if self._has_workers:
            terminalreporter.section(f'{DEAREST} dearest files: seconds, CPU seconds')
            for file in sorted(self.took, key=lambda file: -self.took[file][0])[:DEAREST]:
                terminalreporter.write_line(f'{self.took[file][0]:7.1f} {self.took[file][1]:7.1f}  {file}')


def left_processes() -> list[psutil.Process]:
    """Returns the processes of this session that do not end by themselves within some seconds."""
    until = time.monotonic() + _PATIENCE
    while (left := [process for process in psutil.process_iter() if _is_of_session(process)]) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _is_of_session(process: psutil.Process) -> bool:
    try:
        if process.environ().get(MARK) != os.environ[MARK] or process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Without workers, what multiprocessing keeps for this process is still there; it ends with it.
        return not ('from multiprocessing' in _command(process) and os.getpid() in [parent.pid for parent in process.parents()])
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return ' '.join(process.cmdline())[:200]
    except psutil.Error:
        return 'gone meanwhile'

