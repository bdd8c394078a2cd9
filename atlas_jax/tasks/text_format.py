"""Formats with one field, around a question or a target."""

import re
import string

from atlas_jax import errors

_SENTINEL = re.compile(r'<extra_id_\d+>')


def around(option: str, text_format: str, field: str) -> tuple[str, str]:
    """What stands before and after the format's one {field}. Raises FormatError naming the option."""
    try:
        pieces = list(string.Formatter().parse(text_format))
    except ValueError as error:
        raise errors.FormatError(f'{option} "{text_format}": {error}; write a literal brace twice') from error
    names = [name for _, name, _, _ in pieces if name is not None]
    plain = all(not spec and conversion is None for _, _, spec, conversion in pieces)
    if names != [field] or not plain:
        found = ', '.join(f'{{{name}}}' for name in names) or 'none'
        raise errors.FormatError(f'{option} "{text_format}": must have {{{field}}} once and no other field, found {found}')
    place = next(i for i, (_, name, _, _) in enumerate(pieces) if name is not None)
    return ''.join(text for text, *_ in pieces[:place + 1]), ''.join(text for text, *_ in pieces[place + 1:])


def fill(option: str, text_format: str, field: str, value: str) -> str:
    """The format with `value` in its one {field}."""
    before, after = around(option, text_format, field)
    return before + value + after


def strip(option: str, text_format: str, field: str, text: str) -> str:
    """`text` without the format's own words, sentinels and outer blanks."""
    before, after = (without_sentinels(part) for part in around(option, text_format, field))
    return without_sentinels(text).removeprefix(before).removesuffix(after).strip()


def without_sentinels(text: str) -> str:
    """The text without sentinels, words one space apart."""
    return ' '.join(_SENTINEL.sub(' ', text).split())
