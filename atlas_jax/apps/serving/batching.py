"""A queue and the one thread that computes: waiting items of one kind are computed together."""

import collections
import concurrent.futures
import dataclasses
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from atlas_jax import errors
from atlas_jax.apps.serving import problems


class WorkKind(Hashable, Protocol):
    """The settings that items share. Items of equal kinds may be computed together."""

    @property
    def together(self) -> int:
        """The maximum number of items in one call."""

    def compute(self, items: Sequence[Any]) -> list[Any]:
        """Returns a result for each item, in order."""


@dataclasses.dataclass(frozen=True)
class Alone:
    """One call of a function, never joined with others, such as a change of an index."""

    function: Callable[[], Any]
    together: int = 1

    def compute(self, items: Sequence[Any]) -> list[Any]:
        """Calls the function."""
        return [self.function()]


@dataclasses.dataclass(frozen=True)
class _Waiting:
    kind: WorkKind
    item: Any
    deadline: float  # a time of time.monotonic
    future: concurrent.futures.Future


class Batcher:
    """Computes in its own thread, in order of arrival. Only this thread calls jax.

    Attributes:
      seconds: recent duration of a batch, which estimates when a refused request may try again.
    """

    def __init__(self, most_waiting: int, on_batch: Callable[[int], None] = lambda size: None):
        """Does not start the thread.

        Args:
          most_waiting: items that may wait; more are refused.
          on_batch: called with the size of each batch.
        """
        self._most_waiting, self._on_batch = most_waiting, on_batch
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed, self._stopping, self.seconds = threading.Condition(), False, 1.0
        self._thread = threading.Thread(target=self._run, name='compute', daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def alive(self) -> bool:
        """Returns whether the thread runs."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping

    def depth(self) -> int:
        """Returns the number of waiting items."""
        return len(self._waiting)

    def submit(self, kind: WorkKind, items: Sequence[Any],
               seconds: float) -> list[concurrent.futures.Future]:
        """Adds items to the queue, all of them or none. Cancel a future to drop its item.

        Args:
          kind: the items' common settings.
          items: arguments of `kind.compute`.
          seconds: time after which a waiting item is dropped.

        Raises ProblemError: too many wait (429), or the server stops (503).
        """
        deadline = time.monotonic() + seconds
        entries = [_Waiting(kind, item, deadline, concurrent.futures.Future()) for item in items]
        with self._changed:
            if self._stopping:
                raise problems.stopping()
            # All or none: half a request is useless.
            if len(self._waiting) + len(entries) > self._most_waiting:
                raise problems.ProblemError(
                    429, f'{len(self._waiting)} questions wait already, at most '
                    f'{self._most_waiting} may; try again later', retry_after=self._until_free())
            self._waiting.extend(entries)
            self._changed.notify()
        return [entry.future for entry in entries]

    def stop(self) -> None:
        """Refuses new items, and returns when the waiting ones are computed."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _until_free(self) -> int:
        together = self._waiting[0].kind.together if self._waiting else 1
        batches = len(self._waiting) / max(together, 1)
        return max(1, min(round(batches * self.seconds), 60))

    def _run(self) -> None:
        while batch := self._next():
            start = time.monotonic()
            _compute(batch)
            # A moving average, because the first batches compile.
            self.seconds = .8 * self.seconds + .2 * (time.monotonic() - start)
            self._on_batch(len(batch))

    def _next(self) -> list[_Waiting]:
        """Returns the first waiting item and others of its kind; nothing if the thread must end."""
        # The first item in order of arrival takes along others of its kind, so no kind waits
        # forever.
        with self._changed:
            while True:
                batch: list[_Waiting] = []
                rest: collections.deque[_Waiting] = collections.deque()
                for entry in self._waiting:
                    if len(batch) and (entry.kind != batch[0].kind
                                       or len(batch) >= batch[0].kind.together):
                        rest.append(entry)
                    # False if the future was cancelled.
                    elif _is_late(entry) or not entry.future.set_running_or_notify_cancel():
                        continue
                    else:
                        batch.append(entry)
                self._waiting = rest
                if batch or self._stopping:
                    return batch
                self._changed.wait()


def _is_late(entry: _Waiting) -> bool:
    if time.monotonic() <= entry.deadline:
        return False
    if entry.future.set_running_or_notify_cancel():
        entry.future.set_exception(too_late())
    return True


def too_late() -> problems.ProblemError:
    """Returns the problem of a request that was not answered in time."""
    return problems.ProblemError(
        503, 'no answer within the time that the request allows; ask again when there is less to '
        'do, or allow more', retry_after=5)


def _compute(batch: Sequence[_Waiting]) -> None:
    """Sets the results of a batch. If it fails, tries each item alone, so that one bad item does
    not spoil the others.
    """
    try:
        results = batch[0].kind.compute([entry.item for entry in batch])
    except Exception as error:
        if len(batch) > 1 and isinstance(error, errors.UserError):
            for entry in batch:
                _compute([entry])
            return
        # Our own bug; the server stays up.
        if not isinstance(error, errors.UserError | problems.ProblemError):
            traceback.print_exc()
        for entry in batch:
            entry.future.set_exception(error)
        return
    for entry, result in zip(batch, results, strict=True):
        entry.future.set_result(result)
