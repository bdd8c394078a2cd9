"""Formats with one field, for a question or a target."""

import re
import string

from atlas_jax import errors

_SENTINEL = re.compile(r'<extra_id_\d+>')


def around(option: str, text_format: str, field: str) -> tuple[str, str]:
    """Returns the text before and after the format's one {field}.

    Raises FormatError: the format has no such field, another one, or stray braces. The message names the option.
    """
    try:
        pieces = list(string.Formatter().parse(text_format))
    except ValueError as error:
        raise errors.FormatError(f'{option} "{text_format}": {error}; write a literal brace twice') from error
    names = [name for _, name, _, _ in pieces if name is not None]
    plain = all(not spec and conversion is None for _, _, spec, conversion in pieces)  # no {field:>9} or {field!r}
    if names != [field] or not plain:
        found = ', '.join(f'{{{name}}}' for name in names) or 'none'
        raise errors.FormatError(f'{option} "{text_format}": must have {{{field}}} once and no other field, found {found}')
    # Literal braces make pieces of their own, without a field.
    place = next(i for i, (_, name, _, _) in enumerate(pieces) if name is not None)
    return ''.join(text for text, *_ in pieces[:place + 1]), ''.join(text for text, *_ in pieces[place + 1:])


def fill(option: str, text_format: str, field: str, value: str) -> str:
    """Returns the format with `value` in its one {field}. Raises FormatError: see `around`."""
    before, after = around(option, text_format, field)
    return before + value + after


def strip(option: str, text_format: str, field: str, text: str) -> str:
    """Returns `text` without the format's own words, sentinels and outer blanks. Raises FormatError: see `around`."""
    # Decoded text has no sentinels and single spaces; so must the format's own words.
    before, after = (without_sentinels(part) for part in around(option, text_format, field))
    return without_sentinels(text).removeprefix(before).removesuffix(after).strip()


def without_sentinels(text: str) -> str:
    """Returns the text without sentinels, with one space between words."""
    return ' '.join(_SENTINEL.sub(' ', text).split())
