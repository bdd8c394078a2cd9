"""Prompt formats cut into token segments, so that reader inputs can be assembled from token ids.

A word piece never crosses a space (T5), or a space or punctuation mark (BERT). So if every field of
a format is between spaces or line breaks, the tokens of the whole text are the tokens of its parts,
one after another. A format with a field that touches other text has no segments: `touching` says
why, and input/passages.py tokenises its whole text on the host.
"""

import dataclasses
import string
import unicodedata
from collections.abc import Callable

from atlas_jax import errors

FIELDS = ('query', 'title', 'text')
WHITE_SPACE = frozenset(' \n\t\r')  # ends a word for both tokenizers
# Full-width marks end a word for BERT, as ASCII marks do. Prompts of Chinese models end with them.
_WIDE = (chr(code)
         for start, stop in ((0x3001, 0x3020), (0xFF01, 0xFF66))
         for code in range(start, stop))
# Characters that end a word for BERT.
PUNCTUATION = (WHITE_SPACE | frozenset(string.punctuation)
               | frozenset(mark for mark in _WIDE if unicodedata.category(mark).startswith('P')))
_REMEDY = 'put a space or a line break on both sides of every field'


@dataclasses.dataclass(frozen=True)
class Segment:
    """Part of an input. `kind` is literal, with the same `ids` in every input; query; title; or
    text.
    """

    kind: str
    ids: tuple[int, ...] = ()


def cut_format(template: str, encode: Callable[[str], list[int]], *,
               prefix_ids: tuple[int, ...] = (), suffix_ids: tuple[int, ...] = (),
               borders: frozenset[str] = WHITE_SPACE) -> tuple[Segment, ...]:
    """Cuts a format such as '{query} title: {title} context: {text}' at its fields.

    Args:
      template: the format.
      encode: tokenises the text between the fields, without special tokens.
      prefix_ids, suffix_ids: special tokens at the start and the end of the input.
      borders: characters that no token of the tokenizer crosses.

    Raises:
      FormatError: a field is unknown, repeated, or touches other text or another field; or braces
        are unbalanced.
    """
    if reason := touching(template, borders):
        raise errors.FormatError(f'{reason}; {_REMEDY}')
    segments = [Segment('literal', tuple(prefix_ids))] if prefix_ids else []
    for literal, field in parse(template):
        if ids := tuple(encode(literal)):  # a literal of spaces has no tokens
            segments.append(Segment('literal', ids))
        if field is not None:
            segments.append(Segment(field))
    if suffix_ids:
        segments.append(Segment('literal', tuple(suffix_ids)))
    return tuple(segments)


def touching(template: str, borders: frozenset[str] = WHITE_SPACE) -> str | None:
    """Returns why the format cannot be cut, in one line; None if it can.

    Raises FormatError: an unknown or repeated field, or unbalanced braces.
    """
    for number, (literal, field) in enumerate(parse(template)):
        is_first = number == 0
        if is_first and (not literal or literal[-1] in borders):
            continue  # a field may begin the format
        if not is_first and literal[:1] not in borders:
            behind = literal[:20] or f'{{{field}}}'
            return f'format "{template}": text touches the field before "{behind}"'
        if field is not None and literal[-1:] not in borders:
            return f'format "{template}": text touches the field {{{field}}}, at "{literal[-20:]}"'
    return None


def literal(text: str) -> str:
    """Returns the format that gives a plain text: the text with its braces doubled."""
    return text.replace('{', '{{').replace('}', '}}')


def fill(template: str, values: dict[str, str]) -> str:
    """Fills a format's fields with values and returns the text.

    Raises FormatError: see `parse`.
    """
    return ''.join(literal + (values[field] if field else '') for literal, field in parse(template))


def parse(template: str) -> list[tuple[str, str | None]]:
    """Splits a format into pairs (literal, the field after it or None), in order.

    Raises FormatError: an unknown or repeated field, or unbalanced braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise errors.FormatError(
            f'format "{template}": {error}; write a literal brace twice') from error
    parts: list[tuple[str, str | None]] = []
    pending = ''
    for literal, field, specification, conversion in parsed:
        pending += literal
        if field is None:  # Formatter also splits a literal at doubled braces
            continue
        # `{title:>9}` and `{title!r}` would change the text, but its tokens are fixed.
        if field not in FIELDS or specification or conversion:
            shown = field + (f'!{conversion}' if conversion else '') + (f':{specification}'
                                                                        if specification else '')
            valid = ', '.join(f'{{{name}}}' for name in FIELDS)
            raise errors.FormatError(f'format "{template}": unknown field {{{shown}}}; the fields '
                                     f'are {valid}')
        if field in (name for _, name in parts):
            raise errors.FormatError(f'format "{template}": {{{field}}} occurs twice; use each '
                                     'field once')
        parts.append((pending, field))
        pending = ''
    if pending:
        parts.append((pending, None))
    return parts


def without_lone_surrogates(text: str) -> str:
    """Replaces lone surrogates by `?`.

    Python makes them from bytes of a command line that are not UTF-8. The tokenizers refuse them.
    """
    return text if text.isascii() else text.encode(errors='replace').decode()
