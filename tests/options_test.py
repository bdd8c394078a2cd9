"""Options: what each kind of field accepts, and what the messages say."""

import dataclasses
import math
import re

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.gin_files import values as gin_values
from atlas_jax.options import CheckedOptions, check_options, option


@dataclasses.dataclass(frozen=True)
class _Small(CheckedOptions):
    kind: str = option('a', choices=('a', 'b'))
    steps: int = option(3, least=1)
    limit: int | None = option(None, least=2, remark='; 1 is the start')
    ids: int = option(5, least=0, most=7)
    share: float = option(0.5, least=0, most=1)
    decay: float = option(0.9, least=0, below=1)
    density: float = option(0.1, above=0, below=1)
    rate: float = option(1.0, above=0)
    clip: float = option(1.0, least=0)
    penalty: float = option(1.0)
    dtype: str | None = option(None, choices=('x', 'y'))
    free: str = 'anything'


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Larger(_Small):
    needed: int = option(least=11)
    sizes: tuple[int, ...] = dataclasses.field(default=(1, ))
    mode: str = option(default_factory=lambda: 'p', choices=('p', None))

    def __post_init__(self):
        super().__post_init__()
        if self.needed < self.steps:
            raise errors.ConfigError('needed is below steps')


@pytest.mark.parametrize('change, message', [
    ({'kind': 'c'}, '_Small.kind is "c"; choose one of a, b'), ({'kind': None}, '_Small.kind is None; choose one of a, b'),
    ({'kind': ['a']}, "_Small.kind is ['a']; choose one of a, b"), ({'dtype': 'z'}, '_Small.dtype is "z"; choose one of x, y'),
    ({'steps': 0}, '_Small.steps is 0; it must be at least 1'), ({'steps': None}, 'steps is None; it must be a whole number, at least 1'),
    ({'steps': 1.5}, '_Small.steps is 1.5; it must be a whole number, at least 1'),
    ({'steps': True}, '_Small.steps is True; it must be a whole number, at least 1'),
    ({'steps': '3'}, '_Small.steps is "3"; it must be a whole number, at least 1'),
    ({'limit': 1}, '_Small.limit is 1; it must be at least 2, or None; 1 is the start'),
    ({'ids': 8}, '_Small.ids is 8; it must be at most 7'), ({'ids': -1}, '_Small.ids is -1; it must be at least 0'),
    ({'ids': 'x'}, '_Small.ids is "x"; it must be a whole number, at least 0 and at most 7'),
    ({'ids': 10**5000}, '_Small.ids is an integer of 16,610 bits; it must be at most 7'),
    ({'share': 1.1}, '_Small.share is 1.1; it must lie between 0 and 1'),
    ({'share': math.nan}, '_Small.share is nan; it must lie between 0 and 1'),
    ({'decay': 1}, '_Small.decay is 1; it must be at least 0 and below 1'),
    ({'density': 0}, '_Small.density is 0; it must be greater than 0 and below 1'),
    ({'rate': 0.0}, '_Small.rate is 0.0; it must be finite and greater than 0'),
    ({'rate': math.inf}, '_Small.rate is inf; it must be finite and greater than 0'),
    ({'clip': -1.0}, '_Small.clip is -1.0; it must be finite and at least 0'),
    ({'clip': False}, '_Small.clip is False; it must be a number, at least 0'),
    ({'penalty': math.nan}, '_Small.penalty is nan; it must be a finite number'),
    ({'penalty': 'x'}, '_Small.penalty is "x"; it must be a number')])
def test_messages_name_field_value_and_expectation(change, message):
    with pytest.raises(errors.ConfigError, match=f'{re.escape(message)}$'):
        _Small(**change)
    with pytest.raises(errors.ConfigError, match=f'{re.escape(message)}$'):
        dataclasses.replace(_Small(), **change)


def test_valid_values_pass_and_are_kept():
    small = _Small(steps=np.int64(1), limit=2, ids=7, share=1, decay=0, rate=np.float32(0.5), dtype=None, free=None)
    assert small.ids == 7 and _Small() == _Small(steps=3) and {small: 1}[small] == 1


def test_a_subclass_checks_its_fields_those_it_inherits_and_more():
    assert _Larger(needed=11).mode == 'p' and _Larger(needed=11, mode=None).mode is None
    for change, message in (({'needed': 10}, r'^_Larger.needed is 10'), ({'share': 2}, '^_Larger.share is 2'),
                            ({'mode': 'q'}, 'choose one of p, None'), ({'steps': 12}, 'needed is below')):
        with pytest.raises(errors.ConfigError, match=message):
            _Larger(**({'needed': 11} | change))
    with pytest.raises(TypeError, match='needed'):
        _Larger()


def test_names_of_flags():
    @dataclasses.dataclass
    class Flags:
        negatives: int | None = option(None, least=1)
        bytes_a_row: int = option(2, least=1, name='bytes')

    check_options(Flags(), '--')
    with pytest.raises(errors.ConfigError, match='^--negatives is 0; it must be at least 1$'):
        check_options(Flags(0), '--')
    with pytest.raises(errors.ConfigError, match='^bytes is 0; it must be at least 1$'):
        check_options(Flags(bytes_a_row=0), '')


def test_gin_sees_the_defaults_and_types_of_plain_fields():
    assert gin_values.parameter_names(_Small)[:3] == ['kind', 'steps', 'limit']
    assert gin_values.hints_of(_Small)['limit'] == int | None
