"""Parameters written one at a time are those that a run folder's own reader finds, and the other way round."""

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.checkpoints import run_folder, streaming


def test_written_one_at_a_time_and_restored_at_once(tmp_path):
    arrays = {f'layer_{i}': np.random.default_rng(i).standard_normal((3, 5 + i)).astype(np.float32) for i in range(4)}
    order = []

    def read(name):
        order.append(name)
        return arrays[name]
    lazy = {name: streaming.LazyArray(array.shape, lambda name=name: read(name)) for name, array in arrays.items()}
    streaming.save(tmp_path, {'reader': lazy})
    assert sorted(order) == sorted(arrays)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = {'reader': {name: jax.ShapeDtypeStruct(array.shape, np.float32, sharding=sharding) for name, array in arrays.items()}}
    with run_folder.RunCheckpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_params(template)
    stored = streaming.StoredParams(tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(restored['reader'][name], array)
        np.testing.assert_array_equal(stored.read(f'reader/{name}'), array)
        assert stored.shapes[f'reader/{name}'] == array.shape


def test_a_training_s_checkpoint_is_read_one_at_a_time(tmp_path):
    with run_folder.RunCheckpoints(tmp_path, create=True) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {'a': {'b': np.float32([step, 3])}}, {'count': np.int32(step)}, input_position=4)
    stored = streaming.StoredParams(tmp_path)
    assert stored.step == 2 and stored.read('a/b').tolist() == [2, 3]
    assert streaming.StoredParams(tmp_path, 1).read('a/b').tolist() == [1, 3]
    with pytest.raises(errors.ModelFolderError, match='no checkpoint of step 3; there are those of 1, 2'):
        streaming.StoredParams(tmp_path, 3)


def test_nothing_saved(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='no checkpoints'):
        streaming.StoredParams(tmp_path)
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(errors.ModelFolderError, match='no checkpoint was saved yet'):
        streaming.StoredParams(tmp_path)
