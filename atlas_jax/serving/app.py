"""The routes: requests are checked, computed by the one thread that computes, and answered as JSON or as a stream of events."""

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

from atlas_jax.project import questions
from atlas_jax.serving import batching, changes, guards, openapi, problems, projection, schemas, streaming
from atlas_jax.serving import holdings as holdings_lib
from atlas_jax.serving import metrics as metrics_lib
from atlas_jax.serving.limits import Limits

_MAP_TOP_K = 10
_Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """One server's state, and a handler for each route.

    Attributes:
      holdings: models and indexes.
      batcher: computes; `metrics` counts.
      token: that changes need.
      ready: everything is compiled that the first requests need.
    """

    def __init__(self, holdings: holdings_lib.Holdings, token: str, limits: Limits | None = None):
        """Takes what is served, and the token that changes need."""
        self.holdings, self.limits = holdings, limits or Limits()
        self.token, self._schemas, self._pages = token, schemas.bodies(self.limits), _pages()
        self.batcher = batching.Batcher(self.limits.waiting, lambda size: self.metrics.batches.observe(size))
        self.metrics, self.ready = metrics_lib.Metrics(self.batcher.depth), False

    def warm_up(self) -> None:
        """Compiles what the first requests need, and has streams compiled behind it; called by the thread that computes."""
        answering = self._answering({})
        for size in holdings_lib.SIZES:
            if size <= answering.together:
                self._compile(answering, size)
        self.ready = True
        # These call the host back, so jax keeps none of them (steps/listening.py): each start compiles them, the page's first, while what
        # came meanwhile has its turn between them.
        heard = dataclasses.replace(answering, heard=True)
        with contextlib.suppress(problems.ProblemError):  # the server is being stopped, or has more to do
            for kind in (dataclasses.replace(heard, explain=True, closed_book=True), heard):
                self.batcher.submit(batching.Alone(functools.partial(self._compile, kind)), [None], math.inf)

    def _compile(self, kind: holdings_lib.Answering, size: int = 1) -> None:
        # A server that ends compiles nothing more.
        if not self.batcher.stopping:
            kind.compute([holdings_lib.Asked('what is it?')] * size)

    async def answer(self, request: Request) -> Response:
        """Answers questions."""
        start, body = time.monotonic(), await self._body(request, 'Questions')
        asked = body['questions'] if 'questions' in body else [body['question']]
        kind, seconds = self._answering(body), self._seconds(request)
        if body.get('stream'):
            return self._streamed(kind, asked[0], seconds, start)
        rows = await self._computed(request, kind, [holdings_lib.Asked(question) for question in asked], seconds)
        return JSONResponse({'answers': rows, 'seconds': round(time.monotonic() - start, 4)})

    async def retrieve(self, request: Request) -> Response:
        """Searches, and reads nothing."""
        body = await self._body(request, 'Queries')
        model, index = self._named(body)
        # JSON's 3.0 is a whole number too.
        kind = holdings_lib.Retrieving(self.holdings, model, index, int(body.get('topk', 3)))
        rows = await self._computed(request, kind, body['queries'], self._seconds(request))
        scored = body.get('return_scores', False)
        # Without scores the shape is another one, not the same with less in it.
        return JSONResponse({'result': [[each if scored else each['document'] for each in row] for row in rows]})

    async def get_passage(self, request: Request) -> Response:
        """Shows a passage, with its version."""
        return _versioned(await self._alone(request, changes.get, self._index(request), _docid(request)))

    async def add_passages(self, request: Request) -> Response:
        """Adds passages."""
        # Before the body is read: nobody without the token has the server parse anything.
        guards.check_token(request, self.token)
        body = await self._body(request, 'Passages')
        rows = body.get('passages', [body])
        added = await self._alone(request, changes.add, self._index(request), self._model(request), rows)
        return _versioned(added[0], 201) if 'passages' not in body else JSONResponse(
            # A header has room for one version only.
            {'passages': [{**changes.shown(each), 'etag': holdings_lib.etag(each)} for each in added]}, 201)

    async def put_passage(self, request: Request) -> Response:
        """Replaces a passage."""
        guards.check_token(request, self.token)
        body = await self._body(request, 'Passage')
        passage, is_new = await self._alone(request, changes.put, self._index(request), self._model(request), _docid(request), body,
                                            request.headers.get('if-match'))
        return _versioned(passage, 201 if is_new else 200)

    async def delete_passage(self, request: Request) -> Response:
        """Deletes a passage."""
        guards.check_token(request, self.token)
        await self._alone(request, changes.delete, self._index(request), _docid(request), request.headers.get('if-match'))
        return Response(status_code=204)

    async def map(self, request: Request) -> Response:
        """Shows the question among the passages, in a plane."""
        question = request.query_params.get('question', '')
        schemas.check(question, self._schemas['Queries']['properties']['queries']['items'], 'question')
        model, index = self._named(dict(request.query_params))

        # Rows of an index must not change between search and reading, so both are one call.
        def made() -> list[projection.Point]:
            kind = holdings_lib.Retrieving(self.holdings, model, index, _MAP_TOP_K)
            [found] = kind.compute([question])
            return projection.points(self.holdings.models[model], self.holdings.indexes[index], question,
                                     [each['document']['id'] for each in found])

        return JSONResponse({'points': [dataclasses.asdict(point) for point in await self._alone(request, made)]})

    async def models(self, request: Request) -> Response:
        """Lists models and indexes."""
        return JSONResponse(self.holdings.described())

    async def health(self, request: Request) -> Response:
        """Says whether the process works."""
        if not self.batcher.alive():
            raise problems.ProblemError(503, 'the thread that computes has ended; start the server again')
        return JSONResponse({'status': 'ok'})

    async def is_ready(self, request: Request) -> Response:
        """Says whether requests are answered at once."""
        if not self.ready:
            raise problems.ProblemError(503, 'programs are still being compiled', retry_after=5)
        return JSONResponse({'status': 'ready'})

    async def figures(self, request: Request) -> Response:
        """Shows the metrics."""
        # Not through the queue: figures matter most when it is full.
        return Response(self.metrics.text(), media_type=metrics_lib.MEDIA_TYPE)

    async def document(self, request: Request) -> Response:
        """Shows the OpenAPI document."""
        return JSONResponse(openapi.document(self.limits))

    async def page(self, request: Request) -> Response:
        """Shows a file of the page; they were all read at the start, so no path of a request is opened."""
        name = request.path_params.get('name', 'index.html')
        if name not in self._pages:
            raise problems.ProblemError(404, 'there is no such page')
        content, media_type = self._pages[name]
        return Response(content, media_type=media_type, headers={'Cache-Control': 'no-cache'})

    async def _body(self, request: Request, name: str) -> dict[str, Any]:
        body: Any = guards.parse(await guards.read_body(request, self.limits))
        # First in the words of the command line.
        for text in _questions(body):
            questions.check(text)
        schemas.check(body, self._schemas[name])
        return body

    def _named(self, named: dict[str, Any]) -> tuple[str, str]:
        return self.holdings.model_name(named.get('model')), self.holdings.index_name(named.get('index'))

    def _index(self, request: Request):
        return self.holdings.indexes[self.holdings.index_name(request.query_params.get('index'))]

    def _model(self, request: Request):
        return self.holdings.models[self.holdings.model_name(request.query_params.get('model'))]

    def _answering(self, body: dict[str, Any]) -> holdings_lib.Answering:
        model, index = self._named(body)
        without = tuple(body.get('without', ()))
        n_context = self.holdings.passages_read(model, int(body.get('n_context', 0)))
        # What-ifs read passages that are given, each its own.
        return holdings_lib.Answering(self.holdings, model, index, n_context, without, body.get('explain', False),
                                      body.get('closed_book', False), body.get('stream', False), 1 if without else self.limits.together)

    def _seconds(self, request: Request) -> float:
        text = request.headers.get('request-timeout')
        if text is None:
            return self.limits.seconds
        # "nan" and "inf" are floats to Python.
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 1 <= seconds < math.inf:
            raise problems.ProblemError(422, f'Request-Timeout: expected seconds, 1 or more, found "{text[:40]}"')
        return min(seconds, self.limits.seconds)

    async def _alone(self, request: Request, function: Callable[..., Any], *arguments: Any) -> Any:
        [result] = await self._computed(request, batching.Alone(functools.partial(function, *arguments)), [None], self._seconds(request))
        return result

    async def _computed(self, request: Request, kind: batching.Kind, items: Sequence[Any], seconds: float) -> list[Any]:
        """Returns the results of items. Raises ProblemError: they did not come in time; ClientDisconnect: nobody waits for them."""
        futures = self.batcher.submit(kind, items, seconds)
        results: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures))
        # Cancelled with nobody to look at it, asyncio would complain of it in the log.
        results.add_done_callback(lambda future: future.cancelled() or future.exception())
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        try:
            done, _ = await asyncio.wait({results, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if results in done:
                return list(results.result())
            if gone in done:
                raise ClientDisconnect
            raise batching.late()
        finally:
            gone.cancel()
            results.cancel()  # what still waits is not computed for nobody

    def _streamed(self, kind: holdings_lib.Answering, question: str, seconds: float, start: float) -> Response:
        told = streaming.Told(asyncio.get_running_loop(), self.holdings.indexes[kind.index])
        # Here, not in the stream: a full queue is a status, and no event.
        [future] = self.batcher.submit(kind, [holdings_lib.Asked(question, told)], seconds)
        # Proxies would otherwise keep the tokens until there are enough of them.
        headers = {'Cache-Control': 'no-store', 'X-Accel-Buffering': 'no'}
        return StreamingResponse(streaming.events(told, future, seconds, start), media_type='text/event-stream', headers=headers)


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    # The body was read; what comes next is the end.
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def _questions(body: Any) -> list[str]:
    given = [] if not isinstance(body, dict) else [body.get('question'), *_list(body.get('questions')), *_list(body.get('queries'))]
    return [text for text in given if isinstance(text, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _docid(request: Request) -> str:
    docid = request.path_params['docid']
    schemas.check(docid, schemas.DOCID, 'docid')
    return docid


def _versioned(passage: Any, status: int = 200) -> Response:
    return JSONResponse(changes.shown(passage), status, {'ETag': holdings_lib.etag(passage)})


def _pages() -> dict[str, tuple[bytes, str]]:
    """Returns the files of the page, with their types."""
    folder = importlib.resources.files('atlas_jax.serving') / 'page'
    # A package may be a zip file, hence no paths.
    return {file.name: (file.read_bytes(), mimetypes.guess_type(file.name)[0] or 'application/octet-stream')
            for file in folder.iterdir() if file.is_file() and not file.name.endswith('.py')}


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {404: 'there is no such path; GET /openapi.json lists all', 405: f'this path has no {request.method}'}
    # A 405 names the methods that there are in its Allow.
    return problems.ProblemError(error.status_code, detail.get(error.status_code, error.detail),
                                 headers=dict(error.headers or {})).response()


def _route(path: str, **handlers: _Handler) -> Route:
    """Returns the route of a path with a handler for each method, none of which raises."""
    async def handle(request: Request) -> Response:
        request.scope['atlas_jax.path'] = path  # what the metrics count it under
        try:
            return await handlers['GET' if request.method == 'HEAD' else request.method](request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            problem = problems.of(error)
            # The client is told nothing of our insides; the log has it.
            if problem.status == 500:
                traceback.print_exception(error)
            return problem.response()

    return Route(path, handle, methods=list(handlers))


def make(service: Service, hosts: Sequence[str] = ()) -> Starlette:
    """Returns the ASGI app of a service; `hosts` are the names besides localhost and plain addresses that it is known by."""
    routes = [_route('/answer', POST=service.answer), _route('/retrieve', POST=service.retrieve),
              _route('/passages', POST=service.add_passages),
              _route('/passages/{docid:path}', GET=service.get_passage, PUT=service.put_passage, DELETE=service.delete_passage),
              _route('/map', GET=service.map), _route('/models', GET=service.models), _route('/health', GET=service.health),
              _route('/ready', GET=service.is_ready), _route('/metrics', GET=service.figures),
              _route('/openapi.json', GET=service.document), _route('/', GET=service.page), _route('/static/{name}', GET=service.page)]
    return Starlette(routes=routes, exception_handlers={HTTPException: _on_http},
                     middleware=[Middleware(guards.Guard, metrics=service.metrics, hosts=hosts)])
