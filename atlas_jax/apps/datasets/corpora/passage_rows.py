"""Rows of passages, which all corpora write: cleaned, and cut to length if the texts are long."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from atlas_jax.apps.datasets.source import OutputRow
from atlas_jax.corpus import passages
from atlas_jax.corpus.documents import Document

OUTPUT = 'passages'
# Corpora made of web pages contain NUL bytes and other control characters.
_CONTROLS = re.compile(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]+')
_TITLE_SPACE = re.compile(r'\s+')


def clean(text: str) -> str:
    """Returns text without control characters, with lines that end in \\n only."""
    return _CONTROLS.sub(' ', text.replace('\r\n', '\n').replace('\r', '\n')).strip()


def clean_line(text: str) -> str:
    """Returns text cleaned and on one line, for titles."""
    return _TITLE_SPACE.sub(' ', clean(text)).strip()


def whole(docid: str, title: str, section: str, text: str, output: str = OUTPUT) -> OutputRow:
    """Returns a passage that is cleaned but not cut."""
    return OutputRow(output, {
        'id': docid, 'title': clean_line(title), 'section': clean_line(section), 'text': clean(text)
    })


def cut(docid: str, title: str, section: str, text: str, max_words: int,
        output: str = OUTPUT) -> Iterator[OutputRow]:
    """Yields a text's passages of at most `max_words` words, cut as `data passages` cuts documents;
    0 does not cut. An empty text yields nothing.
    """
    row = whole(docid, title, section, text, output)
    document = Document(
        **{'docid' if name == 'id' else name: value for name, value in row.fields.items()})
    if not document.text:
        return
    if not max_words:
        yield row
        return
    for passage in passages.split_passages([document], max_words):
        yield OutputRow(
            output, {
                'id': passage.docid, 'title': passage.title, 'section': passage.section,
                'text': passage.text})


def text_field(row: Mapping[str, Any], name: str) -> str | None:
    """Returns a field that is text, or '' if it is missing or null; None if it is anything else."""
    value = row.get(name)
    return '' if value is None else value if isinstance(value, str) else None
