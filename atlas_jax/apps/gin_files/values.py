"""Values in gin files: macros, references and literals, and whether they fit a parameter."""

import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from gin import config_parser


@dataclasses.dataclass(frozen=True)
class Macro:
    """The value `%name`."""

    name: str


@dataclasses.dataclass
class Reference:
    """The value `@selector`, or `@selector()` if `called`. The checker sets `target` to the class
    or function that it means.
    """

    selector: str
    called: bool = False
    target: Any = None


class Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as plain values, so that reading a file calls nothing."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name.split('/')[-1], evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def flatten(value: Any) -> Iterator[Any]:
    """Yields the values inside nested lists, tuples, sets and dicts, including the dicts' keys."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from flatten(part)
    else:
        yield value


def depth(value: Any) -> int:
    """Returns how deep lists, tuples and dicts are nested; 0 for a plain value."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return 1 + max(map(depth, value), default=0) if isinstance(value, list | tuple) else 0


def parameter_names(configurable: Any) -> list[str]:
    """Returns the names of a class's or function's parameters; '**' stands for any further name."""
    parameters = inspect.signature(configurable).parameters
    return ['**' if entry.kind is entry.VAR_KEYWORD else name for name, entry in parameters.items()]


def hints_of(configurable: Any) -> dict[str, Any]:
    """Returns the parameters' annotations by name; {} if they cannot be evaluated."""
    try:
        return typing.get_type_hints(
            configurable.__init__ if inspect.isclass(configurable) else configurable)
    except (NameError, TypeError):  # a forward reference that only a type checker can follow
        return {}


def fits(value: Any, annotation: Any) -> bool:
    """Returns whether a value without macros fits a parameter of this type. The annotation None
    fits every value.
    """
    if annotation is None or annotation is Any:
        return True
    if isinstance(value, Reference):
        return _reference_fits(value, annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return value in arguments
    # bool is a subclass of int, but True as a rate or a size is a mistake.
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_small(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool) and _is_small(value)
    if annotation is str:
        return isinstance(value, str) and _is_text(value)
    # gin files use lists and tuples interchangeably.
    if (origin or annotation) in (tuple, list, collections.abc.Sequence):
        return isinstance(value, tuple | list) and _parts_fit(value, origin, arguments)
    if origin is collections.abc.Mapping:
        return isinstance(value, dict) and all(
            fits(key, arguments[0]) and fits(each, arguments[1]) for key, each in value.items())
    # No literal is an instance of a class of ours; such values are references.
    return not inspect.isclass(annotation) or (not _is_protocol(annotation)
                                               and isinstance(value, annotation))


def _parts_fit(values: tuple | list, origin: Any, arguments: tuple) -> bool:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(values) == len(arguments) and all(map(fits, values, arguments))
    return not arguments or all(fits(value, arguments[0]) for value in values)


def _reference_fits(value: Reference, annotation: Any) -> bool:
    """Returns whether `@name` or `@name()` fits the type. The call of a function always fits: what
    it returns shows only when it runs.
    """
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(_reference_fits(value, part) for part in typing.get_args(annotation))
    annotation = origin or annotation
    if not inspect.isclass(annotation) or annotation is collections.abc.Callable:
        return True
    if value.called and not inspect.isclass(value.target):
        return True
    if _is_protocol(annotation):
        members = {*dir(value.target), *getattr(value.target, '__dataclass_fields__', ())}
        wanted = {name for name in vars(annotation) if not name.startswith('_')}
        return value.called and members >= wanted
    return value.called and issubclass(value.target, annotation)


def _is_protocol(annotation: Any) -> bool:
    return getattr(annotation, '_is_protocol', False)


def _is_small(value: int | float) -> bool:
    # Devices and file formats hold 64-bit integers and finite floats; 1e999 is read as infinity.
    return -2**63 <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def _is_text(value: str) -> bool:
    # File names cannot hold NUL, and half of a surrogate pair cannot be encoded.
    return '\0' not in value and not any('\ud800' <= letter <= '\udfff' for letter in value)


def type_name(annotation: Any) -> str:
    """Returns the annotation as it is written in source code."""
    if typing.get_args(annotation):
        return str(annotation)
    return getattr(annotation, '__name__', str(annotation))


def shown(value: Any) -> str:
    """Returns the value as text for a message, cut after 100 characters."""
    if isinstance(value, Reference):
        return f'@{value.selector}{"()" * value.called}'
    if isinstance(value, int) and not _is_small(value):
        return f'an integer of {value.bit_length()} bits'
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'
