"""Title, sections and plain text of a Markdown file."""

import re

_HEADING = re.compile(r' {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*')
_FENCE = re.compile(r' {0,3}(`{3,}|~{3,})')
_UNDERLINE = re.compile(r' {0,3}(=+|-+)[ \t]*')
_NOT_A_PARAGRAPH = re.compile(r'\s*$| {4}|\t|\s*(?:[-*+>|]|\d+[.)])(?:\s|$)')
_FRONT_MATTER = re.compile(r'---[ \t]*\n(?=[\w-]+[ \t]*:)(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)', re.DOTALL | re.MULTILINE)
_LINK = re.compile(r'!?\[([^\[\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:[ \t]+"[^"\n]*")?\)')
_STRONG = re.compile(r'\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*')
_CODE = re.compile(r'(`+[^`\n]+`+)')


def read(text: str) -> tuple[str, list[tuple[str, str]]]:
    """(title, [(section, text)]) of a Markdown file; the title is that of the front matter or else the first heading, '' without one.

    Text above the second heading has section ''. Links and images become their words, strong marks go; code stays as it is.
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
        if not seen_heading and (not title or heading == title):
            title, heading = title or heading, ''
        seen_heading = True
        if heading:
            sections.append((heading, []))
    return title, [(heading, '\n'.join(body).strip('\n')) for heading, body in sections]


def _without_comments(text: str) -> str:
    kept, position = [], 0
    while (start := text.find('<!--', position)) >= 0 and (stop := text.find('-->', start + 4)) >= 0:
        kept.append(text[position:start])
        position = stop + 3
    return ''.join([*kept, text[position:]])


def _heading(line: str, body: list[str], before: str) -> str | None:
    """The heading that this line makes, of itself or of the line before, which then leaves the body; None where it makes none."""
    if match := _HEADING.fullmatch(line):
        return _plain(match[2] or '').strip()
    follows_one_line = body and body[-1] == _plain(before) and (len(body) < 2 or not body[-2].strip())
    if follows_one_line and _UNDERLINE.fullmatch(line) and not _NOT_A_PARAGRAPH.match(before):
        return body.pop().strip()
    return None


def _plain(line: str) -> str:
    parts = _CODE.split(line)
    # Twice: an image may stand in a link.
    parts[::2] = [_STRONG.sub(r'\1', _LINK.sub(r'\1', _LINK.sub(r'\1', part))) for part in parts[::2]]
    return ''.join(parts)
