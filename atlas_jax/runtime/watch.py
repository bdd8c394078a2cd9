"""The watchdog of a run of several processes: ends the run when one of them dies or hangs, since
the others would wait for it for ever.
"""

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

# Exit code of a run that the same command can continue from its last checkpoint.
RESUMABLE = errors.PreemptedError.exit_code


class Watch:
    """Ends the run on every process when one of them dies or hangs, with a line that names it. Use
    it as a context manager.

    Every process calls `beat` with a growing position just before a step that the others wait for.
    A thread publishes the position and reads those of the other processes. A process that publishes
    nothing for `dead_seconds` is dead. If the lowest position does not grow for `hang_seconds`, the
    processes at that position hang.
    """

    def __init__(self, hang_seconds: float, dead_seconds: float = 60.0,
                 end: Callable[[str], None] | None = None, processes: int | None = None):
        """Prepares the watch.

        Args:
          hang_seconds, dead_seconds: see the class.
          end: takes the reason and ends the process; None exits with RESUMABLE.
          processes: number of processes; None takes jax's.
        """
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
        # A single process waits for nobody.
        if jax.process_count() > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 _: types.TracebackType | None) -> None:
        if error is not None and not isinstance(error,
                                                errors.UserError) and self._thread.is_alive():
            # The death of another process shows as an error here. jax's shutdown would wait for
            # that process, and our thread would not run.
            traceback.print_exception(error)
            self._thread.join(2 * self.dead_seconds)
            os._exit(1)
        self._stop.set()

    def beat(self, position: int) -> None:
        """Records that this process has reached `position`."""
        self._position = position

    def _run(self) -> None:
        # A private name of jax, only read: it has no public access to the processes' key-value
        # store (jax 0.10).
        from jax._src import distributed
        client = distributed.global_state.client
        assert client is not None  # the thread runs only if there are several processes
        # Six messages within the shorter time: one late message must not count as a death.
        mine, interval = jax.process_index(), min(self.dead_seconds, self.hang_seconds) / 6
        while not self._stop.wait(interval):
            try:
                self._heard += 1
                client.key_value_set(f'atlas/watch/{mine}',
                                     f'{self._heard} {self._position} {socket.gethostname()}',
                                     allow_overwrite=True)
                told = dict(client.key_value_dir_get('atlas/watch/'))
            # Any error of the service means that process 0, which runs it, is gone.
            except Exception as error:
                if not self._stop.is_set():
                    self._end('process 0, the coordinator, does not answer '
                              f'({str(error).splitlines()[0][:120]})')
                return
            if reason := self.judge(
                {int(key.rsplit('/', 1)[1]): value for key, value in told.items()},
                    time.monotonic()):
                self._end(reason)
                return

    def judge(self, told: dict[int, str], now: float) -> str | None:
        """Returns why the run must end, or None if all is well.

        Args:
          told: last message of each process, "count position host"; the count grows while the
            process lives.
          now: the time in seconds.
        """
        for process, value in told.items():
            # Our clock, because clocks of other machines may differ.
            if self._seen.get(process, ('', 0.0))[0] != value:
                self._seen[process] = (value, now)
        for process, (value, when) in self._seen.items():
            if now - when > self.dead_seconds:
                return (f'process {process} ({value.split()[2]}) is dead: not heard from for '
                        f'{now - when:.0f} s')
        positions = {process: int(value.split()[1]) for process, (value, _) in self._seen.items()}
        # Processes that wait for it stand still too; the one furthest behind is the cause.
        behind = min(positions.values(), default=0)
        if behind != self._behind:
            self._behind, self._behind_since = behind, now
        if now - self._behind_since > self.hang_seconds:
            if missing := sorted(set(range(self._processes)) - set(positions)):
                return f'process {", ".join(map(str, missing))} has not been heard from at all'
            named = ', '.join(
                f'{process} ({self._seen[process][0].split()[2]})' for process in sorted(positions)
                if positions[process] == behind)
            return f'process {named} hangs: at {behind} for {now - self._behind_since:.0f} s'
        return None


def _end_process(reason: str) -> None:
    """Ends this process at once, since its main thread may wait for another process for ever."""
    print(f'atlas-jax: process {jax.process_index()}: {reason}; the same command continues from '
          'the last checkpoint, if one was saved',
          file=sys.stderr, flush=True)
    os._exit(RESUMABLE)  # sys.exit would end only this thread
