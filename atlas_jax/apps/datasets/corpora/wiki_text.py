"""Converts wikitext to sections of plain text and to infoboxes. Lists are kept; tables,
references, files and most templates are dropped.

mwparserfromhell parses templates and links. On hostile pages it takes quadratic time for tags,
tables, and brackets that are unclosed or nested too deep, so these are removed first.
"""

import dataclasses
import html
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atlas_jax import errors

# Marks each entry of a list until passages are cut. A private-use character: pages have none.
ITEM = '\ue000'
_MOST_NESTED = 20
_MOST_UNCLOSED = 2000  # characters removed with an unclosed template
_COMMENT = re.compile(r'<!--.*?-->', re.DOTALL)
_TAG = re.compile(r'</?([a-zA-Z][a-zA-Z0-9]{0,20})(?:\s[^<>]{0,2000})?/?>')
# Tags whose content is not text of the article.
_DROPPED_TAGS = frozenset(
    ('ref', 'references', 'math', 'chem', 'gallery', 'timeline', 'score', 'graph', 'hiero',
     'imagemap', 'mapframe', 'maplink', 'syntaxhighlight', 'source', 'templatestyles', 'table',
     'includeonly', 'inputbox', 'categorytree', 'section', 'indicator', 'style', 'script'))
_BREAKS = frozenset(('br', 'p', 'div', 'li', 'tr', 'hr', 'blockquote', 'poem'))
_HEADING = re.compile(r'^(={1,6})[ \t]*(\S.{0,300}?)[ \t]*\1[ \t]*$', re.MULTILINE)
_LIST = re.compile(r'^[*#][*#:;]*[ \t]*(.*)$', re.MULTILINE)
_INDENT = re.compile(r'^[:;]+[ \t]*|^-{4,}', re.MULTILINE)
_EXTERNAL = re.compile(r'\[(?:https?:|ftp:|mailto:|//)[^\s\]\[]{0,2000}[ \t]*([^\]\[\n]{0,500})\]')
# Nine of ten links. The parser would spend half of its time on them.
_SIMPLE_LINK = re.compile(r'\[\[(?:[^\[\]{}|:\n]{1,300}\|)?([^\[\]{}|:\n]{1,300})\]\]')
_BRACKETS = re.compile(r'\{\{|\}\}|\[\[|\]\]')
_STYLE = re.compile(r"'{2,}")
_MAGIC = re.compile(r'__[A-Z]{3,30}__')
_STRAY = re.compile(r'\{\{|\}\}|\[\[|\]\]|\{\||\|\}')
_LANGUAGE_LINK = re.compile(r'[a-z]{2,3}(?:-[a-z]{2,10})?:\S')
_SPACE = re.compile(r'[ \t\xa0]+')
# Lists of links and sources, as the English Wikipedia names them.
_DROPPED_SECTIONS = frozenset(
    ('references', 'external links', 'see also', 'notes', 'footnotes', 'further reading',
     'citations', 'notes and references', 'references and notes', 'sources', 'works cited'))
_DISAMBIGUATION = re.compile(
    r'\{\{\s*(?:[\w ]{0,40}disambig(?:uation)?(?: page)?|dab|disamb|hndis|geodis|surname|'
    r'given name|set index article|siadn|begriffsklärung|homonymie|disambigua|'
    r'desambiguación|неоднозначность)\s*[|}]|__DISAMBIG__', re.IGNORECASE)
_INFOBOX = re.compile(
    r'\s*(?:infobox|taxobox|speciesbox|automatic[ _]taxobox|geobox|chembox|drugbox|ficha de|'
    r'карточка|картка)\b', re.IGNORECASE)
# Parameters of infoboxes that control the display.
_SHOWN = re.compile(
    r'(?:.*[_ ])?(?:image|image\d|logo|photo|map|map\d|flag|seal|width|size|alt|caption|style|'
    r'color|colour|upright|footnotes?|ref|refs|module|embed|signature|pushpin.*|coordinates|'
    r'coords)|image.*|img.*|bodystyle', re.IGNORECASE)
