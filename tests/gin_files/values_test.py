"""Literals against types, and the names and annotations of parameters."""

import dataclasses
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.gin_files import values


@dataclasses.dataclass
class Options:
    rate: float
    kinds: tuple[str, ...] = ()


def unreadable(x: 'NoSuchType', **others):  # noqa: F821
    return x, others


@pytest.mark.parametrize(('value', 'annotation', 'expected'), [
    (3, int, True), (True, int, False), ('3', int, False), (3, float, True), (True, float, False), (0.5, float, True), (0.5, int, False),
    (None, None, True), (None, type(None), True), (3, type(None), False), (None, int | None, True), ('a', int | None, False),
    ('a', typing.Literal['a', 'b'], True), ('c', typing.Literal['a', 'b'], False), ([1], tuple[int, ...], True), ((), list, True),
    ('ab', tuple[str, ...], False), ({}, dict, True), (b'x', bytes, True), ('x', Options, True),
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
