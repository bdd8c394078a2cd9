"""The values that a gin file may hold: macros, references and literals; and which literals fit a parameter."""

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
    """Keeps references and macros as plain values, so that a file is read and nothing is called."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name.split('/')[-1])

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def flatten(value: Any) -> Iterator[Any]:
    """Yields the values inside nested lists, tuples, sets and dicts (keys too)."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from flatten(part)
    else:
        yield value


def parameter_names(configurable: Any) -> list[str]:
    """Returns the names of a class's or function's parameters; '**' stands for any further name."""
    parameters = inspect.signature(configurable).parameters
    return ['**' if entry.kind is entry.VAR_KEYWORD else name for name, entry in parameters.items()]


def hints_of(configurable: Any) -> dict[str, Any]:
    """Returns the parameters' annotations by name; none where they cannot be evaluated."""
    try:
        return typing.get_type_hints(configurable.__init__ if inspect.isclass(configurable) else configurable)
    except (NameError, TypeError):  # a forward reference that only a type checker can follow
        return {}


def fits(value: Any, annotation: Any) -> bool:
    """Returns True if the literal may stand for a parameter of this type. Types that are not listed here accept everything."""
    if annotation is None or annotation is type(None):
        return value is None or annotation is None
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return value in arguments
    # bool is a subclass of int, and True for a rate or a size is a mistake.
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # gin files write either bracket, and the types of the parts are left to the class.
    if origin in (tuple, list) or annotation in (tuple, list):
        return isinstance(value, tuple | list)
    if annotation in (str, bool, dict):
        return isinstance(value, annotation)
    return True


def type_name(annotation: Any) -> str:
    """Returns the annotation as one would write it."""
    return str(annotation) if typing.get_args(annotation) else getattr(annotation, '__name__', str(annotation))
