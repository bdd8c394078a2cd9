"""Formats of questions and targets: texts with one field, such as "question: {question}"."""

import dataclasses
import re
import string
from typing import Any

from atlas_jax import errors

_SENTINEL = re.compile(r'<extra_id_\d+>')
_FIELD = 'format_field'


def format_option(default: str, field: str) -> Any:
    """Returns a dataclass field that holds a format with one {field}, for `check_formats`."""
    return dataclasses.field(default=default, metadata={_FIELD: field})


def check_formats(config: Any) -> None:
    """Checks the fields of a dataclass that `format_option` made. Raises FormatError."""
    for option in dataclasses.fields(config):
        if _FIELD in option.metadata:
            split_format(getattr(config, option.name), option.metadata[_FIELD], option.name)


def split_format(text_format: str, field: str, option: str = 'the format') -> tuple[str, str]:
    """Returns the text before and after the format's one {field}.

    Raises FormatError: the format lacks the field, has another one, or has stray braces. The
    message names `option`.
    """
    try:
        pieces = list(string.Formatter().parse(text_format))
    except ValueError as error:
        raise errors.FormatError(
            f'{option} "{text_format}": {error}; write a literal brace twice') from error
    names = [name for _, name, _, _ in pieces if name is not None]
    # {field:>9} and {field!r} are refused.
    plain = all(not spec and conversion is None for _, _, spec, conversion in pieces)
    if names != [field] or not plain:
        found = ', '.join(f'{{{name}}}' for name in names) or 'none'
        raise errors.FormatError(f'{option} "{text_format}": must have {{{field}}} once and no '
                                 f'other field, found {found}')
    # Literal braces are pieces of their own, without a field.
    place = next(i for i, (_, name, _, _) in enumerate(pieces) if name is not None)
    return (''.join(text for text, *_ in pieces[:place + 1]),
            ''.join(text for text, *_ in pieces[place + 1:]))


def fill(text_format: str, field: str, value: str) -> str:
    """Returns the format with `value` in its one {field}. Raises FormatError: see `split_format`.
    """
    before, after = split_format(text_format, field)
    return before + value + after


def strip(text_format: str, field: str, text: str) -> str:
    """Returns `text` without the format's words, sentinels and surrounding blanks.

    Raises FormatError: see `split_format`.
    """
    # Decoded text has no sentinels and single spaces; the format's words are compared likewise.
    before, after = map(without_sentinels, split_format(text_format, field))
    return without_sentinels(text).removeprefix(before).removesuffix(after).strip()


def without_sentinels(text: str) -> str:
    """Returns the text without sentinels, with single spaces between words."""
    return ' '.join(_SENTINEL.sub(' ', text).split())
