"""Wikitext to sections of plain text and to infoboxes. Lists are kept; tables, references, files and most templates are not.

mwparserfromhell reads templates and links. What it takes quadratic time for on hostile pages is removed before: tags, tables, and brackets
that are never closed or nested deeper than any page needs.
"""

import dataclasses
import html
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atlas_jax import errors

# Before each entry of a list, until passages are cut; a private character, which a page may not hold.
ITEM = '\ue000'
_MOST_NESTED = 20
_MOST_UNCLOSED = 2000  # characters removed with an unclosed template
_COMMENT = re.compile(r'<!--.*?-->', re.DOTALL)
_TAG = re.compile(r'</?([a-zA-Z][a-zA-Z0-9]{0,20})(?:\s[^<>]{0,2000})?/?>')
# Their content is no text of the article.
_DROPPED_TAGS = frozenset(('ref', 'references', 'math', 'chem', 'gallery', 'timeline', 'score', 'graph', 'hiero', 'imagemap', 'mapframe',
                           'maplink', 'syntaxhighlight', 'source', 'templatestyles', 'table', 'includeonly', 'inputbox', 'categorytree',
                           'section', 'indicator', 'style', 'script'))
_BREAKS = frozenset(('br', 'p', 'div', 'li', 'tr', 'hr', 'blockquote', 'poem'))
_HEADING = re.compile(r'^(={1,6})[ \t]*(\S.{0,300}?)[ \t]*\1[ \t]*$', re.MULTILINE)
_LIST = re.compile(r'^[*#][*#:;]*[ \t]*(.*)$', re.MULTILINE)
_INDENT = re.compile(r'^[:;]+[ \t]*|^-{4,}', re.MULTILINE)
_EXTERNAL = re.compile(r'\[(?:https?:|ftp:|mailto:|//)[^\s\]\[]{0,2000}[ \t]*([^\]\[\n]{0,500})\]')
# Nine of ten links; the parser takes half of the time for them.
_SIMPLE_LINK = re.compile(r'\[\[(?:[^\[\]{}|:\n]{1,300}\|)?([^\[\]{}|:\n]{1,300})\]\]')
_BRACKETS = re.compile(r'\{\{|\}\}|\[\[|\]\]')
_STYLE = re.compile(r"'{2,}")
_MAGIC = re.compile(r'__[A-Z]{3,30}__')
_STRAY = re.compile(r'\{\{|\}\}|\[\[|\]\]|\{\||\|\}')
_LANGUAGE_LINK = re.compile(r'[a-z]{2,3}(?:-[a-z]{2,10})?:\S')
_SPACE = re.compile(r'[ \t\xa0]+')
# Lists of links and sources; the names are those of the English Wikipedia.
_DROPPED_SECTIONS = frozenset(('references', 'external links', 'see also', 'notes', 'footnotes', 'further reading', 'citations',
                               'notes and references', 'references and notes', 'sources', 'works cited'))
_DISAMBIGUATION = re.compile(r'\{\{\s*(?:[\w ]{0,40}disambig(?:uation)?(?: page)?|dab|disamb|hndis|geodis|surname|given name|set index '
                             r'article|siadn|begriffsklärung|homonymie|disambigua|desambiguación|неоднозначность)\s*[|}]|__DISAMBIG__',
                             re.IGNORECASE)
_INFOBOX = re.compile(r'\s*(?:infobox|taxobox|speciesbox|automatic[ _]taxobox|geobox|chembox|drugbox|ficha de|карточка|картка)\b',
                      re.IGNORECASE)
# Parameters of infoboxes that say how to show something, not what.
_SHOWN = re.compile(r'(?:.*[_ ])?(?:image|image\d|logo|photo|map|map\d|flag|seal|width|size|alt|caption|style|color|colour|upright|'
                    r'footnotes?|ref|refs|module|embed|signature|pushpin.*|coordinates|coords)|image.*|img.*|bodystyle', re.IGNORECASE)
_TEXT_OF_FIRST = frozenset(('nowrap', 'marriage', 'nobr', 'small', 'smaller', 'big', 'abbr', 'nobold', 'nihongo', 'quote', 'blockquote',
                            'cquote', 'url', 'flag', 'flagcountry', 'sc', 'em', 'strong', 'sub', 'sup', 'linktext', 'ill',
                            'flagu', 'interlanguage link', 'formatnum', 'as written', 'not a typo',
                            'visible anchor', 'vanchor', 'awrap', 'center', 'no bold', 'iast'))
