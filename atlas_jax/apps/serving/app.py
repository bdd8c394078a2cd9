"""The routes: each checks a request, has the computing thread answer it, and responds with JSON or
a stream of events.
"""

import asyncio
import contextlib
import dataclasses
import functools
import importlib.resources
import math
import mimetypes
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from atlas_jax.apps.project import questions
from atlas_jax.apps.serving import (
    batching,
    changes,
    event_stream,
    guards,
    openapi,
    problems,
    projection,
    request_counts,
    schemas,
)
from atlas_jax.apps.serving import holdings as holdings_lib
from atlas_jax.apps.serving.request_limits import Limits

_MAP_TOP_K = 10
_Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """A server's state, and a handler for each route.

    Attributes:
      holdings: models and indexes.
      limits: limits of requests.
      batcher: the queue and the computing thread.
      metrics: counts of requests and batches.
      token: token that changes need.
      ready: True once everything is compiled that the first requests need.
    """

    def __init__(self, holdings: holdings_lib.Holdings, token: str, limits: Limits | None = None):
        """Takes the models and indexes, and the token that changes need."""
        self.holdings, self.limits = holdings, limits or Limits()
        self.token, self._schemas, self._pages = token, schemas.bodies(self.limits), _pages()
        self.batcher = batching.Batcher(self.limits.waiting,
                                        lambda size: self.metrics.batches.observe(size))
        self.metrics, self.ready = request_counts.Metrics(self.batcher.depth), False

    def warm_up(self) -> None:
        """Compiles what the first requests need, and queues the compilation of streams. The
        computing thread calls it.
        """
        answering = self._answering({})
        for size in holdings_lib.SIZES:
            if size <= answering.together:
                self._compile(answering, size)
        self.ready = True
        # Streams call the host back, so jax does not cache their programs (steps/listening.py).
        # Each start compiles them, the page's first; waiting requests are served in between.
        streamed = dataclasses.replace(answering, streamed=True)
        # Refused if the server is being stopped or its queue is full.
        with contextlib.suppress(problems.ProblemError):
            for kind in (dataclasses.replace(streamed, explain=True, closed_book=True), streamed):
                self.batcher.submit(batching.Alone(functools.partial(self._compile, kind)), [None],
                                    math.inf)

    def _compile(self, kind: holdings_lib.Answering, size: int = 1) -> None:
        # A stopping server compiles nothing more.
        if not self.batcher.stopping:
            kind.compute([holdings_lib.Question('what is it?')] * size)

    async def answer(self, request: Request) -> Response:
        """Answers questions."""
        start, body = time.monotonic(), await self._body(request, 'Questions')
        asked = body['questions'] if 'questions' in body else [body['question']]
        kind, seconds = self._answering(body), self._seconds(request)
        if body.get('stream'):
            return self._streamed(kind, asked[0], seconds, start)
        items = [holdings_lib.Question(question) for question in asked]
        rows = await self._computed(request, kind, items, seconds)
        return JSONResponse({'answers': rows, 'seconds': round(time.monotonic() - start, 4)})

    async def retrieve(self, request: Request) -> Response:
        """Searches without reading."""
        body = await self._body(request, 'Queries')
        model, index = self._named(body)
        # 3.0 counts as an integer in JSON.
        kind = holdings_lib.Retrieving(self.holdings, model, index, int(body.get('topk', 3)))
        rows = await self._computed(request, kind, body['queries'], self._seconds(request))
        scored = body.get('return_scores', False)
        # Without scores, documents stand in place of {document, score}.
        return JSONResponse({
            'result': [[each if scored else each['document'] for each in row] for row in rows]})

    async def get_passage(self, request: Request) -> Response:
        """Returns a passage with its version."""
        return _versioned(await self._alone(request, changes.get, self._index(request),
                                            _docid(request)))

    async def add_passages(self, request: Request) -> Response:
        """Adds passages."""
        # Before the body is read, so that nobody without the token can make the server parse.
        guards.check_token(request, self.token)
        body = await self._body(request, 'Passages')
        rows = body.get('passages', [body])
        added = await self._alone(request, changes.add, self._index(request), self._model(request),
                                  rows)
        if 'passages' not in body:
            return _versioned(added[0], 201)
        # A header has room for one version only.
        shown = [{**changes.as_json(each), 'etag': holdings_lib.etag(each)} for each in added]
        return JSONResponse({'passages': shown}, 201)

    async def put_passage(self, request: Request) -> Response:
        """Replaces a passage."""
        guards.check_token(request, self.token)
        body = await self._body(request, 'Passage')
        passage, is_new = await self._alone(request, changes.put, self._index(request),
                                            self._model(request), _docid(request), body,
                                            request.headers.get('if-match'))
        return _versioned(passage, 201 if is_new else 200)

    async def delete_passage(self, request: Request) -> Response:
        """Deletes a passage."""
        guards.check_token(request, self.token)
        await self._alone(request, changes.delete, self._index(request), _docid(request),
                          request.headers.get('if-match'))
        return Response(status_code=204)

    async def map(self, request: Request) -> Response:
        """Returns the question among the passages, in a plane."""
        question = request.query_params.get('question', '')
        schemas.check(question, schemas.question(self.limits), 'question')
        model, index = self._named(dict(request.query_params))

        # One call, because the index's rows must not change between search and projection.
        def compute() -> list[projection.Point]:
            kind = holdings_lib.Retrieving(self.holdings, model, index, _MAP_TOP_K)
            [found] = kind.compute([question])
            return projection.points(self.holdings.models[model], self.holdings.indexes[index],
                                     question, [each['document']['id'] for each in found])

        found = await self._alone(request, compute)
        return JSONResponse({'points': [dataclasses.asdict(point) for point in found]})

    async def models(self, request: Request) -> Response:
        """Lists models and indexes."""
        return JSONResponse(self.holdings.described())

    async def health(self, request: Request) -> Response:
        """Reports whether the process works."""
        if not self.batcher.alive():
            raise problems.ProblemError(503, 'the computing thread has ended; start the server '
                                             'again')
        return JSONResponse({'status': 'ok'})

    async def is_ready(self, request: Request) -> Response:
        """Reports whether requests are answered at once."""
        if not self.ready:
            raise problems.ProblemError(503, 'programs are still being compiled', retry_after=5)
        return JSONResponse({'status': 'ready'})

    async def figures(self, request: Request) -> Response:
        """Returns the metrics."""
        # Bypasses the queue: figures matter most when it is full.
        return Response(self.metrics.text(), media_type=request_counts.MEDIA_TYPE)

    async def document(self, request: Request) -> Response:
        """Returns the OpenAPI document."""
        return JSONResponse(openapi.document(self.limits))

    async def page(self, request: Request) -> Response:
        """Returns a file of the page. All were read at the start: no requested path is opened."""
        name = request.path_params.get('name', 'index.html')
        if name not in self._pages:
            raise problems.ProblemError(404, 'there is no such page')
        content, media_type = self._pages[name]
        return Response(content, media_type=media_type, headers={'Cache-Control': 'no-cache'})

    async def _body(self, request: Request, name: str) -> dict[str, Any]:
        body: Any = guards.parse(await guards.read_body(request, self.limits))
        # First, because its messages are those of the command line.
        for text in _questions(body):
            questions.check(text)
        schemas.check(body, self._schemas[name])
        return body

    def _named(self, named: dict[str, Any]) -> tuple[str, str]:
        return self.holdings.model_name(named.get('model')), self.holdings.index_name(
            named.get('index'))

    def _index(self, request: Request):
        return self.holdings.indexes[self.holdings.index_name(request.query_params.get('index'))]

    def _model(self, request: Request):
        return self.holdings.models[self.holdings.model_name(request.query_params.get('model'))]

    def _answering(self, body: dict[str, Any]) -> holdings_lib.Answering:
        model, index = self._named(body)
        without = tuple(body.get('without', ()))
        n_context = self.holdings.passages_read(model, int(body.get('n_context', 0)))
        # Answers without some passages are computed one by one.
        return holdings_lib.Answering(self.holdings, model, index, n_context, without,
                                      body.get('explain', False), body.get('closed_book', False),
                                      body.get('stream', False),
                                      1 if without else self.limits.together)

    def _seconds(self, request: Request) -> float:
        text = request.headers.get('request-timeout')
        if text is None:
            return self.limits.seconds
        # Python also parses "nan" and "inf".
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 1 <= seconds < math.inf:
            raise problems.ProblemError(422, 'Request-Timeout: expected seconds, 1 or more, '
                                             f'found "{text[:40]}"')
        return min(seconds, self.limits.seconds)

    async def _alone(self, request: Request, function: Callable[..., Any], *arguments: Any) -> Any:
        [result] = await self._computed(request,
                                        batching.Alone(functools.partial(function, *arguments)),
                                        [None], self._seconds(request))
        return result

    async def _computed(self, request: Request, kind: batching.WorkKind, items: Sequence[Any],
                        seconds: float) -> list[Any]:
        """Computes items.

        Raises ProblemError: the results were too late; ClientDisconnect: the client has gone.
        """
        futures = self.batcher.submit(kind, items, seconds)
        results: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures))
        # Retrieves the exception, which asyncio would otherwise log as never retrieved.
        results.add_done_callback(lambda future: future.cancelled() or future.exception())
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        try:
            done, _ = await asyncio.wait({results, gone}, timeout=seconds,
                                         return_when=asyncio.FIRST_COMPLETED)
            if results in done:
                return list(results.result())
            if gone in done:
                raise ClientDisconnect
            raise batching.too_late()
        finally:
            gone.cancel()
            results.cancel()  # drops waiting items that nobody needs

    def _streamed(self, kind: holdings_lib.Answering, question: str, seconds: float,
                  start: float) -> Response:
        listener = event_stream.StreamListener(asyncio.get_running_loop(),
                                               self.holdings.indexes[kind.index])
        # Before the stream begins, so that a full queue gives a status and not an event.
        [future] = self.batcher.submit(kind, [holdings_lib.Question(question, listener)], seconds)
        # Proxies would otherwise buffer the tokens.
        headers = {'Cache-Control': 'no-store', 'X-Accel-Buffering': 'no'}
        return StreamingResponse(event_stream.events(listener, future, seconds, start),
                                 media_type='text/event-stream', headers=headers)


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    # The body was read, so the next message is the end.
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def _questions(body: Any) -> list[str]:
    given = [] if not isinstance(body, dict) else [
        body.get('question'), *_list(body.get('questions')), *_list(body.get('queries'))]
    return [text for text in given if isinstance(text, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _docid(request: Request) -> str:
    docid = request.path_params['docid']
    schemas.check(docid, schemas.DOCID, 'docid')
    return docid


def _versioned(passage: Any, status: int = 200) -> Response:
    return JSONResponse(changes.as_json(passage), status, {'ETag': holdings_lib.etag(passage)})


def _pages() -> dict[str, tuple[bytes, str]]:
    """Returns the files of the page, with their types."""
    folder = importlib.resources.files('atlas_jax.apps.serving') / 'page'
    # Without paths, because a package may be a zip file.
    return {
        file.name: (file.read_bytes(),
                    mimetypes.guess_type(file.name)[0] or 'application/octet-stream')
        for file in folder.iterdir() if file.is_file() and not file.name.endswith('.py')}


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        404: 'there is no such path; GET /openapi.json lists all',
        405: f'this path has no {request.method}'}
    # A 405 lists the valid methods in its Allow header.
    return problems.ProblemError(error.status_code, detail.get(error.status_code, error.detail),
                                 headers=dict(error.headers or {})).response()


def _route(path: str, **handlers: _Handler) -> Route:
    """Returns a path's route, with a handler for each method. Errors become responses."""
    async def handle(request: Request) -> Response:
        request.scope['atlas_jax.path'] = path  # the label in metrics
        try:
            return await handlers['GET' if request.method == 'HEAD' else request.method](request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            problem = problems.as_problem(error)
            # Only the log has the traceback.
            if problem.status == 500:
                traceback.print_exception(error)
            return problem.response()

    return Route(path, handle, methods=list(handlers))


def make(service: Service, hosts: Sequence[str] = ()) -> Starlette:
    """Returns the ASGI app of a service; `hosts` are its host names besides localhost and IP
    addresses.
    """
    routes = [
        _route('/answer', POST=service.answer),
        _route('/retrieve', POST=service.retrieve),
        _route('/passages', POST=service.add_passages),
        _route('/passages/{docid:path}', GET=service.get_passage, PUT=service.put_passage,
               DELETE=service.delete_passage),
        _route('/map', GET=service.map),
        _route('/models', GET=service.models),
        _route('/health', GET=service.health),
        _route('/ready', GET=service.is_ready),
        _route('/metrics', GET=service.figures),
        _route('/openapi.json', GET=service.document),
        _route('/', GET=service.page),
        _route('/static/{name}', GET=service.page)]
    return Starlette(
        routes=routes, exception_handlers={HTTPException: _on_http},
        middleware=[Middleware(guards.RequestGuard, metrics=service.metrics, hosts=hosts)])
