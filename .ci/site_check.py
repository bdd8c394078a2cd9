"""Serves a built site as README says and reads it: every page is there, none loads anything from elsewhere, and search finds its words."""

import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.request

# Tags by which a browser fetches; links (<a>) are followed by people alone.
_FETCHED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:)?//[^"]*"|<link\b[^>]*rel="(?:stylesheet|preload|icon)"[^>]*'
                      r'href="(https?:)?//[^"]*"|@import|url\(\s*["\']?https?:')


def main(site: pathlib.Path) -> None:
    """Raises AssertionError for what is wrong."""
    pages = sorted(site.glob('*.html'))
    for page in pages:
        found = _FETCHED.search(page.read_text(encoding='utf-8'))
        assert found is None, f'{page.name} fetches {found[0]}'
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, '-m', 'http.server', '-b', '127.0.0.1', '-d', str(site), str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        index = json.loads(_read(port, 'search/search_index.json'))
        entries = [entry for entry in index['docs'] if 'rolling refresh' in entry['text'].lower()]
        assert len(index['docs']) > 300 and entries, f'{len(index["docs"])} entries in the search index, {len(entries)} of rolling refresh'
        for page in pages:
            assert '</html>' in _read(port, page.name), page.name
    finally:
        server.terminate()
        server.wait()
    print(f'{len(pages)} pages, {len(index["docs"])} entries of search')


def _read(port: int, name: str) -> str:
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/{name}', timeout=10) as answer:
                return answer.read().decode()
        except ConnectionError:
            pass
        except urllib.error.URLError as error:  # not listening yet
            if not isinstance(error.reason, ConnectionError):
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f'no server on port {port}')
        time.sleep(.1)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