_TEXT_OF_SECOND = frozenset(('lang', 'transl', 'transliteration', 'script', 'wikt-lang', 'color', 'colour', 'font color'))
_LISTS = frozenset(('ubl', 'unbulleted list', 'plainlist', 'plain list', 'flatlist', 'flat list', 'hlist', 'bulleted list', 'ordered list',
                    'cslist', 'collapsible list', 'ublist', 'div col', 'columns-list'))
_DATES = frozenset(('birth date', 'birth date and age', 'death date', 'death date and age', 'start date', 'end date', 'start date and age',
                    'birth-date', 'death-date', 'film date', 'bda', 'dda', 'birth year and age', 'birth-date and age'))


@dataclasses.dataclass(frozen=True)
class Article:
    """A page's text.

    Attributes:
      sections: (headings, outermost first, text); ITEM stands before each entry of a list, and blank lines between paragraphs.
      infoboxes: the entries of each, `name: value`.
    """

    sections: list[tuple[tuple[str, ...], str]]
    infoboxes: list[list[str]]


def is_disambiguation(title: str, text: str) -> bool:
    """Returns whether a page lists articles of the same name; lists of names count as such."""
    return title.endswith('(disambiguation)') or bool(_DISAMBIGUATION.search(text))


def read(text: str, dropped_namespaces: Sequence[str]) -> Article:
    """Returns the sections and infoboxes of a page.

    Args:
      text: wikitext; anything is read, however broken.
      dropped_namespaces: in small letters, those whose links are no text, such as `file` and `category`.

    Raises ConfigError: mwparserfromhell is not installed.
    """
    parse, dropped = parser(), frozenset(dropped_namespaces)
    text = _without_tags(_without_comments(text.replace(ITEM, ' ')))
    infoboxes: list[list[str]] = []
    sections = []
    for headings, body in _sections(text):
        if any(heading.lower() in _DROPPED_SECTIONS for heading in headings):
            continue
        # Balanced by section: what is never closed reaches no farther.
        body = _balanced(_INDENT.sub('', _LIST.sub(rf'\n\n{ITEM}\1\n', _without_tables(body))))
        plain = body
        if '{{' in body or '[[' in body:
            plain = _Writer(dropped, infoboxes).text(parse(body, skip_style_tags=True))
        if plain := _tidy(plain):
            plain_headings = tuple(_heading_text(heading) for heading in headings)
            sections.append((plain_headings, plain))
    return Article(sections, infoboxes)


def parser() -> Callable[..., Any]:
    """Returns mwparserfromhell's parse. Raises ConfigError: it is not installed."""
    try:
        import mwparserfromhell  # optional
    except ImportError as error:
        raise errors.ConfigError('Wikipedia dumps need mwparserfromhell; install it with `pip install atlas-jax[data]`') from error
    return mwparserfromhell.parse


def _without_comments(text: str) -> str:
    # The last opening decides whether any is unclosed; with `<!--` alone the pattern would look through the rest each time.
    closed, _, rest = text.rpartition('-->')
    if not closed:
        return text.partition('<!--')[0]
    return _COMMENT.sub('', closed + '-->') + rest.partition('<!--')[0]


def _without_tags(text: str) -> str:
    """Returns text without tags, and without the content of those that hold no text; an unclosed one ends with its line."""
    kept, place, dropping, depth = [], 0, '', 0
    # A reference is closed in its paragraph, others in their section; found once for all tags before it.
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
            # A second <ref> inside a <ref>: the first was never closed.
            if is_inside and (name != dropping or is_empty):
                continue
            # Not looked at again: with many that are never closed that would take quadratic time.
            kept.append(_TAG.sub('', text[_line_end(text, place, match.start()):match.start()]))
            place, dropping = match.start(), ''
        kept.append(text[place:match.start()])
        place = match.end()
        if name in _DROPPED_TAGS and not is_end and not is_empty:
            dropping, depth = name, 1
        elif name in _BREAKS:
            kept.append('\n')
    kept.append(_TAG.sub('', text[_line_end(text, place, len(text)):]) if dropping else text[place:])
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
    """Returns a section's text without tables; of one that is never closed, only the lines that look like it are removed."""
    if '{|' not in text and '|}' not in text:
        return text
    lines = text.split('\n')
    kept: list[str] = []
    opened: list[int] = []  # places in `kept` where the tables that are open began
    for line in lines:
        start = line.lstrip(' :*')
        if start.startswith('{|'):
            opened.append(len(kept))
        if start.startswith('|}') and not start.startswith('|}}') and opened:
            del kept[opened.pop():]
            continue
        kept.append(line)
    if opened:
        kept = [line for number, line in enumerate(kept) if number < opened[0] or not line.lstrip(' :*').startswith(('{|', '|', '!'))]
    return '\n'.join(kept)


