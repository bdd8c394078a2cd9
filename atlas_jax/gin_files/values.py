"""What a gin file may hold: macros, references and literals, and whether a literal fits a parameter."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from gin import config_parser


@dataclasses.dataclass(frozen=True)
class Macro:
    """The value `%name`."""

    name: str


@dataclasses.dataclass(frozen=True)
class Reference:
    """The value `@selector` or `@selector()`."""

    selector: str


class Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as plain values."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(scoped_configurable_name.split('/')[-1])

    def macro(self, macro_name):
        return Macro(macro_name)


def flatten(value: Any) -> Iterator[Any]:
    """The values inside nested lists, tuples, sets and dicts (keys too)."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from flatten(part)
    else:
        yield value


def parameter(configurable: Any, name: str) -> tuple[list[str], Any]:
    """(parameter names, with '**' where any goes, and the annotation of `name`)."""
    parameters = inspect.signature(configurable).parameters
    names = ['**' if entry.kind is entry.VAR_KEYWORD else key for key, entry in parameters.items()]
    try:
        hints = typing.get_type_hints(configurable.__init__ if inspect.isclass(configurable) else configurable)
    except (NameError, TypeError):
        hints = {}
    return names, hints.get(name)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a literal may be given where `annotation` stands; what is not understood is let through."""
    if annotation is None or annotation is type(None):
        return value is None or annotation is None
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return value in arguments
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (tuple, list) or annotation in (tuple, list):
        return isinstance(value, tuple | list)
    if annotation in (str, bool, dict):
        return isinstance(value, annotation)
    return True


def type_name(annotation: Any) -> str:
    """The annotation as one would write it."""
    return str(annotation) if typing.get_args(annotation) else getattr(annotation, '__name__', str(annotation))
