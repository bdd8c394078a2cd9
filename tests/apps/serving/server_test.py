"""The server as a process: its port, and how it ends."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from atlas_jax import errors
from atlas_jax.apps.serving import server

ROOT = pathlib.Path(__file__).parents[3]
# Slow questions take half a second; with the argument "fails", every question fails like a missing package.
_SCRIPT = """
import sys, time
from atlas_jax import errors
from atlas_jax.apps.serving import app, holdings, request_limits, server
from tests.apps.serving.conftest import FakeAtlas, FakeIndex

class Slow(FakeAtlas):
    def answer_examples(self, examples, *arguments, **options):
        if 'fails' in sys.argv:
            raise errors.ConfigError('bm25s is missing')
        time.sleep(.5 * ('slow' in examples[0].question))
        return super().answer_examples(examples, *arguments, **options)

limits = request_limits.Limits(drain_seconds=30, together=1)
service = app.Service(holdings.Holdings({'project': Slow()}, {'project': FakeIndex()}), 't', limits)
try:
    server.run(service, server.bind('127.0.0.1', 0), announce=lambda line: print(line, flush=True))
except errors.UserError as error:
    sys.exit(str(error))
"""

_HEAD = b'POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: '


def start(*arguments):
    """Starts the script; returns its process and port."""
    process = subprocess.Popen([sys.executable, '-c', _SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
    return process, int(process.stdout.readline().rpartition(':')[2])


def ask(port, question):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request('POST', '/answer', json.dumps({'question': question}), {'Content-Type': 'application/json'})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_what_is_under_way_is_finished_before_the_end():
    process, port = start()
    try:
        # One client sends 100 MB, one stops reading its stream: neither delays the others.
        with socket.create_connection(('127.0.0.1', port)) as large, socket.create_connection(('127.0.0.1', port)) as silent:
            large.sendall(_HEAD + b'100000000\r\n\r\n{')
            assert b' 413 ' in large.recv(100)
            body = b'{"question": "slow", "stream": true}'
            silent.sendall(_HEAD + str(len(body)).encode() + b'\r\n\r\n' + body)
            assert ask(port, 'quick')[1]['answers'][0]['text'] == 'Text of quick'
        found = []
        threads = [threading.Thread(target=lambda: found.append(ask(port, 'slow'))) for _ in range(3)]
        for thread in threads:
            thread.start()
        while b'atlas_jax_queue_depth 2' not in http_get(port, '/metrics'):
            pass
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert [status for status, _ in found] == [200] * 3
        assert process.wait(60) == 0 and process.stderr.read() == ''
        with pytest.raises(ConnectionRefusedError):
            ask(port, 'after')
    finally:
        process.kill()


def http_get(port, path):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request('GET', path)
    return connection.getresponse().read()


def test_what_fails_at_the_first_question_ends_the_server():
    process, _ = start('fails')
    assert process.wait(60) == 1 and process.stderr.read().strip() == 'bm25s is missing'


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
