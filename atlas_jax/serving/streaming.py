"""An answer as a stream of server-sent events, while it is made."""

import asyncio
import concurrent.futures
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from atlas_jax import api
from atlas_jax.serving import batching, holdings, problems


class Told:
    """Hears of an answer in the thread that computes, and hands events to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, index: api.Index):
        self._loop, self._index, self._last = loop, index, ''
        self.events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()

    def put(self, event: tuple[str, Any] | None) -> None:
        """Takes an event from any thread; None is the end."""
        # A server that was stopped closes its loop, perhaps before the last answer is computed: then nobody listens.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def found(self, row: int, passages: tuple[api.AnswerPassage, ...]) -> None:
        """Takes the passages."""
        # The thread that computes waits for the program that calls this, so the store does not change meanwhile.
        rows = [holdings.passage_row(each, self._index) for each in passages]
        # Attention is known when the last token is.
        self.put(('passages', [{name: value for name, value in each.items() if name != 'attention'} for each in rows]))

    def text(self, row: int, text: str) -> None:
        """Takes the text so far; padding changes nothing."""
        if text != self._last:
            self._last = text
            self.put(('token', {'text': text}))


async def events(told: Told, future: concurrent.futures.Future, seconds: float, start: float) -> AsyncIterator[str]:
    """Yields server-sent events until the answer, or what went wrong."""
    # Behind all that it tells: the loop takes what threads hand it in their order.
    future.add_done_callback(lambda _: told.put(None))
    try:
        try:
            # The limit is of the answer, not of the client's reading: one that reads slowly keeps nobody but itself.
            while (heard := await asyncio.wait_for(told.events.get(), start + seconds - time.monotonic())) is not None:
                yield event(*heard)
            answer = future.result()
        except TimeoutError:
            # The status was sent with the first byte, so problems come as events.
            yield event('error', batching.late().body())
        except (Exception, concurrent.futures.CancelledError) as error:
            yield event('error', problems.of(error).body())
        else:
            yield event('answer', {'answers': [answer], 'seconds': round(time.monotonic() - start, 4)})
    finally:
        future.cancel()  # where the client has gone


def event(name: str, value: Any) -> str:
    """Returns a server-sent event."""
    # JSON has no line breaks of its own, so a single data line is enough.
    return f'event: {name}\ndata: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n'
