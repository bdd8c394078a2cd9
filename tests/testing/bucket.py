"""A bucket on the loopback: the part of Google Cloud Storage's JSON interface that TensorStore speaks."""

import contextlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

READ_ONLY = 'read-only'  # the bucket that nobody may write
_OBJECT = re.compile(r'(?:/download)?/storage/v1/b/([^/]+)/o/(.+)')
_LIST = re.compile(r'/storage/v1/b/([^/]+)/o')
_UPLOAD = re.compile(r'/upload/storage/v1/b/([^/]+)/o')
_PAGE = 7  # objects of one answer to a list


class Bucket(http.server.ThreadingHTTPServer):
    """objects  {(bucket, name): (generation, bytes)}; buckets need not be made, but for `missing`, which is not there"""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.generation, self.lock = 0, threading.Lock()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *arguments) -> None:
        """Says nothing."""

    def _answer(self, status: int, content: bytes = b'', **headers: str) -> None:
        self.send_response(status)
        for name, value in ({'Content-Length': str(len(content))} | headers).items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(content)

    def _parts(self) -> tuple[str, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query))

    def do_GET(self) -> None:
        path, query = self._parts()
        if match := _OBJECT.fullmatch(path):
            key = match[1], urllib.parse.unquote(match[2])
            generation, content = self.server.objects.get(key, (0, b''))
            if not generation:
                self._answer(404)
            elif query.get('ifGenerationNotMatch') == str(generation):
                self._answer(304)
            elif query.get('ifGenerationMatch', str(generation)) != str(generation):
                self._answer(412)
            else:
                self._send(content, generation)
        elif match := _LIST.fullmatch(path):
            self._list(match[1], query)
        else:
            self._answer(404)

    def _send(self, content: bytes, generation: int) -> None:
        headers, status = {'x_goog_generation': str(generation), 'x_goog_stored_content_length': str(len(content))}, 200
        if match := re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')):
            first, last, size = int(match[1]), int(match[2] or len(content) - 1), len(content)
            if first >= size:
                self._answer(416)
                return
            content, status = content[first:last + 1], 206
            headers['Content_Range'] = f'bytes {first}-{first + len(content) - 1}/{size}'
        self._answer(status, content, **headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        if bucket == 'missing':
            self._answer(404)
            return
        start, stop = query.get('startOffset', ''), query.get('endOffset', '')
        names = sorted(name for owner, name in list(self.server.objects) if owner == bucket and name >= start and (not stop or name < stop)
                       and name.startswith(query.get('prefix', '')) and name > query.get('pageToken', ''))
        body = {'kind': 'storage#objects', 'items': [{'name': name} for name in names[:_PAGE]]}
        if len(names) > _PAGE:
            body['nextPageToken'] = names[_PAGE - 1]
        self._answer(200, json.dumps(body).encode(), Content_Type='application/json')

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        path, query = self._parts()
        match = _UPLOAD.fullmatch(path)
        if match is None or match[1] == 'missing':
            self._answer(404)
        elif match[1] == READ_ONLY:
            self._answer(403)
        else:
            self._change((match[1], query['name']), query, content)

    def do_DELETE(self) -> None:
        path, query = self._parts()
        match = _OBJECT.fullmatch(path)
        self._change((match[1], urllib.parse.unquote(match[2])), query, None)

    def _change(self, key: tuple[str, str], query: dict[str, str], content: bytes | None) -> None:
        with self.server.lock:
            generation = self.server.objects.get(key, (0, b''))[0]
            expected = query.get('ifGenerationMatch')
            if expected is not None and expected != str(generation):
                self._answer(412)
            elif content is None:
                self.server.objects.pop(key, None)
                self._answer(204 if generation else 404)
            else:
                self.server.generation += 1
                self.server.objects[key] = self.server.generation, content
                self._answer(200, json.dumps({'name': key[1], 'generation': str(self.server.generation)}).encode())


@contextlib.contextmanager
def serving(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket server that gs:// paths of this process, and of those it starts, lead to."""
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{server.server_address[1]}')
    patch.setenv('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'nobody')
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
