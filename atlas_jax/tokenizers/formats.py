"""Prompt formats cut into token segments, so that reader inputs can be put together from token ids alone.

A word piece never crosses a space (T5) or a space or punctuation mark (BERT). So where every field of a format stands between spaces or
line breaks, the tokens of the whole text are those of its parts, one after another.
"""

import dataclasses
import string
from collections.abc import Callable

from atlas_jax import errors

FIELDS = ('query', 'title', 'text')
_WHITE_SPACE = (' ', '\n', '\t', '\r')  # what both tokenizers take for the end of a word
_REMEDY = 'put a space or a line break between every field and what stands beside it'


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of an input: `kind` is literal (the same `ids` everywhere), query, title or text."""

    kind: str
    ids: tuple[int, ...] = ()


def cut_format(template: str, encode: Callable[[str], list[int]], *, prefix_ids: tuple[int, ...] = (),
               suffix_ids: tuple[int, ...] = ()) -> tuple[Segment, ...]:
    """Cuts a format such as '{query} title: {title} context: {text}' at its fields.

    Args:
      template: the format.
      encode: the tokenizer of the text between the fields, without special tokens.
      prefix_ids, suffix_ids: special tokens before and after everything.

    Raises:
      FormatError: an unknown or repeated field, one that touches other text or another field, or unbalanced braces.
    """
    parts = _parse(template)
    segments = [Segment('literal', tuple(prefix_ids))] if prefix_ids else []
    seen: set[str] = set()
    for number, (literal, field) in enumerate(parts):
        _check_bounds(template, literal, field, first=number == 0)
        if ids := tuple(encode(literal)):
            segments.append(Segment('literal', ids))
        if field is not None:
            if field in seen:
                raise errors.FormatError(f'format "{template}": {{{field}}} stands in it twice; name each field once')
            seen.add(field)
            segments.append(Segment(field))
    return (*segments, Segment('literal', tuple(suffix_ids))) if suffix_ids else tuple(segments)


def _parse(template: str) -> list[tuple[str, str | None]]:
    """(literal, the field after it or None) in order; a literal with doubled braces in it, which Formatter cuts there, is joined."""
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
        parts.append((pending, field))
        pending = ''
    return [*parts, (pending, None)] if pending else parts


def _check_bounds(template: str, literal: str, field: str | None, *, first: bool) -> None:
    """A literal must begin with white space after a field, and end with it before one."""
    if not first and literal[:1] not in _WHITE_SPACE:
        raise errors.FormatError(f'format "{template}": text touches the field before "{literal[:20] or f"{{{field}}}"}"; {_REMEDY}')
    if field is not None and literal[-1:] not in (_WHITE_SPACE if literal or not first else ('',)):
        raise errors.FormatError(f'format "{template}": text touches the field {{{field}}}, at "{literal[-20:]}"; {_REMEDY}')
