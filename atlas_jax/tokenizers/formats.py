"""Prompt formats cut into token segments, so that reader inputs can be put together from token ids alone.

A word piece never crosses a space (T5) or a space or punctuation mark (BERT). So where every field of a format stands between spaces or
line breaks, the tokens of the whole text are those of its parts, one after another.
"""

import dataclasses
import string
from collections.abc import Callable

from atlas_jax import errors

FIELDS = ('query', 'title', 'text')


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
      FormatError: an unknown or repeated field, one that touches other text, or unbalanced braces.
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
    """(literal, the field after it or None) in order."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise errors.FormatError(f'format "{template}": {error}; write a literal brace twice') from error
    for _, field, specification, conversion in parsed:
        if field is not None and (field not in FIELDS or specification or conversion):
            raise errors.FormatError(f'format "{template}": unknown field {{{field}}}; the fields are {", ".join(f"{{{name}}}" for name in FIELDS)}')
    return [(literal, field) for literal, field, _, _ in parsed]


def _check_bounds(template: str, literal: str, field: str | None, *, first: bool) -> None:
    """A literal must begin with white space after a field, and end with it before one."""
    touches = None
    if not first and not literal[:1].isspace():
        touches = 'after'
    elif field is not None and not (first and not literal) and not literal[-1:].isspace():
        touches = 'before'
    if touches and (literal or not first):
        raise errors.FormatError(f'format "{template}": text touches a field ({touches} it, at "{literal[:20]}"); put a space or a line break '
                                 'between every field and the text beside it')
