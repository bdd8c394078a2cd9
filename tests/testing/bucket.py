"""A bucket on the loopback: what TensorStore, gcsfs and google-cloud-storage speak of Google Cloud Storage's JSON interface."""

import contextlib
import http.server
import json
import re
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

READ_ONLY = 'read-only'  # the bucket that nobody may write
_OBJECT = re.compile(r'(?:/download)?/storage/v1/b/([^/]+)/o/(.+)')
_LIST = re.compile(r'/storage/v1/b/([^/]+)/o')
_BUCKET = re.compile(r'/storage/v1/b/([^/]+)')
_UPLOAD = re.compile(r'/upload/storage/v1/b/([^/]+)/o')
_PAGE = 7  # objects of one answer to a list


class Bucket(http.server.ThreadingHTTPServer):
    """objects  {(bucket, name): (generation, bytes)}; every bucket exists except `missing`"""

    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Says nothing of a client that went away: gcsfs asks twice at once and takes the answer that comes first."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.generation, self.lock = 0, threading.Lock()
        self.uploads: dict[str, tuple[tuple[str, str], bytes]] = {}  # that have begun and not ended


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1  # headers and content in one packet: the second would wait 40 ms for the first one's acknowledgement

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
            elif 'alt' not in query:
                self._answer_json(self._facts(*key))
            elif query.get('ifGenerationNotMatch') == str(generation):
                self._answer(304)
            elif query.get('ifGenerationMatch', str(generation)) != str(generation):
                self._answer(412)
            else:
                self._send(content, generation)
        elif match := _LIST.fullmatch(path):
            self._list(match[1], query)
        elif (match := _BUCKET.fullmatch(path)) and match[1] != 'missing':
            self._answer_json({'kind': 'storage#bucket', 'name': match[1], 'id': match[1]})
        else:
            self._answer(404)

    def _answer_json(self, value: dict) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type='application/json')

    def _facts(self, bucket: str, name: str) -> dict:
        generation, content = self.server.objects[bucket, name]
        return {'kind': 'storage#object', 'bucket': bucket, 'name': name, 'size': str(len(content)), 'generation': str(generation),
                'updated': '2026-01-01T00:00:00.000Z', 'timeCreated': '2026-01-01T00:00:00.000Z'}

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
        start, stop, prefix, delimiter = (query.get(name, '') for name in ('startOffset', 'endOffset', 'prefix', 'delimiter'))
        found = {}  # lists objects, and folders if a delimiter is given
        for name in (name for owner, name in list(self.server.objects) if owner == bucket and name.startswith(prefix)):
            if name >= start and (not stop or name < stop):
                end = name.find(delimiter, len(prefix)) if delimiter else -1
                found[name if end < 0 else name[:end + 1]] = end < 0
        names = sorted(name for name in found if name > query.get('pageToken', ''))
        body = {'kind': 'storage#objects', 'items': [self._facts(bucket, name) for name in names[:_PAGE] if found[name]],
                'prefixes': [name for name in names[:_PAGE] if not found[name]]}
        if len(names) > _PAGE:
            body['nextPageToken'] = names[_PAGE - 1]
        self._answer_json(body)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        path, query = self._parts()
        match = _UPLOAD.fullmatch(path)
        if path.startswith('/resumable/'):
            self._take_piece(path.rsplit('/', 1)[-1], content)
        elif match is None or match[1] == 'missing':
            self._answer(404)
        elif match[1] == READ_ONLY:
            self._answer(403)
        elif query.get('uploadType') == 'resumable':
            upload = secrets.token_hex(8)
            self.server.uploads[upload] = (match[1], urllib.parse.unquote(query['name'])), b''
            self._answer(200, Location=f'http://{self.headers["Host"]}/resumable/{upload}')
        elif query.get('uploadType') == 'multipart':
            # Two parts, each with headers of its own: what the object is called, and its content.
            mark = b'--' + re.search('boundary=["\']?([^"\';]+)', self.headers['Content-Type'])[1].encode()
            described, content = (part.split(b'\n\n', 1)[1] if b'\r\n\r\n' not in part else part.split(b'\r\n\r\n', 1)[1]
                                  for part in content.split(mark)[1:3])
            self._change((match[1], json.loads(described)['name']), query, content.removesuffix(b'\n').removesuffix(b'\r'))
        else:
            self._change((match[1], query['name']), query, content)

    def _take_piece(self, upload: str, content: bytes) -> None:
        """Takes a piece of a resumable upload; the last one says how long the whole is."""
        key, before = self.server.uploads[upload]
        content = before + content
        if self.headers['Content-Range'].endswith('/*'):
            self.server.uploads[upload] = key, content
            self._answer(308, Range=f'bytes=0-{len(content) - 1}')
        else:
            self._change(key, {}, content)

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
                self._answer_json(self._facts(*key))


@contextlib.contextmanager
def serving(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket server that gs:// paths of this process, and of those it starts, lead to."""
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    for name in ('TENSORSTORE_GCS_HTTP_URL', 'STORAGE_EMULATOR_HOST'):  # the second for gcsfs and google-cloud-storage
        patch.setenv(name, f'http://127.0.0.1:{server.server_address[1]}')
    patch.setenv('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'nobody')
    patch.setenv('GOOGLE_CLOUD_PROJECT', 'some-project')
    # gcsfs would ask Google over gRPC what kind of bucket it is.
    patch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
