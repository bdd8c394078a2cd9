"""Extracts title, sections and plain text of Markdown files and HTML pages."""

import html.parser
import re

# No pattern has a repeat inside a repeat: on a hostile file it would take exponential time.
_HEADING = re.compile(r' {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*')
_FENCE = re.compile(r' {0,3}(`{3,}|~{3,})')
_UNDERLINE = re.compile(r' {0,3}(=+|-+)[ \t]*')
_NOT_A_PARAGRAPH = re.compile(r'\s*$| {4}|\t|\s*(?:[-*+>|]|\d+[.)])(?:\s|$)')
# The first line must be `name: value`: a file without front matter may begin with a rule (---).
_FRONT_MATTER = re.compile(r'---[ \t]*\n(?=[\w-]+[ \t]*:)(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)',
                           re.DOTALL | re.MULTILINE)
# The address may contain a pair of parentheses, as Wikipedia's do.
_LINK = re.compile(r'!?\[([^\[\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:[ \t]+"[^"\n]*")?\)')
_STRONG = re.compile(r'\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*')
_CODE = re.compile(r'(`+[^`\n]+`+)')
# Code points have at most seven digits; Python refuses to parse integers of thousands.
_LONG_NUMBER = re.compile('&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?')
_MOST_OPEN = 100
# Elements around the text, which repeat on every page of a site.
_AROUND_TAGS = ('nav', 'header', 'footer', 'aside')
# Elements without text for a reader.
_DROPPED_TAGS = ('script', 'style', 'noscript', 'template', 'svg', 'math', *_AROUND_TAGS)
# Roles of a div with the same meaning.
_DROPPED_ROLES = ('navigation', 'banner', 'contentinfo', 'complementary', 'search')
_CONTAINERS = ('div', 'section', 'article', 'main', 'body')
_HEADING_TAGS = ('h1', 'h2', 'h3', 'h4', 'h5', 'h6')
# These tags end a paragraph; all others stand inside one.
_BLOCK_TAGS = frozenset(
    ('address', 'article', 'aside', 'blockquote', 'body', 'caption', 'dd', 'details', 'div', 'dl',
     'dt', 'fieldset', 'figcaption', 'figure', 'footer', 'form', 'header', 'hr', 'li', 'main',
     'nav', 'ol', 'p', 'pre', 'section', 'summary', 'table', 'tbody', 'tfoot', 'thead', 'tr', 'ul'))


