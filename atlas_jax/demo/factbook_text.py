"""Plain sentences out of the Factbook's nested JSON, and passages of about a hundred words out of those."""

import html
import re
from collections.abc import Iterator
from typing import Any

_BREAK = re.compile(r'(?:\s*(?:<br\s*/?>|</p>\s*<p>|\+\+)\s*)+', re.IGNORECASE)
_TAG = re.compile(r'<[^<>]+>')
_ENDS = ('.', ';', ':', '!', '?')


def clean(text: Any) -> str:
    """One line of plain text: no HTML tags or entities, breaks as semicolons, single spaces."""
    text = _TAG.sub(' ', _BREAK.sub(' ; ', str(text)))
    text = ' '.join(html.unescape(text).replace('’', "'").split())
    text = re.sub(r'\s+([,.;:)])', r'\1', text)
    text = re.sub(r'([.;:!?,])(?:\s*;)+', r'\1', text)
    return re.sub(r'(\()\s+', r'\1', text).strip('; ')


def flatten(field: str, value: Any) -> str:
    """A field's value as "part: text; part: text"; empty where it holds nothing."""
    if not isinstance(value, dict):
        text = clean(value)
        return '' if text.lower() in ('', 'none', 'na', 'n/a') else text
    parts = []
    for key, inner in value.items():
        text = flatten(key, inner)
        if text:
            label = _label(field, key)
            outer, _, inner_label = label.rpartition(': ')
            repeats = inner_label and text.lower().startswith(f'{inner_label.lower()}:')
            parts.append(': '.join(part for part in (outer if repeats else label, text) if part))
    return '; '.join(part.rstrip(';.') if part is not parts[-1] else part for part in parts)


def statement(field: str, value: Any) -> str:
    """The field as one sentence, "Field: text."; empty where it holds nothing."""
    text = flatten(field, value)
    return f'{field}: {text}' + ('' if text.endswith(_ENDS) else '.') if text else ''


def pack(body: dict[str, Any], max_words: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Groups a section's fields, in order, into texts of at most `max_words` words; yields (text, names of the fields in it).

    A longer field is cut at the end of a sentence or clause where one is near, and each piece starts with the field's name.
    """
    texts: list[str] = []
    fields: list[str] = []
    for field, value in body.items():
        for piece in _pieces(field, statement(field, value), max_words):
            if texts and sum(len(text.split()) for text in texts) + len(piece.split()) > max_words:
                yield ' '.join(texts), tuple(fields)
                texts, fields = [], []
            texts.append(piece)
            fields.append(field)
    if texts:
        yield ' '.join(texts), tuple(fields)


def _label(field: str, key: str) -> str:
    """The part's own name: without the field's name that many parts repeat ("Real GDP growth rate 2024") and without "text"."""
    key = ' '.join(key.split())
    if key == 'text':
        return ''
    return key.removeprefix(field).strip(' -:') if key.startswith(field) else key


def _pieces(field: str, sentence: str, max_words: int) -> Iterator[str]:
    words, name = sentence.split(), f'{field}:'.split()
    while len(words) > max_words:
        end = next((i for i in range(max_words, max_words * 6 // 10, -1) if words[i - 1][-1] in '.;'), max_words)
        yield ' '.join(words[:end])
        words = name + words[end:]
    if len(words) > len(name) or (words and words != name):
        yield ' '.join(words)