# Templates whose first or second argument is their text.
_TEXT_OF_FIRST = frozenset(
    ('nowrap', 'marriage', 'nobr', 'small', 'smaller', 'big', 'abbr', 'nobold', 'nihongo', 'quote',
     'blockquote', 'cquote', 'url', 'flag', 'flagcountry', 'sc', 'em', 'strong', 'sub', 'sup',
     'linktext', 'ill', 'flagu', 'interlanguage link', 'formatnum', 'as written', 'not a typo',
     'visible anchor', 'vanchor', 'awrap', 'center', 'no bold', 'iast'))
_TEXT_OF_SECOND = frozenset(
    ('lang', 'transl', 'transliteration', 'script', 'wikt-lang', 'color', 'colour', 'font color'))
_LISTS = frozenset(('ubl', 'unbulleted list', 'plainlist', 'plain list', 'flatlist', 'flat list',
                    'hlist', 'bulleted list', 'ordered list', 'cslist', 'collapsible list',
                    'ublist', 'div col', 'columns-list'))
_DATES = frozenset(('birth date', 'birth date and age', 'death date', 'death date and age',
                    'start date', 'end date', 'start date and age', 'birth-date', 'death-date',
                    'film date', 'bda', 'dda', 'birth year and age', 'birth-date and age'))


@dataclasses.dataclass(frozen=True)
class Article:
    """A page's text.

    Attributes:
      sections: (headings, outermost first; text) of each section. ITEM marks each entry of a list,
        and blank lines separate paragraphs.
      infoboxes: The entries of each infobox, `name: value`.
    """

    sections: list[tuple[tuple[str, ...], str]]
    infoboxes: list[list[str]]


def is_disambiguation(title: str, text: str) -> bool:
    """Returns whether a page lists articles of the same name; lists of persons by name count."""
    return title.endswith('(disambiguation)') or bool(_DISAMBIGUATION.search(text))


def read(text: str, dropped_namespaces: Sequence[str]) -> Article:
    """Returns the sections and infoboxes of a page.

    Args:
      text: Wikitext, however broken.
      dropped_namespaces: Namespaces whose links are not text, such as `file` and `category`, in
        lower case.

    Raises ConfigError: mwparserfromhell is not installed.
    """
    parse, dropped = parser(), frozenset(dropped_namespaces)
    text = _without_tags(_without_comments(text.replace(ITEM, ' ')))
    infoboxes: list[list[str]] = []
    sections = []
    for headings, body in _sections(text):
        if any(heading.lower() in _DROPPED_SECTIONS for heading in headings):
            continue
        # Balanced by section, so that an unclosed bracket affects one section only.
        body = _balanced(_INDENT.sub('', _LIST.sub(rf'\n\n{ITEM}\1\n', _without_tables(body))))
        if '{{' in body or '[[' in body:
            body = _Writer(dropped, infoboxes).text(parse(body, skip_style_tags=True))
        if plain := _tidy(body):
            sections.append((tuple(map(_heading_text, headings)), plain))
    return Article(sections, infoboxes)


def parser() -> Callable[..., Any]:
    """Returns mwparserfromhell's parse. Raises ConfigError: it is not installed."""
    try:
        import mwparserfromhell  # optional
    except ImportError as error:
        raise errors.ConfigError('Wikipedia dumps need mwparserfromhell; install it with `pip '
                                 'install atlas-jax[data]`') from error
    return mwparserfromhell.parse


def _without_comments(text: str) -> str:
    # The pattern is not applied after the last `-->`, because each unclosed `<!--` there would make
    # it search the rest of the page.
    closed, _, rest = text.rpartition('-->')
    if not closed:
        return text.partition('<!--')[0]
    return _COMMENT.sub('', closed + '-->') + rest.partition('<!--')[0]