def read_markdown(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Returns (title, [(section, text)]) of a Markdown file.

    The title is that of the front matter, or the first heading, or ''. Text above the second
    heading has section ''. Links and images are replaced by their words and bold marks are removed,
    except in code.
    """
    title = ''
    if front := _FRONT_MATTER.match(text):
        text = text[front.end():]
        named = re.search(r'^title:[ \t]*(.+?)[ \t]*$', front[1], re.MULTILINE)
        title = named[1].strip('"\'') if named else ''
    sections: list[tuple[str, list[str]]] = [('', [])]
    fence, seen_heading = '', False
    lines = _without_comments(text).split('\n')
    for number, line in enumerate(lines):
        body = sections[-1][1]
        if fence:
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ''
            else:
                body.append(line)
            continue
        if opened := _FENCE.match(line):
            fence = opened[1]
            continue
        heading = _heading(line, body, lines[number - 1] if number else '')
        if heading is None:
            body.append(_plain(line))
            continue
        # The first heading is the title, or repeats that of the front matter.
        if not seen_heading and (not title or heading == title):
            title, heading = title or heading, ''
        seen_heading = True
        if heading:
            sections.append((heading, []))
    return title, [(heading, '\n'.join(body).strip('\n')) for heading, body in sections]


def _without_comments(text: str) -> str:
    # Without a pattern: on many unclosed comments `<!--.*?-->` takes quadratic time.
    kept, position = [], 0
    while (start := text.find('<!--', position)) >= 0:
        if (stop := text.find('-->', start + 4)) < 0:
            break
        kept.append(text[position:start])
        position = stop + 3
    return ''.join([*kept, text[position:]])


def _heading(line: str, body: list[str], before: str) -> str | None:
    """Returns the heading that this line makes, or None.

    A line of === or --- makes the line before it a heading, which is removed from `body`.
    """
    if match := _HEADING.fullmatch(line):
        return _plain(match[2] or '').strip()
    follows_one_line = body and body[-1] == _plain(before) and (
        len(body) < 2 or not body[-2].strip())
    # Below several lines or a list, the line is a rule or a table's border.
    if follows_one_line and _UNDERLINE.fullmatch(line) and not _NOT_A_PARAGRAPH.match(before):
        return body.pop().strip()
    return None


def _plain(line: str) -> str:
    """Returns the line with links, images and bold marks reduced to words, except in code spans."""
    plain = []
    for number, part in enumerate(_CODE.split(line)):
        is_code = number % 2 == 1  # split by a pattern with one group: text and code alternate
        if not is_code:
            part = _LINK.sub(r'\1', _LINK.sub(r'\1', part))  # twice: an image may stand in a link
            part = _STRONG.sub(r'\1', part)
        plain.append(part)
    return ''.join(plain)


def read_html(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Returns (title, [(section, text)]) of a page; broken HTML is read as far as possible.

    Scripts, styles, navigation, footers and asides are dropped; of headers, only headings are kept.

    The title is the page's <title>, or its first heading. Text above the first heading has section
    '', and so does text below a first heading that is part of the title.
    """
    parser = _HtmlPage()
    parser.feed(_tamed(text))
    parser.close()
    parser.end_paragraph()
    (_, body), *rest = parser.sections
    title = _single_spaced(''.join(parser.title)) or (rest[0][0] if rest else '')
    # The first heading repeats the page's title; <title> may add the site's name.
    if rest and rest[0][0] in title:
        body, rest = body + rest[0][1], rest[1:]
    return title, [
        (heading, '\n\n'.join(paragraphs)) for heading, paragraphs in [('', body), *rest]]


def _tamed(text: str) -> str:
    """Returns the page changed so that html.parser reads it in linear time.

    html.parser searches the rest of the page for the end of each comment and tag.
    """
    # As in browsers, <![ opens a comment that ends at the next >.
    text = _without_comments(text).replace('<!--', '').replace('<![', '<!')
    # No tag ends after the last >.
    tags, end, rest = text.rpartition('>')
    return _LONG_NUMBER.sub('\ufffd', tags + end + rest.replace('<', '&lt;'))


class _HtmlPage(html.parser.HTMLParser):
    """Collects the title and, for each heading, the paragraphs below it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.sections: list[tuple[str, list[str]]] = [('', [])]
        self._open_dropped: list[str] = []
        self._in_title = self._in_heading = False
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == 'main':  # a <nav> that was not closed ends here
            self._open_dropped.clear()
        # Containers inside dropped elements are tracked too: an end tag that is not theirs then
        # ends the dropped element.
        if tag in _DROPPED_TAGS or tag in _CONTAINERS and (
                self._open_dropped or dict(attrs).get('role') in _DROPPED_ROLES):
            if tag in _BLOCK_TAGS:  # not for formulas and icons, which stand inside sentences
                self.end_paragraph()
            if len(self._open_dropped) < _MOST_OPEN:  # the list is searched at every end tag
                self._open_dropped.append(tag)
        elif tag == 'title' and not self._open_dropped:
            self._in_title = True
        elif tag in _HEADING_TAGS:
            self.end_paragraph()
            # An open <title> ends here.
            self._in_heading, self._in_title = not self._open_dropped or self._in_header, False
        elif tag in _BLOCK_TAGS:
            self.end_paragraph()
            self._in_title = False
        elif tag in ('br', 'td', 'th'):  # they separate words, not paragraphs
            self._words.append(' ')

    @property
    def _in_header(self) -> bool:
        """True in a <header>, which often holds the heading of the text below."""
        return set(self._open_dropped) - set(_CONTAINERS) == {'header'}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _DROPPED_TAGS:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open_dropped:
            # As in browsers, tags left open inside are closed too.
            while self._open_dropped.pop() != tag:
                pass
            if tag in _BLOCK_TAGS:
                self.end_paragraph()  # a heading in a header may have been left open
        elif tag in _CONTAINERS:
            # It began before the dropped element, which was left open.
            self._open_dropped.clear()
            self.end_paragraph()
        elif tag == 'title':
            self._in_title = False
        elif tag in _BLOCK_TAGS:
            self.end_paragraph()
        elif tag in _HEADING_TAGS:
            self.end_paragraph()
            self._in_heading = False

    def handle_data(self, data: str) -> None:
        if not self._open_dropped:
            (self.title if self._in_title else self._words).append(data)
        elif self._in_heading and self._in_header:
            self._words.append(data)

    def end_paragraph(self) -> None:
        """Closes the paragraph or heading that was being read."""
        words, self._words = _single_spaced(''.join(self._words)), []
        if words and self._in_heading:
            self.sections.append((words, []))
            self._in_heading = False
        elif words:
            self.sections[-1][1].append(words)


def _single_spaced(text: str) -> str:
    return ' '.join(text.split())