def _balanced(text: str) -> str:
    """Returns text whose {{ }} and [[ ]] are all closed, in order, and not nested too deep."""
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
            # What was opened inside and is still open never closes.
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
    """Returns what is removed for a bracket that is never closed: a template's first line and its parameters; of a link the bracket."""
    if token == '[[':
        return start, stop
    # Bounded, since many may be unclosed before the same lines.
    stop = _line_end(text, stop, min(len(text), stop + _MOST_UNCLOSED))
    last = min(len(text), stop + _MOST_UNCLOSED)
    while text.startswith(('\n|', '\n |'), stop) and stop < last:
        stop = _line_end(text, stop + 1, last)
    return start, stop


class _Writer:
    """Writes nodes of mwparserfromhell as plain text, and collects infoboxes."""

    def __init__(self, dropped: frozenset[str], infoboxes: list[list[str]]):
        self._dropped, self._infoboxes = dropped, infoboxes

    def text(self, code: Any) -> str:
        """Returns the text of a Wikicode, or '' for None."""
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
                return str(node)  # read at the end, with those that stand in other places
            case 'Heading':
                return self.text(node.title)
            case _:  # arguments, comments
                return ''

    def _link(self, node: Any) -> str:
        target = self.text(node.title).strip()
        namespace = target.partition(':')[0].strip().lower()
        if ':' in target and (namespace in self._dropped or node.text is None and _LANGUAGE_LINK.match(target)):
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
            return ' '.join(self.text(places[place]).strip() for place in ('1', '2') if place in places)
        if name in ('circa', 'c.'):
            return f'c. {self.text(places.get("1"))}'
        if name == 'as of':
            return f'As of {self.text(places.get("1"))}'
        values = [self.text(value).strip() for place, value in places.items() if place.isdigit()]
        if name in _DATES:
            return '-'.join([value for value in values if value.isdigit()][:3])  # of death first, where birth follows
        return ''.join(f'\n{ITEM}{value}' for value in values if value) if name in _LISTS else ''

    def _entries(self, node: Any) -> list[str]:
        """Returns an infobox's parameters as `name: value`, without empty ones and those that say how something is shown."""
        entries = []
        for parameter in node.params:
            key = ' '.join(self.text(parameter.name).replace('_', ' ').split())
            value = re.sub(rf'\s*(?:{ITEM}|\n)[\s{ITEM}]*', ', ', _tidy(self.text(parameter.value)).strip(f' \n{ITEM}'))
            if key and value and not key.isdigit() and not _SHOWN.fullmatch(key):
                entries.append(f'{key}: {value}')
        return entries


def _heading_text(text: str) -> str:
    return ' '.join(_tidy(re.sub(r'\[\[(?:[^\[\]|]{0,300}\|)?([^\[\]|]{0,300})\]\]|\{\{[^{}]{0,300}\}\}', r'\1', text)).split())


def _tidy(text: str) -> str:
    """Returns text without the marks that are left, entities read, one blank line between paragraphs."""
    text = _MAGIC.sub('', _STYLE.sub('', _STRAY.sub('', text)))
    text = html.unescape(text).replace('\r', '').replace('\0', ' ')
    lines = [_SPACE.sub(' ', line).strip() for line in text.split('\n')]
    # An entry without text, such as one that held a file alone.
    text = '\n'.join(line for line in lines if line != ITEM)
    # What is left where a template stood: "(; born 1867)", "( )", "word ,".
    text = re.sub(r'\(\s*[;,]\s*', '(', text)
    text = re.sub(r' ?\(\s*\)', '', text)
    text = re.sub(r' +([,.;:])(?=\s|$)', r'\1', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip()
