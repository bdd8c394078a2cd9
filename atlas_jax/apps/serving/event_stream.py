"""An answer as a stream of server-sent events, sent while it is decoded."""

import asyncio
import concurrent.futures
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from atlas_jax.answering import api
from atlas_jax.apps.serving import batching, holdings, problems


class StreamListener:
    """Receives an answer's progress in the computing thread, and passes events to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, index: api.Index):
        self._loop, self._index, self._last = loop, index, ''
        self.events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()

    def put(self, event: tuple[str, Any] | None) -> None:
        """Adds an event from any thread; None is the end."""
        # A stopped server may close its loop before the last answer is computed; then nobody
        # listens.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def found(self, row: int, passages: tuple[api.AnswerPassage, ...]) -> None:
        """Adds the event of the passages found."""
        # The computing thread waits for the program that calls this, so the store does not change.
        rows = [holdings.passage_row(each, self._index) for each in passages]
        # Attention is known only after the last token.
        self.put(('passages', [
            {name: value for name, value in each.items() if name != 'attention'} for each in rows]))

    def text(self, row: int, text: str) -> None:
        """Adds the event of the text so far. Padding tokens do not change it."""
        if text != self._last:
            self._last = text
            self.put(('token', {'text': text}))


async def events(listener: StreamListener, future: concurrent.futures.Future, seconds: float,
                 start: float) -> AsyncIterator[str]:
    """Yields server-sent events up to the answer or a problem."""
    # Last of all events: the loop keeps the order in which a thread adds them.
    future.add_done_callback(lambda _: listener.put(None))
    try:
        try:
            # The limit is for the answer, not for the client's reading, which delays nobody else.
            while (found := await asyncio.wait_for(listener.events.get(),
                                                   start + seconds - time.monotonic())) is not None:
                yield event(*found)
            answer = future.result()
        except TimeoutError:
            # The status was sent with the first byte, so problems become events.
            yield event('error', batching.too_late().body())
        except (Exception, concurrent.futures.CancelledError) as error:
            yield event('error', problems.as_problem(error).body())
        else:
            yield event('answer',
                        {'answers': [answer], 'seconds': round(time.monotonic() - start, 4)})
    finally:
        future.cancel()  # in case the client has gone


def event(name: str, value: Any) -> str:
    """Returns a server-sent event."""
    # json.dumps writes no line breaks, so one data line is enough.
    return f'event: {name}\ndata: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n'
