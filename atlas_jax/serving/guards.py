"""The checks of every request: the name that it was sent to, where it comes from, its length and its token."""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atlas_jax.io import untrusted
from atlas_jax.serving import problems, streaming
from atlas_jax.serving.limits import Limits
from atlas_jax.serving.metrics import Metrics

# Nothing from elsewhere, no frames, no guessing of types: the page is ours alone.
_HEADERS = (
    (b'content-security-policy', b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b'x-content-type-options', b'nosniff'), (b'referrer-policy', b'no-referrer'), (b'cross-origin-resource-policy', b'same-origin'))
_LOCAL = ('localhost',)
_GONE = 499  # as nginx has it: the client went before there was a response


class Guard:
    """Refuses requests of other names and origins, counts all, and adds headers to responses."""

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: Sequence[str] = ()):
        """Takes the app, and the names besides localhost and plain addresses that this server is known by."""
        self._app, self._metrics = app, metrics
        self._hosts = {*_LOCAL, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), _GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                message['headers'] = [*message.get('headers', []), *_HEADERS]
            await send(message)

        try:
            if (problem := self._refused(Request(scope))) is not None:
                await problem.response()(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            # The server is stopped, and the time to finish in is up. What had begun is a stream: all else is sent at once.
            problem = problems.stopping()
            if status == _GONE:
                await problem.response()(scope, receive, sending)
            else:
                await send({'type': 'http.response.body', 'body': streaming.event('error', problem.body()).encode()})
        finally:
            # By its route, not its path: a client could else make any number of labels.
            path = scope.get('atlas_jax.path', 'none')
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - start)

    def _refused(self, request: Request) -> problems.ProblemError | None:
        # A page elsewhere can make its own name mean this address, and then read what it likes. Addresses cannot be made so.
        host = request.headers.get('host', '')
        if not self._is_ours(host):
            return problems.ProblemError(421, f'this server is not known as "{host[:80]}"; if it should be, start it with --allowed_host '
                                         'NAME')
        # Browsers name the page that asks; other programs name none.
        origin = request.headers.get('origin')
        if origin is not None and not _same(origin, host):
            return problems.ProblemError(403, 'pages of other origins may not use this server')
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            # With its port, in brackets, in any case: as browsers send it.
            name = urlsplit(f'//{host}').hostname
            if name is None or '@' in host:
                return False
            if name in self._hosts:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the body of a request. Raises ProblemError: too long (413), not JSON (415), or it does not come (408)."""
    # A form of a page elsewhere can be sent without asking, JSON cannot.
    if request.headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json':
        raise problems.ProblemError(415, 'send JSON, with Content-Type: application/json')
    # Nothing of it is read where it says so itself.
    length = request.headers.get('content-length', '')
    if length.isascii() and length.isdigit() and int(length[:20]) > limits.body_bytes:
        raise _too_long(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            # Chunks may go on for ever, whatever the headers say.
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise _too_long(limits)
                parts.append(part)
    except TimeoutError as error:
        raise problems.ProblemError(408, f'the body did not come within {limits.body_seconds:g} seconds') from error
    return b''.join(parts)


def parse(body: bytes) -> object:
    """Returns the JSON value of a body. Raises ProblemError (400)."""
    try:
        return untrusted.parse_json(body)
    except ValueError as error:
        raise problems.ProblemError(400, f'the body is no JSON: {str(error)[:200]}') from error


def check_token(request: Request, token: str) -> None:
    """Raises ProblemError (401): a change without the server's token, or with another one."""
    scheme, _, given = request.headers.get('authorization', '').partition(' ')
    # Compared in constant time, so that a wrong one does not show how much of it is right.
    if scheme.lower() != 'bearer' or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise problems.ProblemError(401, f'{"wrong token" if given else "no token"}: changes need the one the server was started with, '
                                    'as Authorization: Bearer TOKEN', headers={'WWW-Authenticate': 'Bearer'})


def _too_long(limits: Limits) -> problems.ProblemError:
    # What is left of the body is not read, so nothing can follow it on this connection.
    return problems.ProblemError(413, f'the body is longer than {limits.body_bytes:,} bytes; send fewer or shorter texts in one request',
                                 headers={'Connection': 'close'})
