"""Title, sections and plain text of an HTML page."""

import html.parser

_DROPPED = ('script', 'style', 'noscript', 'template', 'svg', 'math')
_HEADINGS = ('h1', 'h2', 'h3', 'h4', 'h5', 'h6')
_BLOCKS = frozenset((
    'address', 'article', 'aside', 'blockquote', 'body', 'caption', 'dd', 'details', 'div', 'dl', 'dt', 'fieldset', 'figcaption', 'figure',
    'footer', 'form', 'header', 'hr', 'li', 'main', 'nav', 'ol', 'p', 'pre', 'section', 'summary', 'table', 'tbody', 'tfoot', 'thead', 'tr',
    'ul'))


def read(text: str) -> tuple[str, list[tuple[str, str]]]:
    """(title, [(section, text)]) of a page: its <title> or else first heading, and the text below each heading, scripts and styles dropped.

    Text above the first heading, or below a first one that is part of the title, has section ''. Never raises on broken HTML.
    """
    parser = _Page()
    parser.feed(text)
    parser.close()
    parser.end_paragraph()
    (_, body), *rest = parser.sections
    title = _joined(''.join(parser.title)) or (rest[0][0] if rest else '')
    if rest and rest[0][0] in title:
        # The first heading is the page's own; its <title> may add the site's name.
        body, rest = body + rest[0][1], rest[1:]
    return title, [(heading, '\n\n'.join(paragraphs)) for heading, paragraphs in [('', body), *rest]]


class _Page(html.parser.HTMLParser):
    """Collects the title and, for each heading, the paragraphs below it."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.sections: list[tuple[str, list[str]]] = [('', [])]
        self._open_dropped: list[str] = []
        self._in_title = self._in_heading = False
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        if tag in _DROPPED:
            self._open_dropped.append(tag)
        elif tag == 'title' and not self._open_dropped:
            self._in_title = True
        elif tag in _HEADINGS:
            self.end_paragraph()
            self._in_heading, self._in_title = True, False
        elif tag in _BLOCKS:
            self.end_paragraph()
            self._in_title = False
        elif tag in ('br', 'td', 'th'):
            self._words.append(' ')

    def handle_startendtag(self, tag: str, attrs) -> None:
        if tag not in _DROPPED:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open_dropped:
            while self._open_dropped.pop() != tag:
                pass
        elif tag == 'title':
            self._in_title = False
        elif tag in _BLOCKS:
            self.end_paragraph()
        elif tag in _HEADINGS:
            self.end_paragraph()
            self._in_heading = False

    def handle_data(self, data: str) -> None:
        if not self._open_dropped:
            (self.title if self._in_title else self._words).append(data)

    def end_paragraph(self) -> None:
        """Closes the paragraph or heading that was being read."""
        words, self._words = _joined(''.join(self._words)), []
        if words and self._in_heading:
            self.sections.append((words, []))
            self._in_heading = False
        elif words:
            self.sections[-1][1].append(words)


def _joined(text: str) -> str:
    return ' '.join(text.split())
