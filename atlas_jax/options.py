"""Dataclasses of options: each field states its valid values, and one function checks them all."""

import dataclasses
import math
import numbers
import typing
from typing import Any

from atlas_jax import errors

_KEY = 'limits'


@dataclasses.dataclass(frozen=True)
class _Limits:
    """The valid values of a field; see `option`."""

    least: float | None
    most: float | None
    above: float | None
    below: float | None
    choices: tuple[Any, ...] | None
    name: str | None
    remark: str

    def problem(self, value: Any, whole: bool) -> str:
        """Returns what a value must be, '' if it is valid; `whole` if the field is an integer."""
        if self.choices is not None:
            return '' if value in self.choices else (
                f'choose one of {", ".join(map(str, self.choices))}')
        kind = numbers.Integral if whole else numbers.Real
        # True is an int in Python and would pass for 1.
        if isinstance(value, bool) or not isinstance(value, kind):
            expected = 'a whole number' if whole else 'a number'
            return f'it must be {expected}{self._bounds(", ")}'
        if self._holds(value):
            return ''
        if self.least is not None and self.most is not None:
            if whole:
                side = f'least {self.least}' if value < self.least else f'most {self.most}'
                return f'it must be at {side}'
            return f'it must lie between {self.least} and {self.most}'
        upper = self.most is not None or self.below is not None
        finite = '' if whole or upper else 'finite' if self._bounds() else 'a finite number'
        return f'it must be {finite}{self._bounds(" and " if finite else "")}'

    def _holds(self, value: Any) -> bool:
        # math.isfinite fails for integers beyond the largest float.
        return -math.inf < value < math.inf and (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most) and (
                self.above is None or value > self.above) and (
                    self.below is None or value < self.below)

    def _bounds(self, before: str = '') -> str:
        bounds = [
            f'{words} {bound}' for words, bound in (('at least', self.least),
                                                    ('greater than', self.above),
                                                    ('at most', self.most),
                                                    ('below', self.below)) if bound is not None]
        return before + ' and '.join(bounds) if bounds else ''


def option(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING,
           least: float | None = None, most: float | None = None, above: float | None = None,
           below: float | None = None, choices: tuple[Any, ...] | None = None,
           name: str | None = None, remark: str = '') -> Any:
    """Returns a dataclass field that `check_options` checks.

    A field without `choices` holds a number. Its annotation says which: `int` takes whole numbers
    alone. NaN, infinity, True and False are refused. None is valid where it is the default.

    Args:
      default, default_factory: the same arguments as those of dataclasses.field.
      least, most: smallest and largest valid value.
      above, below: bounds that are not valid themselves.
      choices: the valid values; a message lists them in this order.
      name: the field's name in messages, where a flag has another one.
      remark: text at the end of a message.
    """
    return dataclasses.field(
        default=default, default_factory=default_factory,
        metadata={_KEY: _Limits(least, most, above, below, choices, name, remark)})


def check_options(config: Any, prefix: str | None = None) -> None:
    """Checks the fields of a dataclass that `option` made.

    Args:
      config: the dataclass.
      prefix: the text before a field's name in messages: '--' for flags, '' for nothing. None
        writes the class and a dot.

    Raises:
      ConfigError: names the first field with an invalid value, the value and what it must be.
    """
    prefix = f'{type(config).__name__}.' if prefix is None else prefix
    for field in dataclasses.fields(config):
        limits, value = field.metadata.get(_KEY), getattr(config, field.name)
        optional = field.default is None
        if limits is None or value is None and optional:
            continue
        if problem := limits.problem(value, _is_whole(field.type)):
            or_none = ', or None' if optional and limits.choices is None and prefix != '--' else ''
            raise errors.ConfigError(f'{prefix}{limits.name or field.name} is {_shown(value)}; '
                                     f'{problem}{or_none}{limits.remark}')


class CheckedOptions:
    """Base of dataclasses of options: a new object checks its fields, also one that
    dataclasses.replace makes.

    A class with further checks calls `super().__post_init__()` first. A class whose fields are
    flags overrides `__post_init__` and calls `check_options(self, '--')`.
    """

    def __post_init__(self) -> None:
        check_options(self)


def _is_whole(annotation: Any) -> bool:
    parts = typing.get_args(annotation) or (annotation, )
    return int in parts and float not in parts


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**20:  # Python refuses to write 5,000 digits
        return f'an integer of {value.bit_length():,} bits'
    return f'"{value}"' if isinstance(value, str) else f'{value}'
