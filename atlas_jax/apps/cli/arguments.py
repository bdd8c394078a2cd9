"""Command-line arguments of the kinds that many commands have, and options objects made of them."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from atlas_jax import errors

_Options = TypeVar('_Options')


def positive(text: str) -> int:
    """Parses an integer of at least 1, as an argparse type."""
    return _at_least(text, 1)


def count(text: str) -> int:
    """Parses an integer of at least 0, as an argparse type."""
    return _at_least(text, 0)


def number(parser: Any, flag: str, text: str, default: float | None = None, *, kind: Any = positive,
           metavar: str = 'N') -> None:
    """Adds a flag with a number. Its help is `text` and the default, if there is one."""
    shown = text if default is None else f'{text} (default {default})'
    parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=shown)


def folder(parser: Any, flag: str, text: str, **how: Any) -> None:
    """Adds a flag with a folder."""
    parser.add_argument(flag, metavar='DIR', help=text, **how)


def file(parser: Any, flag: str, text: str, metavar: str = 'FILE', **how: Any) -> None:
    """Adds a flag with a file."""
    parser.add_argument(flag, metavar=metavar, help=text, **how)


def switch(parser: Any, flag: str, text: str, **how: Any) -> None:
    """Adds a flag without a value."""
    parser.add_argument(flag, action='store_true', help=text, **how)


def as_options(kind: type[_Options], options: argparse.Namespace, **others: Any) -> _Options:
    """Returns a dataclass whose fields are the flags of the same names.

    A flag that was not given (None) leaves the field's default. `others` are fields without a flag.

    Raises ConfigError: the dataclass refuses a value.
    """
    names = [field.name for field in dataclasses.fields(kind)  # type: ignore[arg-type]
             if field.name not in others]
    return kind(**given(**{name: getattr(options, name, None) for name in names}), **others)


def given(**options: Any) -> dict[str, Any]:
    """Returns the options that were given: those that are not None. A flag that was not given must
    not win over a gin file.
    """
    return {name: value for name, value in options.items() if value is not None}


def named_folders(flag: str, texts: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Returns the folders of several NAME=DIR by their names.

    Args:
      flag: names the texts in messages.
      texts: NAME=DIR each. A single one may be a folder without a name, which gets the name ''.
      taken: names in use. With any, every folder needs a name.

    Raises:
      ConfigError: a name is missing or taken.
    """
    folders: dict[str, str] = {}
    for text in texts:
        name, separator, folder = text.partition('=')
        # A folder's name may contain "="; names contain no "/".
        is_named = bool(separator) and '/' not in name
        if not is_named and len(texts) == 1 and not taken:
            return {'': text}
        if not (is_named and name and folder):
            raise errors.ConfigError(f'{flag} {text}: give NAME=DIR, each with a name of its own')
        if name in folders or name in taken:
            raise errors.ConfigError(f'{flag} {text}: the name {name} is taken; give another one')
        folders[name] = folder
    return folders


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number') from error
    if value < least:
        raise argparse.ArgumentTypeError(f'{value} is too small; it must be at least {least}')
    return value
