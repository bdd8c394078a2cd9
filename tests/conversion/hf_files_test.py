"""The library reads safetensors files that we write tensor by tensor."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, strategies

from atlas_jax import errors
from atlas_jax.conversion import hf_files

ARRAYS = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3).T, 'scalar': np.float32(2.5).reshape(()),
          'empty': np.zeros((0, 3), np.float32), 'ü': np.float32([1, -2, 3])}


@pytest.mark.parametrize(('dtype', 'numpy_dtype'), [('float32', np.float32), ('float16', np.float16), ('bfloat16', ml_dtypes.bfloat16)])
def test_the_library_reads_it(tmp_path, dtype, numpy_dtype):
    path = tmp_path / 'new' / 'x.safetensors'
    hf_files.write_safetensors(path, [(name, array.shape) for name, array in ARRAYS.items()], ARRAYS.get, dtype)
    found = safetensors.numpy.load_file(path)
    assert set(found) == set(ARRAYS) and [file.name for file in path.parent.iterdir()] == ['x.safetensors']
    file = hf_files.SafetensorsFile(path)
    for name, array in ARRAYS.items():
        assert found[name].dtype == numpy_dtype and file.shape(name) == array.shape
        np.testing.assert_array_equal(found[name], array.astype(numpy_dtype))
        np.testing.assert_array_equal(file.read(name), array)
    with safetensors.safe_open(path, 'numpy') as opened:
        assert opened.metadata() == {'format': 'pt'}


def test_a_shape_other_than_announced_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='announced as'):
        hf_files.write_safetensors(tmp_path / 'x', [('a.weight', (2, 3))], ARRAYS.get)
    assert not list(tmp_path.iterdir())


def _shards(folder, weight_map, **files):
    for name, tensors in files.items():
        safetensors.numpy.save_file(tensors, folder / f'{name}.safetensors')
    (folder / 'model.safetensors.index.json').write_text(json.dumps(weight_map))


def test_tensors_of_several_shards_are_one(tmp_path):
    _shards(tmp_path, {'weight_map': {'a': 'one.safetensors', 'b': 'two.safetensors'}}, one={'a': np.float16([1, 2])},
            two={'b': np.ones((2, 3), np.float32)})
    tensors = hf_files.Tensors(tmp_path)
    assert tensors.names() == {'a', 'b'} and tensors.shape('b') == (2, 3) and tensors.path == tmp_path
    assert tensors.read('a').dtype == np.float32 and tensors.read('a').tolist() == [1, 2]


@pytest.mark.parametrize(('weight_map', 'message'), [
    ([], 'no "weight_map"'), ({'weight_map': [1]}, 'no "weight_map"'), ({'weight_map': {'a': '../one.safetensors'}}, 'is not a file name'),
    ({'weight_map': {'a': 7}}, 'is not a file name'), ({'weight_map': {'a': 'three.safetensors'}}, 'no such file, though'),
    ({'weight_map': {'b': 'one.safetensors'}}, 'one.safetensors: lacks b')])
def test_an_index_that_promises_what_is_not_there(tmp_path, weight_map, message):
    _shards(tmp_path, weight_map, one={'a': np.ones(3, np.float32)})
    with pytest.raises(errors.ModelFolderError, match=message) as caught:
        hf_files.Tensors(tmp_path)
    assert '\n' not in str(caught.value)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='found neither model.safetensors nor'):
        hf_files.Tensors(tmp_path)


@pytest.mark.parametrize(('text', 'message'), [(None, 'no such file'), ('{', 'broken JSON'), ('[]', 'expected a JSON object, found list'),
                                               ('{"model_type": "gpt"}', "model_type is 'gpt', expected 't5' or 'bert'")])
def test_config_files(tmp_path, text, message):
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(errors.ModelFolderError, match=message):
        hf_files.read_config(tmp_path, ('t5', 'bert'))


@given(sizes=strategies.lists(strategies.integers(1, 40), max_size=12), limit=strategies.integers(4, 200))
def test_shards_hold_every_tensor_once_and_keep_the_limit(sizes, limit):
    shapes = {str(i): (size,) for i, size in enumerate(sizes)}
    shards = hf_files._shards(shapes, 4, limit)
    assert [name for shard in shards for name in shard] == list(shapes)
    for shard in shards:
        assert len(shard) <= 1 or sum(4 * shapes[name][0] for name in shard) <= limit


@pytest.mark.parametrize('dtype', ['F8_E4M3', 'F8_E5M2', 'C64'])
def test_numbers_that_are_not_read_are_refused(tmp_path, dtype):
    header = json.dumps({'a': {'dtype': dtype, 'shape': [8 if dtype == 'C64' else 64], 'data_offsets': [0, 64]}}).encode()
    (tmp_path / 'x').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(64))
    with pytest.raises(errors.ModelFolderError, match='x: a cannot be read .* expected numbers of float32, bfloat16 or float16'):
        hf_files.SafetensorsFile(tmp_path / 'x').read('a')


@pytest.mark.parametrize('name', ['x' * 5000, 'x' * 300, '../x', 'a\0b', 3, None, [], '.'])
def test_a_shard_of_another_name_is_refused(tmp_path, name):
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': name}}))
    with pytest.raises(errors.ModelFolderError, match='the shard|no such file'):
        hf_files.Tensors(tmp_path)
