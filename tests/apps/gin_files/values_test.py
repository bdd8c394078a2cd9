"""Literals against types, and the names and annotations of parameters."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.apps.gin_files import values


@dataclasses.dataclass
class Options:
    rate: float
    kinds: tuple[str, ...] = ()


class HasRate(typing.Protocol):
    @property
    def rate(self) -> float: ...


def unreadable(x: 'NoSuchType', **others):  # noqa: F821
    return x, others


@pytest.mark.parametrize(('value', 'annotation', 'expected'), [
    (3, int, True), (True, int, False), ('3', int, False), (3, float, True), (True, float, False), (0.5, float, True), (0.5, int, False),
    (None, None, True), (None, type(None), True), (3, type(None), False), (None, int | None, True), ('a', int | None, False),
    ('a', typing.Literal['a', 'b'], True), ('c', typing.Literal['a', 'b'], False), ([1], tuple[int, ...], True), ((), list, True),
    ('ab', tuple[str, ...], False), ({}, dict, True), (b'x', bytes, True), ('x', Options, False),
    ([], Options | None, False), (Options(3), Options, True),
    ((1, 2, 3), tuple[int, int], False), ((1, 'a'), tuple[int, ...], False), (['a'], Sequence[str], True), ('a', Sequence[str], False),
    (10**30, int, False), (10**30, float, False), (float('inf'), float, False), ('a\0', str, False), ('\ud800', str, False),
    ({'a': 'x', 'b': ['y']}, Mapping[str, str | Sequence[str]], True), ({'a': 3}, Mapping[str, str], False), (3, Mapping[str, str], False),
    ([[1], [2.5]], tuple[tuple[int, ...], tuple[float, ...]], True), (3, typing.Any, True), (3, HasRate, False),
])
def test_a_literal_fits_or_not(value, annotation, expected):
    assert values.fits(value, annotation) is expected


@given(st.lists(st.lists(st.integers(), max_size=3), max_size=3), st.dictionaries(st.integers(), st.integers(), max_size=3))
def test_flatten_yields_every_leaf(nested, pairs):
    leaves = [leaf for part in nested for leaf in part]
    assert list(values.flatten((nested, [pairs]))) == [*leaves, *pairs, *pairs.values()]


def test_flatten_goes_into_keys():
    assert list(values.flatten({'a': [1, (2, {'b': 3})]})) == ['a', 1, 2, 'b', 3]


def test_parameters_of_classes_and_functions():
    assert values.parameter_names(Options) == ['rate', 'kinds'] and values.parameter_names(unreadable) == ['x', '**']
    assert values.hints_of(Options)['kinds'] == tuple[str, ...] and values.hints_of(unreadable) == {}


def test_types_as_one_would_write_them():
    assert [values.type_name(each) for each in (int, int | None, tuple[str, ...])] == ['int', 'int | None', 'tuple[str, ...]']


@pytest.mark.parametrize(('annotation', 'called', 'expected'), [
    (Options, True, True), (Options, False, False), (Options | None, True, True), (HasRate, True, True), (int, True, False),
    (tuple[int, ...], True, False), (pytest.Item | str, True, False), (typing.Any, False, True), (typing.Callable[[], int], False, True)])
def test_a_reference_fits_or_not(annotation, called, expected):
    assert values.fits(values.Reference('values_test.Options', called, Options), annotation) is expected


def test_what_a_function_returns_shows_only_once_it_is_called():
    assert values.fits(values.Reference('values_test.unreadable', True, unreadable), Options)


def test_depth_counts_brackets():
    assert [values.depth(each) for each in (3, 'ab', [], [1], {'a': [(1,)]})] == [0, 0, 1, 1, 3]


def test_values_in_messages_are_short():
    assert values.shown('a') == "'a'" and values.shown(values.Reference('spec.X', True)) == '@spec.X()'
    assert len(values.shown('a' * 999)) < 110 and values.shown(10**5000) == 'an integer of 16610 bits'