def _without_tags(text: str) -> str:
    """Returns text without tags, and without the content of dropped tags. An unclosed dropped tag
    ends with its line.
    """
    kept, place, dropping, depth = [], 0, '', 0
    # A reference must be closed in its paragraph, other tags in their section. Each limit is
    # searched once for all tags before it.
    limits = {'\n\n': -1, '\n=': -1}
    for match in _TAG.finditer(text):
        name, tag = match[1].lower(), match[0]
        is_end, is_empty = tag.startswith('</'), tag.endswith('/>')
        if dropping:
            limit = '\n\n' if dropping == 'ref' else '\n='
            if limits[limit] < place:
                found = text.find(limit, place)
                limits[limit] = len(text) if found < 0 else found
            is_inside = match.start() <= limits[limit]
            if is_inside and name == dropping and (is_end or dropping == 'table') and not is_empty:
                depth += -1 if is_end else 1
                if not depth:
                    place, dropping = match.end(), ''
                continue
            # A <ref> inside a <ref> shows that the first was never closed.
            if is_inside and (name != dropping or is_empty):
                continue
            # Not scanned again: with many unclosed tags that would take quadratic time.
            kept.append(_TAG.sub('', text[_line_end(text, place, match.start()):match.start()]))
            place, dropping = match.start(), ''
        kept.append(text[place:match.start()])
        place = match.end()
        if name in _DROPPED_TAGS and not is_end and not is_empty:
            dropping, depth = name, 1
        elif name in _BREAKS:
            kept.append('\n')
    kept.append(
        _TAG.sub('', text[_line_end(text, place, len(text)):]) if dropping else text[place:])
    return ''.join(kept)


