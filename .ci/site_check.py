"""Reads a built site: no page loads anything from elsewhere, and the search has its words and what it needs to run from a disk."""

import json
import pathlib
import re
import sys

# Tags by which a browser fetches; links (<a>) are followed by people alone.
FETCHED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:)?//[^"]*"|<link\b[^>]*rel="(?:stylesheet|preload|icon)"[^>]*'
                     r'href="(https?:)?//[^"]*"|@import|url\(\s*["\']?https?:')


def check(site: pathlib.Path) -> str:
    """Returns a line on a built site. Raises AssertionError for what is wrong."""
    pages = sorted(site.glob('*.html'))
    for page in pages:
        text = page.read_text(encoding='utf-8')
        found = FETCHED.search(text)
        assert found is None, f'{page.name} fetches {found[0]}'
        assert 'iframe-worker.js' in text, f'{page.name}: its search does not run from a disk'
    assert (site / 'iframe-worker.js').is_file()
    index = json.loads((site / 'search' / 'search_index.js').read_text(encoding='utf-8').removeprefix('var __index = '))['docs']
    assert len(index) > 300 and any('rolling refresh' in entry['text'].lower() for entry in index), f'{len(index)} entries of search'
    return f'{len(pages)} pages, {len(index)} entries of search'


if __name__ == '__main__':
    print(check(pathlib.Path(sys.argv[1])))
