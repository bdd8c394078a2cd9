"""The watchdog of several processes: ends the run when one of them dies or hangs, as the others would wait for it for ever."""

import os
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable

import jax

from atlas_jax import errors

# The exit code of a run that the same command continues from its last checkpoint.
RESUMABLE = errors.PreemptedError.exit_code


class Watch:
    """Ends the run on every process when one of them dies or hangs, with a line that names it. A context manager.

    Every process calls `beat` with a growing position just before a step that the others wait for. A thread publishes the position and
    reads the others'. A process that publishes nothing for `dead_seconds` is dead. If the lowest position does not grow for `hang_seconds`,
    the processes at it hang.
    """

    def __init__(self, hang_seconds: float, dead_seconds: float = 60.0, end: Callable[[str], None] | None = None,
                 processes: int | None = None):
        """Prepares the watch; `end` takes the reason and ends the process, `processes` is their number (by default jax's)."""
        self.hang_seconds, self.dead_seconds = hang_seconds, dead_seconds
        self._processes = jax.process_count() if processes is None else processes
        self._position, self._heard = 0, 0
        self._end = _end_process if end is None else end
        self._stop = threading.Event()
        # A daemon, so that it never keeps a finished process alive.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._seen: dict[int, tuple[str, float]] = {}
        self._behind, self._behind_since = -1, time.monotonic()

    def __enter__(self) -> 'Watch':
        # A process alone waits for nobody.
        if jax.process_count() > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: types.TracebackType | None) -> None:
        if error is not None and not isinstance(error, errors.UserError) and self._thread.is_alive():
            # Another process's death shows as an error here. jax's own end would wait for that process, and no thread of ours would run.
            traceback.print_exception(error)
            self._thread.join(2 * self.dead_seconds)
            os._exit(1)
        self._stop.set()

    def beat(self, position: int) -> None:
        """Records that this process has reached `position`."""
        self._position = position

    def _run(self) -> None:
        from jax._src import distributed  # no public name leads to the key-value store that the processes share
        client = distributed.global_state.client
        assert client is not None  # the thread runs only if there are several processes
        # Six messages in the shorter time: one that is late by chance is no death.
        mine, interval = jax.process_index(), min(self.dead_seconds, self.hang_seconds) / 6
        while not self._stop.wait(interval):
            # A coordinator that is stopped, or whose machine is gone, never answers: jax itself would abort after 100 s, as in a crash.
            guard = threading.Timer(self.dead_seconds, self._end_without_coordinator, [f'nothing for {self.dead_seconds:.0f} s'])
            guard.daemon = True
            guard.start()
            try:
                self._heard += 1
                client.key_value_set(f'atlas/watch/{mine}', f'{self._heard} {self._position} {socket.gethostname()}', allow_overwrite=True)
                told = dict(client.key_value_dir_get('atlas/watch/'))
            except Exception as error:  # any error of the service means that process 0, which runs it, is gone
                self._end_without_coordinator(str(error).splitlines()[0][:120])
                return
            finally:
                guard.cancel()
            if reason := self.judge({int(key.rsplit('/', 1)[1]): value for key, value in told.items()}, time.monotonic()):
                self._end(reason)
                return

    def _end_without_coordinator(self, problem: str) -> None:
        if not self._stop.is_set():
            self._end(f'process 0, the coordinator, does not answer ({problem})')

    def judge(self, told: dict[int, str], now: float) -> str | None:
        """Returns why the run is to end, or None if all is well.

        Args:
          told: each process's last message, "count position host"; the count grows while the process lives.
          now: the time in seconds.
        """
        for process, value in told.items():
            # By our clock: those of other machines may differ.
            if self._seen.get(process, ('', 0.0))[0] != value:
                self._seen[process] = (value, now)
        for process, (value, when) in self._seen.items():
            if now - when > self.dead_seconds:
                return f'process {process} ({value.split()[2]}) is dead: not heard from for {now - when:.0f} s'
        positions = {process: int(value.split()[1]) for process, (value, _) in self._seen.items()}
        # Those that wait for it stand still too; the one furthest behind is the cause.
        behind = min(positions.values(), default=0)
        if behind != self._behind:
            self._behind, self._behind_since = behind, now
        if now - self._behind_since > self.hang_seconds:
            if missing := sorted(set(range(self._processes)) - set(positions)):
                return f'process {", ".join(map(str, missing))} has not been heard from at all'
            named = ', '.join(f'{process} ({self._seen[process][0].split()[2]})' for process in sorted(positions)
                              if positions[process] == behind)
            return f'process {named} hangs: at {behind} for {now - self._behind_since:.0f} s'
        return None


def _end_process(reason: str) -> None:
    """Ends this process at once, as its main thread may wait for another process for ever."""
    print(f'atlas-jax: process {jax.process_index()}: {reason}; the same command continues from the last checkpoint, if one was saved',
          file=sys.stderr, flush=True)
    os._exit(RESUMABLE)  # not sys.exit, which ends this thread alone
