"""Token arrays for a comparison: read, checked, drawn."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.compare import token_arrays as compare_inputs
from tests.testing import streams

PARITY = streams.FIXTURES / 'parity' / 'inputs.npz'


@pytest.fixture(scope='module')
def recorded():
    return dict(np.load(PARITY))


def test_recorded_inputs_are_read_as_they_are(recorded):
    arrays = compare_inputs.read(PARITY, needs_retriever=True, needs_targets=True)
    real = recorded['target_mask'] > 0
    assert np.array_equal(arrays['target_ids'][real], recorded['target_ids'][real])
    assert np.array_equal(arrays['decoder_input_ids'][real], recorded['decoder_input_ids'][real])
    for part in ('reader', 'query', 'passage'):
        assert np.array_equal(arrays[f'{part}_mask'], recorded[f'{part}_mask'])


def test_parts_may_be_missing_and_labels_stand_for_targets(recorded):
    only_reader = {name: recorded[name] for name in ('reader_ids', 'reader_mask')}
    assert set(compare_inputs.check(only_reader, 'x.npz')) == set(only_reader)
    arrays = compare_inputs.check(only_reader | {'labels': recorded['labels']}, 'x.npz')
    assert np.array_equal(arrays['target_mask'], recorded['target_mask'])


@pytest.mark.parametrize('name', ['labels', 'query_mask_reader', 'reader_ids', 'decoder_input_ids', 'other'])
def test_arrays_of_text_are_refused_by_name(recorded, name):
    with pytest.raises(errors.InputFileError, match=f'"{name}": an array of <U1; expected integers'):
        compare_inputs.check(recorded | {name: np.array(['x'])}, 'x.npz')


def changed(recorded, name, change):
    values = recorded[name].copy()
    change(values)
    return recorded | {name: values}


@pytest.mark.parametrize(('change', 'parts'), [
    (lambda r: {name: r[name] for name in r if name != 'reader_mask'}, ['"reader_mask"', 'there is no reader_mask']),
    (lambda r: {name: r[name] for name in r if name != 'passage_ids'}, ['"passage_ids"']),
    (lambda r: changed(r, 'reader_mask', lambda m: m[1, 2, 3].__setitem__(slice(0, 1), 0)), ['(1, 2, 3)', 'not all at the start']),
    (lambda r: changed(r, 'query_mask', lambda m: m[3, 0].fill(0)), ['row (3, 0) is empty']),
    (lambda r: r | {'query_ids': r['query_ids'][:, :, :5]}, ['"query_mask"', '[4, 3, 20]', '[4, 3, 5]']),
    (lambda r: r | {'reader_ids': r['reader_ids'][0]}, ['"reader_ids"', '3 axes']),
    (lambda r: r | {'reader_ids': r['reader_ids'].astype(float)}, ['float64']),
    (lambda r: r | {name: r[name][:2] for name in ('query_ids', 'query_mask')}, ['[2, 3]', '[4, 3]']),
    (lambda r: r | {name: r[name][:, :, :3] for name in ('reader_ids', 'reader_mask')}, ['5 passages', '3']),
    (lambda r: r | {'labels': r['labels'] + 1}, ['"labels"', 'differs']),
    (lambda r: r | {'decoder_input_ids': r['decoder_input_ids'] + 1}, ['"decoder_input_ids"', 'moved right']),
])
def test_what_is_wrong_is_named(recorded, change, parts):
    with pytest.raises(errors.InputFileError) as caught:
        compare_inputs.check(change(dict(recorded)), 'x.npz', needs_retriever=True)
    message = str(caught.value)
    assert message.startswith('x.npz') and '\n' not in message and all(part in message for part in parts), message


def test_needed_parts_and_files_that_are_none(recorded, tmp_path):
    with pytest.raises(errors.InputFileError, match='"target_ids": there is no target_ids'):
        compare_inputs.check({name: recorded[name] for name in ('reader_ids', 'reader_mask')}, 'x.npz', needs_targets=True)
    broken = tmp_path / 'broken.npz'
    broken.write_bytes(b'PK\x03\x04 not a zip')
    with pytest.raises(errors.InputFileError, match='not an npz file'):
        compare_inputs.read(broken)


def test_random_inputs_have_the_size_asked_for():
    arrays = compare_inputs.random(2, 3, 20, 4, reader_vocab=50, retriever_vocab=40)
    assert arrays['reader_ids'].shape == (4, 2, 3, 24) and arrays['passage_ids'].max() < 40
    lengths = arrays['reader_mask'].sum(axis=-1)
    assert lengths.min() >= 16 and lengths.max() <= 24
    last = np.take_along_axis(arrays['reader_ids'], lengths[..., None] - 1, axis=-1)
    assert (last == 1).all()
    assert 'query_ids' not in compare_inputs.random(1, 1, 5, 1, reader_vocab=50, retriever_vocab=None)


def test_written_arrays_are_read(tmp_path):
    arrays = compare_inputs.random(1, 2, 7, 3, reader_vocab=50, retriever_vocab=40)
    compare_inputs.write(tmp_path / 'new' / 'x.npz', arrays)
    found = compare_inputs.read(tmp_path / 'new' / 'x.npz', needs_retriever=True, needs_targets=True)
    assert set(found) == set(arrays) and all(np.array_equal(found[name], arrays[name]) for name in arrays)
