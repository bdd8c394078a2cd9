"""The server as a process: its port, and its end."""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import sys
import threading

import pytest

from atlas_jax import errors
from atlas_jax.serving import server
from tests.testing import processes

ROOT = pathlib.Path(__file__).parents[2]
# Answers take a while; of the arguments one has them fail as a missing package does, one has none of them end.
_SCRIPT = """
import sys, time
from atlas_jax import errors
from atlas_jax.serving import app, holdings, limits, server
from tests.serving.conftest import FakeAtlas, FakeIndex

class Slow(FakeAtlas):
    def answer_examples(self, examples, *arguments, **options):
        if 'fails' in sys.argv:
            raise errors.ConfigError('bm25s is missing')
        time.sleep(600 if 'stuck' in sys.argv else .5 * ('slow' in examples[0].question))
        return super().answer_examples(examples, *arguments, **options)

bounds = limits.Limits(drain_seconds=1 if 'stuck' in sys.argv else 30, together=1)
service = app.Service(holdings.Holdings({'project': Slow()}, {'project': FakeIndex()}), 't', bounds)
try:
    server.run(service, server.bind('127.0.0.1', 0), said=lambda line: print(line, flush=True))
except errors.UserError as error:
    sys.exit(str(error))
"""

_HEAD = b'POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: '


@contextlib.contextmanager
def serving(*arguments):
    """Runs the script; yields its process and port."""
    command = [sys.executable, '-c', _SCRIPT, *arguments]
    with processes.started(command, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}) as process:
        yield process, int(process.line().rpartition(':')[2])


def ask(port, question):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request('POST', '/answer', json.dumps({'question': question}), {'Content-Type': 'application/json'})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_what_is_under_way_is_finished_before_the_end():
    with serving() as (process, port):
        # One client sends 100 MB, one stops reading its stream: neither is in the way of the others.
        address = '127.0.0.1', port
        with socket.create_connection(address, timeout=60) as large, socket.create_connection(address, timeout=60) as silent:
            large.sendall(_HEAD + b'100000000\r\n\r\n{')
            assert b' 413 ' in large.recv(100)
            body = b'{"question": "slow", "stream": true}'
            silent.sendall(_HEAD + str(len(body)).encode() + b'\r\n\r\n' + body)
            assert ask(port, 'quick')[1]['answers'][0]['text'] == 'Text of quick'
        found = []
        threads = [threading.Thread(target=lambda: found.append(ask(port, 'slow'))) for _ in range(3)]
        for thread in threads:
            thread.start()
        process.wait_for(lambda: b'atlas_jax_queue_depth 2' in http_get(port, '/metrics'), 'had two questions in its queue')
        process.signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert [status for status, _ in found] == [200] * 3
        done = process.wait()
        assert done.returncode == 0 and done.stderr == ''
        with pytest.raises(ConnectionRefusedError):
            ask(port, 'after')


def http_get(port, path):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request('GET', path)
    return connection.getresponse().read()


def test_what_does_not_end_holds_up_the_end_for_some_time_only():
    with serving('stuck') as (process, port):
        http_get(port, '/metrics')
        process.signal(signal.SIGTERM)
        done = process.wait()
    assert done.returncode == 0
    assert done.stderr == 'atlas-jax: what is computed has not ended within 1 s; the server ends without it\n'


def test_what_fails_at_the_first_question_ends_the_server():
    with serving('fails') as (process, _):
        done = process.wait()
    assert done.returncode == 1 and done.stderr.strip() == 'bm25s is missing'


@pytest.mark.parametrize(('host', 'port', 'message'), [
    ('127.0.0.1', None, r'another program uses this port; give another one with --port'),
    ('127.0.0.1', 70_000, 'a port is from 0 to 65535'), ('203.0.113.7', 0, 'this machine has no such address'),
    ('not a host', 0, 'no address of a machine'),
])
def test_ports_that_cannot_be_had(host, port, message):
    with server.bind('127.0.0.1', 0) as taken, pytest.raises(errors.ConfigError, match=message):
        server.bind(host, taken.getsockname()[1] if port is None else port)


@pytest.mark.parametrize(('host', 'expected'), [('127.0.0.1', True), ('::1', True), ('localhost', True), ('0.0.0.0', False), ('::', False),
                                                ('example.org', False)])
def test_which_addresses_this_machine_alone_reaches(host, expected):
    assert server.is_loopback(host) is expected
