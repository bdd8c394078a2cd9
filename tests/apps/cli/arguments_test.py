"""Arguments of a kind: numbers, and options objects made of flags."""

import argparse
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.apps.cli import arguments
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.compare import comparison
from atlas_jax.apps.reproduce import run_steps
from atlas_jax.conversion import convert
from atlas_jax.decoding import DecodingConfig
from atlas_jax.evaluation import calibrate, negative_mining
from atlas_jax.searchers import codes_building


@given(st.integers(-5, 5))
def test_numbers_have_a_least_value(number):
    for parse, least in ((arguments.positive, 1), (arguments.count, 0)):
        if number >= least:
            assert parse(str(number)) == number
        else:
            with pytest.raises(argparse.ArgumentTypeError, match=f'{number} is too small; it must be at least {least}'):
                parse(str(number))


@pytest.mark.parametrize('text', ['', 'many', '1.5'])
def test_words_are_no_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match='is not a whole number'):
        arguments.count(text)


def test_given_leaves_out_none_alone():
    assert arguments.given(a=None, b=0, c='', d=[3]) == {'b': 0, 'c': '', 'd': [3]} and arguments.given() == {}


# Commands, and the options objects that their flags make.
MADE = [
    ('convert s --to hf --out o', convert.Request), ('index compress i', codes_building.CodesSettings),
    ('data negatives --questions q --to t', negative_mining.MiningSettings), ('compare --out o', comparison.ComparisonOptions),
    ('calibrate --model m --examples e', calibrate.CalibrationOptions),
    ('reproduce nq_64_shot --index i --out o', run_steps.ReproductionSettings)]


@pytest.mark.parametrize(('command', 'kind'), MADE)
def test_flags_have_the_defaults_of_their_fields(command, kind):
    # Said twice: the help must not wait for the import of jax.
    options = cli.parse(command.split())
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.default not in (None, dataclasses.MISSING)}
    flags = {name: getattr(options, name) for name in defaults if hasattr(options, name)}
    assert flags and flags == {name: defaults[name] for name in flags}


def test_options_take_the_flags_of_their_names():
    options = cli.parse('answer q --num_beams 4 --length_penalty 0.5'.split())
    assert arguments.as_options(DecodingConfig, options, min_length=2) == DecodingConfig(4, 0.5, 2)


def test_folders_by_name():
    assert arguments.named_folders('--index', []) == {} and arguments.named_folders('--index', ['index']) == {'': 'index'}
    assert arguments.named_folders('--index', ['a=b=c', 'd=./e=f']) == {'a': 'b=c', 'd': './e=f'}
    assert arguments.named_folders('--index', ['./a=b']) == {'': './a=b'}
    for texts, taken in ((['a', 'b=c'], ()), (['a='], ()), (['=a'], ()), (['a=b', 'a=c'], ()), (['a'], ('b',)), (['b=a'], ('b',))):
        with pytest.raises(errors.ConfigError, match='--index .*: (give NAME=DIR|the name . is taken)'):
            arguments.named_folders('--index', texts, taken)
