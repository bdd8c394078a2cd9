import asyncio

import pytest
from starlette.requests import Request

from atlas_jax.apps.serving import guards, problems, request_counts
from atlas_jax.apps.serving.request_limits import Limits

LIMITS = Limits(body_bytes=10, body_seconds=.05)


@pytest.mark.parametrize(('host', 'status'), [
    ('localhost:8000', 200), ('127.0.0.1', 200), ('[::1]:8000', 200), ('192.168.0.7:80', 200), ('KNOWN.example', 200),
    ('evil.example', 421), ('127.0.0.1.evil.example', 421), ('localhost@evil.example', 421), ('', 421), ('[', 421),
])
def test_names_that_are_not_ours_are_refused(client, host, status):
    assert client.get('/health', headers={'Host': host}).status_code == status


@pytest.mark.parametrize(('origin', 'status'), [('http://localhost', 200), ('http://evil.example', 403), ('null', 403), ('http://[', 403)])
def test_other_origins_are_refused(client, origin, status):
    response = client.get('/health', headers={'Origin': origin})
    assert response.status_code == status and 'access-control-allow-origin' not in response.headers
    assert "default-src 'self'" in response.headers['content-security-policy']


@pytest.mark.parametrize('begun', [False, True])
def test_what_is_cut_off_at_the_end_is_told_so(begun):
    sent = []

    async def slow(scope, receive, send):
        if begun:
            await send({'type': 'http.response.start', 'status': 200})
            await send({'type': 'http.response.body', 'body': b'event: token', 'more_body': True})
        await asyncio.sleep(9)

    async def send(message):
        sent.append(message)

    async def run():
        scope = {'type': 'http', 'method': 'GET', 'path': '/', 'headers': [(b'host', b'localhost')]}
        task = asyncio.create_task(guards.RequestGuard(slow, request_counts.Metrics(lambda: 0))(scope, None, send))
        await asyncio.sleep(.01)
        task.cancel()  # as uvicorn does
        await task

    asyncio.run(run())
    assert sent[0]['status'] == (200 if begun else 503) and b'is being stopped' in sent[-1]['body'] and not sent[-1].get('more_body')
    assert sent[-1]['body'].startswith(b'event: error\n' if begun else b'{')


def read(*messages, headers=(('content-type', 'application/json'),)):
    """Reads a body that arrives in these parts, without an end. Returns it, and the number of parts read."""
    left = list(messages)

    async def receive():
        if not left:
            await asyncio.sleep(9)
        return {'type': 'http.request', 'body': left.pop(0), 'more_body': True}

    scope = {'type': 'http', 'headers': [(name.encode(), value.encode()) for name, value in headers]}
    with pytest.raises(problems.ProblemError) as raised:
        asyncio.run(guards.read_body(Request(scope, receive), LIMITS))
    return raised.value.status, len(messages) - len(left)


def test_a_long_body_is_not_read_to_its_end():
    length = (('content-type', 'application/json'), ('content-length', str(10**8)))
    assert read(b'x' * 5, headers=length) == (413, 0)
    assert read(*[b'x' * 6] * 9) == (413, 2)  # one that does not say how long it is


def test_bodies_that_are_none():
    assert read(b'{}', headers=(('content-type', 'text/plain'),)) == (415, 0) and read(b'{', b'}') == (408, 2)
    with pytest.raises(problems.ProblemError, match='no JSON'):
        guards.parse(b'[' * 100_000)
