"""The one thread that computes, and what waits for it: items of one kind that wait together are computed together."""

import collections
import concurrent.futures
import dataclasses
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from atlas_jax import errors
from atlas_jax.serving import problems


class Kind(Hashable, Protocol):
    """The part that items have in common: those of equal kinds may be computed together."""

    @property
    def together(self) -> int:
        """The most items of one call."""

    def compute(self, items: Sequence[Any]) -> list[Any]:
        """Returns a result for each item, in order."""


@dataclasses.dataclass(frozen=True)
class Alone:
    """One call of a function, beside nothing else: changes of an index, and what no other request shares."""

    function: Callable[[], Any]
    together: int = 1

    def compute(self, items: Sequence[Any]) -> list[Any]:
        """Calls the function."""
        return [self.function()]


@dataclasses.dataclass(frozen=True)
class _Waiting:
    kind: Kind
    item: Any
    deadline: float  # of time.monotonic
    future: concurrent.futures.Future


class Batcher:
    """Computes in one thread of its own, in the order of arrival; it alone calls jax.

    Attributes:
      seconds: that a batch took lately; what is refused is told to come back after the batches before it.
    """

    def __init__(self, most_waiting: int, computed: Callable[[int], None] = lambda size: None):
        """Starts nothing yet.

        Args:
          most_waiting: items that may wait; more are refused.
          computed: told the size of each batch.
        """
        self._most_waiting, self._computed = most_waiting, computed
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
        """True once it was told to stop."""
        return self._stopping

    def depth(self) -> int:
        """Returns how many items wait."""
        return len(self._waiting)

    def submit(self, kind: Kind, items: Sequence[Any], seconds: float) -> list[concurrent.futures.Future]:
        """Has items computed, all of them or none; cancel a future whose result nobody waits for any more.

        Args:
          kind: what they have in common.
          items: what `kind.compute` takes.
          seconds: after which an item that still waits is dropped.

        Raises ProblemError: too many wait (429), or the server stops (503).
        """
        deadline = time.monotonic() + seconds
        entries = [_Waiting(kind, item, deadline, concurrent.futures.Future()) for item in items]
        with self._changed:
            if self._stopping:
                raise problems.stopping()
            # All or none: half of a request is of no use.
            if len(self._waiting) + len(entries) > self._most_waiting:
                raise problems.ProblemError(429, f'{len(self._waiting)} questions wait already, at most {self._most_waiting} may; try '
                                            'again later', retry_after=self._until_free())
            self._waiting.extend(entries)
            self._changed.notify()
        return [entry.future for entry in entries]

    def stop(self, seconds: float = 60.0) -> bool:
        """Refuses what comes from now on. Waits until all that waits is computed; returns whether it was within `seconds`.

        A call that takes longer goes on in the thread, a daemon, until the process ends.
        """
        # What waits already is still answered.
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _until_free(self) -> int:
        batches = len(self._waiting) / max(self._waiting[0].kind.together if self._waiting else 1, 1)
        return max(1, min(round(batches * self.seconds), 60))

    def _run(self) -> None:
        while batch := self._next():
            start = time.monotonic()
            _compute(batch)
            # Of the last few batches: the first ones compile.
            self.seconds = .8 * self.seconds + .2 * (time.monotonic() - start)
            self._computed(len(batch))

    def _next(self) -> list[_Waiting]:
        """Returns the first item that waits and others of its kind; nothing where the thread is to end."""
        # In order of arrival but for those of the first one's kind, which it takes along: nobody is passed by another kind for ever.
        with self._changed:
            while True:
                batch: list[_Waiting] = []
                rest: collections.deque[_Waiting] = collections.deque()
                for entry in self._waiting:
                    if len(batch) and (entry.kind != batch[0].kind or len(batch) >= batch[0].kind.together):
                        rest.append(entry)
                    # False where nobody waits for it any more.
                    elif _is_late(entry) or not entry.future.set_running_or_notify_cancel():
                        continue
                    else:
                        batch.append(entry)
                self._waiting = rest
                if batch or self._stopping:
                    return batch
                self._changed.wait()  # `submit` and `stop` end it


def _is_late(entry: _Waiting) -> bool:
    if time.monotonic() <= entry.deadline:
        return False
    if entry.future.set_running_or_notify_cancel():
        entry.future.set_exception(late())
    return True


def late() -> problems.ProblemError:
    """Returns the problem of a request that could not be answered in its time."""
    return problems.ProblemError(503, 'no answer within the time that the request allows; ask again when there is less to do, or allow '
                                 'more', retry_after=5)


def _compute(batch: Sequence[_Waiting]) -> None:
    """Sets the results of a batch. Where it fails each item is tried alone: one must not spoil the others."""
    try:
        results = batch[0].kind.compute([entry.item for entry in batch])
    except Exception as error:
        if len(batch) > 1 and isinstance(error, errors.UserError):
            for entry in batch:
                _compute([entry])
            return
        # A fault of ours; the server stays up.
        if not isinstance(error, errors.UserError | problems.ProblemError):
            traceback.print_exc()
        for entry in batch:
            entry.future.set_exception(error)
        return
    for entry, result in zip(batch, results, strict=True):
        entry.future.set_result(result)
