"""The checks of every request: its host, its origin, its length and its token."""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atlas_jax.apps.serving import event_stream, problems
from atlas_jax.apps.serving.request_counts import Metrics
from atlas_jax.apps.serving.request_limits import Limits
from atlas_jax.io import untrusted

# No content from other servers, no frames, no guessing of types.
_HEADERS = ((b'content-security-policy',
             b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
             b"base-uri 'none'; form-action 'self'"),
            (b'x-content-type-options', b'nosniff'), (b'referrer-policy', b'no-referrer'),
            (b'cross-origin-resource-policy', b'same-origin'))
_GONE = 499  # nginx's status for a client that left before there was a response


class RequestGuard:
    """Refuses requests to other hosts and from other origins, counts all, and adds headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: Sequence[str] = ()):
        """Takes the app, and the server's host names besides localhost and IP addresses."""
        self._app, self._metrics = app, metrics
        self._hosts = {'localhost', *(host.lower() for host in hosts)}

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
            # The server is being stopped, and the time to finish is over. Only a stream has begun
            # its response: others are sent at once.
            problem = problems.stopping()
            if status == _GONE:
                await problem.response()(scope, receive, sending)
            else:
                await send({
                    'type': 'http.response.body',
                    'body': event_stream.event('error', problem.body()).encode()})
        finally:
            # The route, not the path: a client could otherwise create any number of labels.
            path = scope.get('atlas_jax.path', 'none')
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - start)

    def _refused(self, request: Request) -> problems.ProblemError | None:
        # A page elsewhere can point its own host name at this address and read everything (DNS
        # rebinding). IP addresses cannot be abused in this way.
        host = request.headers.get('host', '')
        if not self._is_ours(host):
            return problems.ProblemError(421, f'this server is not known as "{host[:80]}"; if it '
                                              'should be, start it with --allowed_host NAME')
        # Browsers name the page that sends the request; other programs do not.
        origin = request.headers.get('origin')
        if origin is not None and not _same(origin, host):
            return problems.ProblemError(403, 'pages of other origins may not use this server')
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            # Browsers send the host with its port, IPv6 in brackets, in upper or lower case.
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
    """Returns the body of a request.

    Raises ProblemError: too long (413), not JSON (415), or it does not come (408).
    """
    # Browsers send other pages' forms here without asking this server, but not JSON.
    if request.headers.get('content-type',
                           '').partition(';')[0].strip().lower() != 'application/json':
        raise problems.ProblemError(415, 'send JSON, with Content-Type: application/json')
    # A body that announces too many bytes is not read at all.
    length = request.headers.get('content-length', '')
    if length.isascii() and length.isdigit() and int(length[:20]) > limits.body_bytes:
        raise _too_long(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            # Chunks may continue forever, whatever the headers say.
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise _too_long(limits)
                parts.append(part)
    except TimeoutError as error:
        raise problems.ProblemError(
            408, f'the body did not come within {limits.body_seconds:g} seconds') from error
    return b''.join(parts)


def parse(body: bytes) -> object:
    """Returns the JSON value of a body. Raises ProblemError (400)."""
    try:
        return untrusted.parse_json(body)
    except ValueError as error:
        raise problems.ProblemError(400, f'the body is no JSON: {str(error)[:200]}') from error


def check_token(request: Request, token: str) -> None:
    """Checks the server's token. Raises ProblemError (401): it is missing or wrong."""
    scheme, _, given = request.headers.get('authorization', '').partition(' ')
    # Constant time, so that a wrong token does not reveal how much of it is right.
    if scheme.lower() != 'bearer' or not hmac.compare_digest(given.strip().encode(),
                                                             token.encode()):
        raise problems.ProblemError(
            401, f'{"wrong token" if given else "no token"}: changes need the one the server was '
            'started with, as Authorization: Bearer TOKEN', headers={'WWW-Authenticate': 'Bearer'})


def _too_long(limits: Limits) -> problems.ProblemError:
    # The rest of the body is not read, so this connection cannot be used again.
    return problems.ProblemError(413, f'the body is longer than {limits.body_bytes:,} bytes; send '
                                      'fewer or shorter texts in one request',
                                 headers={'Connection': 'close'})