def _line_end(text: str, start: int, stop: int) -> int:
    found = text.find('\n', start, stop)
    return stop if found < 0 else found


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields (headings, text) of each section."""
    path: list[tuple[int, str]] = []
    start = 0
    for match in _HEADING.finditer(text):
        yield tuple(heading for _, heading in path), text[start:match.start()]
        level, start = len(match[1]), match.end()
        path = [(above, heading) for above, heading in path if above < level] + [(level, match[2])]
    yield tuple(heading for _, heading in path), text[start:]


def _without_tables(text: str) -> str:
    """Returns a section's text without tables. Of an unclosed table, only the lines that look like
    parts of it are removed.
    """
    if '{|' not in text and '|}' not in text:
        return text
    lines = text.split('\n')
    kept: list[str] = []
    opened: list[int] = []  # positions in `kept` where the open tables began
    for line in lines:
        start = line.lstrip(' :*')
        if start.startswith('{|'):
            opened.append(len(kept))
        if start.startswith('|}') and not start.startswith('|}}') and opened:
            del kept[opened.pop():]
            continue
        kept.append(line)
    if opened:
        kept = [
            line for number, line in enumerate(kept)
            if number < opened[0] or not line.lstrip(' :*').startswith(('{|', '|', '!'))]
    return '\n'.join(kept)


def _balanced(text: str) -> str:
    """Returns text whose {{ }} and [[ ]] are all closed, in order and not nested too deep."""
    text = _SIMPLE_LINK.sub(r'\1', _EXTERNAL.sub(r'\1', text))
    stack: list[tuple[str, int, int]] = []
    stray: list[tuple[int, int]] = []
    too_deep = 0
    for match in _BRACKETS.finditer(text):
        token = match[0]
        if token in ('{{', '[['):
            if len(stack) >= _MOST_NESTED:
                too_deep += 1
                stray.append(match.span())
            else:
                stack.append((token, *match.span()))
            continue
        opening = '{{' if token == '}}' else '[['
        if too_deep:
            too_deep -= 1
            stray.append(match.span())
        elif any(other == opening for other, _, _ in stack):
            # Brackets opened inside that are still open are never closed.
            while stack[-1][0] != opening:
                stray.append(_unclosed(text, *stack.pop()))
            stack.pop()
        else:
            stray.append(match.span())
    stray += [_unclosed(text, *opened) for opened in stack]
    kept, place = [], 0
    for start, stop in sorted(stray):
        kept.append(text[place:max(start, place)])
        place = max(stop, place)
    return ''.join([*kept, text[place:]])


def _unclosed(text: str, token: str, start: int, stop: int) -> tuple[int, int]:
    """Returns the (start, stop) to remove for an unclosed bracket: a template's first line and its
    parameter lines, or only the bracket of a link.
    """
    if token == '[[':
        return start, stop
    # Bounded, since many may be unclosed before the same lines.
    stop = _line_end(text, stop, min(len(text), stop + _MOST_UNCLOSED))
    last = min(len(text), stop + _MOST_UNCLOSED)
    while text.startswith(('\n|', '\n |'), stop) and stop < last:
        stop = _line_end(text, stop + 1, last)
    return start, stop


class _Writer:
    """Writes mwparserfromhell's nodes as plain text, and collects infoboxes."""

    def __init__(self, dropped: frozenset[str], infoboxes: list[list[str]]):
        self._dropped, self._infoboxes = dropped, infoboxes

    def text(self, code: Any) -> str:
        """Returns the text of a Wikicode; '' for None."""
        return ''.join(self._node(node) for node in code.nodes) if code is not None else ''

    def _node(self, node: Any) -> str:
        match type(node).__name__:
            case 'Text':
                return node.value
            case 'Wikilink':
                return self._link(node)
            case 'Template':
                return self._template(node)
            case 'ExternalLink':
                return self.text(node.title) if node.brackets else self.text(node.url)
            case 'HTMLEntity':
                return str(node)  # unescaped at the end, with those in other places
            case 'Heading':
                return self.text(node.title)
            case _:  # arguments, comments
                return ''

    def _link(self, node: Any) -> str:
        target = self.text(node.title).strip()
        namespace = target.partition(':')[0].strip().lower()
        if ':' in target and (namespace in self._dropped
                              or node.text is None and _LANGUAGE_LINK.match(target)):
            return ''
        return target.removeprefix(':') if node.text is None else self.text(node.text)

    def _template(self, node: Any) -> str:
        name = ' '.join(self.text(node.name).replace('_', ' ').split()).lower()
        if _INFOBOX.match(name):
            if entries := self._entries(node):
                self._infoboxes.append(entries)
            return ''
        if name.partition(':')[0] == 'formatnum':
            return name.partition(':')[2]
        places = {str(parameter.name).strip(): parameter.value for parameter in node.params}
        if name in _TEXT_OF_FIRST:
            return self.text(places.get('1', places.get('text'))).strip()
        if name in _TEXT_OF_SECOND or name.startswith('lang-'):
            return self.text(places.get('1' if name.startswith('lang-') else '2')).strip()
        if name in ('convert', 'cvt'):
            return ' '.join(
                self.text(places[place]).strip() for place in ('1', '2') if place in places)
        if name in ('circa', 'c.'):
            return f'c. {self.text(places.get("1"))}'
        if name == 'as of':
            return f'As of {self.text(places.get("1"))}'
        values = [self.text(value).strip() for place, value in places.items() if place.isdigit()]
        if name in _DATES:
            # Death dates give the birth date after the death date.
            return '-'.join([value for value in values if value.isdigit()][:3])
        return ''.join(f'\n{ITEM}{value}' for value in values if value) if name in _LISTS else ''

    def _entries(self, node: Any) -> list[str]:
        """Returns an infobox's parameters as `name: value`, without those that are empty or control
        the display.
        """
        entries = []
        for parameter in node.params:
            key = ' '.join(self.text(parameter.name).replace('_', ' ').split())
            value = re.sub(rf'\s*(?:{ITEM}|\n)[\s{ITEM}]*', ', ',
                           _tidy(self.text(parameter.value)).strip(f' \n{ITEM}'))
            if key and value and not key.isdigit() and not _SHOWN.fullmatch(key):
                entries.append(f'{key}: {value}')
        return entries


def _heading_text(text: str) -> str:
    return ' '.join(
        _tidy(
            re.sub(r'\[\[(?:[^\[\]|]{0,300}\|)?([^\[\]|]{0,300})\]\]|\{\{[^{}]{0,300}\}\}', r'\1',
                   text)).split())


def _tidy(text: str) -> str:
    """Returns text without leftover marks, with entities unescaped and one blank line between
    paragraphs.
    """
    text = _MAGIC.sub('', _STYLE.sub('', _STRAY.sub('', text)))
    text = html.unescape(text).replace('\r', '').replace('\0', ' ')
    lines = [_SPACE.sub(' ', line).strip() for line in text.split('\n')]
    # Drops entries without text, such as those that held only a file.
    text = '\n'.join(line for line in lines if line != ITEM)
    # Removed templates leave "(; born 1867)", "( )", "word ,".
    text = re.sub(r'\(\s*[;,]\s*', '(', text)
    text = re.sub(r' ?\(\s*\)', '', text)
    text = re.sub(r' +([,.;:])(?=\s|$)', r'\1', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip()
