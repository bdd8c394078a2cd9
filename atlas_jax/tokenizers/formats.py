"""Prompt formats cut into token segments, so that reader inputs can be put together from token ids alone.

A word piece never crosses a space (T5) or a space or punctuation mark (BERT). So where every field of a format stands between spaces or
line breaks, the tokens of the whole text are those of its parts, one after another. A format with a field that touches other text has no
segments: `touching` says why, and input/passages.py tokenises its whole text on the host.
"""

import dataclasses
import string
from collections.abc import Callable

from atlas_jax import errors

FIELDS = ('query', 'title', 'text')
WHITE_SPACE = frozenset(' \n\t\r')  # what both tokenizers take for the end of a word
PUNCTUATION = WHITE_SPACE | frozenset(string.punctuation)  # what BERT's does
_REMEDY = 'put a space or a line break between every field and what stands beside it'


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of an input: `kind` is literal (the same `ids` everywhere), query, title or text."""

    kind: str
    ids: tuple[int, ...] = ()


def cut_format(template: str, encode: Callable[[str], list[int]], *, prefix_ids: tuple[int, ...] = (),
               suffix_ids: tuple[int, ...] = (), borders: frozenset[str] = WHITE_SPACE) -> tuple[Segment, ...]:
    """Cuts a format such as '{query} title: {title} context: {text}' at its fields.

    Args:
      template: the format.
      encode: the tokenizer of the text between the fields, without special tokens.
      prefix_ids, suffix_ids: special tokens before and after everything.
      borders: characters that no token of the tokenizer crosses.

    Raises:
      FormatError: an unknown or repeated field, one that touches other text or another field, or unbalanced braces.
    """
    if reason := touching(template, borders):
        raise errors.FormatError(f'{reason}; {_REMEDY}')
    segments = [Segment('literal', tuple(prefix_ids))] if prefix_ids else []
    for literal, field in parse(template):
        if ids := tuple(encode(literal)):
            segments.append(Segment('literal', ids))
        if field is not None:
            segments.append(Segment(field))
    return (*segments, Segment('literal', tuple(suffix_ids))) if suffix_ids else tuple(segments)


def touching(template: str, borders: frozenset[str] = WHITE_SPACE) -> str | None:
    """Why the format cannot be cut, one line; None where it can. Raises FormatError as `cut_format` for what is no format at all."""
    for number, (literal, field) in enumerate(parse(template)):
        if not number and (not literal or literal[-1] in borders):
            continue
        if number and literal[:1] not in borders:
            return f'format "{template}": text touches the field before "{literal[:20] or f"{{{field}}}"}"'
        if field is not None and literal[-1:] not in borders:
            return f'format "{template}": text touches the field {{{field}}}, at "{literal[-20:]}"'
    return None


def fill(template: str, values: dict[str, str]) -> str:
    """The format's text with these values in its fields."""
    return ''.join(literal + (values[field] if field else '') for literal, field in parse(template))


def parse(template: str) -> list[tuple[str, str | None]]:
    """(literal, the field after it or None) in order; a literal with doubled braces in it, which Formatter cuts there, is joined.

    Raises FormatError: an unknown or repeated field, or unbalanced braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise errors.FormatError(f'format "{template}": {error}; write a literal brace twice') from error
    parts: list[tuple[str, str | None]] = []
    pending = ''
    for literal, field, specification, conversion in parsed:
        pending += literal
        if field is None:
            continue
        if field not in FIELDS or specification or conversion:
            shown = field + (f'!{conversion}' if conversion else '') + (f':{specification}' if specification else '')
            valid = ', '.join(f'{{{name}}}' for name in FIELDS)
            raise errors.FormatError(f'format "{template}": unknown field {{{shown}}}; the fields are {valid}')
        if field in (name for _, name in parts):
            raise errors.FormatError(f'format "{template}": {{{field}}} stands in it twice; name each field once')
        parts.append((pending, field))
        pending = ''
    return [*parts, (pending, None)] if pending else parts

