"""Errors of users: one line, and the exit code of the command line."""

import pathlib
import pickle

import pytest

from atlas_jax import errors


@pytest.mark.parametrize('options, message', [
    ({}, 'a/b.jsonl: broken'), ({'line': 3}, 'a/b.jsonl:3: broken'), ({'field': 'text'}, 'a/b.jsonl, field "text": broken'),
    ({'line': 0, 'field': 'text', 'remedy': 'mend it'}, 'a/b.jsonl:0, field "text": broken; mend it')])
def test_input_files_are_named_with_line_and_field(options, message):
    error = errors.InputFileError(pathlib.Path('a', 'b.jsonl'), 'broken', **options)
    assert str(error) == message and error.path == pathlib.Path('a', 'b.jsonl')
    assert (error.line, error.field) == (options.get('line'), options.get('field'))


def test_input_file_errors_reach_other_processes():
    error = errors.InputFileError('a.jsonl', 'broken', line=3, field='text', remedy='mend it')
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.InputFileError and str(copy) == str(error) and copy.line == 3
    assert str(errors.InputFileError(**error.parts)) == str(error)


def test_exit_codes():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]
    others = {errors.DifferenceError: 1,  # like diff(1), which has another exit code for trouble
              errors.PreemptedError: 75}  # EX_TEMPFAIL: the same command continues
    assert len(kinds) > 10 and {kind: kind.exit_code for kind in kinds} == dict.fromkeys(kinds, 2) | others
