"""A damaged checkpoint is found before it is restored: file and parameter are named, and the older one that is whole."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.checkpoints import integrity, run_folder, streaming
from atlas_jax.io import contents
from atlas_jax.io.folder import Folder
from tests.testing import damage

# Random numbers: Orbax compresses regular ones, and keeps small arrays inside its tree.
PARAMS = {'reader': {'w': jax.random.normal(jax.random.key(3), (31, 37))}, 'retriever': {'layers': {'v': jax.random.normal(
    jax.random.key(5), (41, 23))}}}
OPTIMIZER = {'step': jnp.asarray(7, jnp.int32), 'mu': jax.random.normal(jax.random.key(7), (43, 19))}


def _shapes(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    run_folder.write_model_file(folder, {'size': 3, 'reader': {}, 'retriever': {}, 'inputs': {}, 'task': {}, 'has_passage_encoder': False})
    with run_folder.RunCheckpoints(folder, create=True) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, PARAMS, OPTIMIZER, {'examples': step})
    return folder


def _restore(folder):
    with run_folder.RunCheckpoints(folder) as checkpoints:
        return checkpoints.restore(_shapes(PARAMS), _shapes(OPTIMIZER))


def test_every_flipped_bit_of_the_newest_is_found_and_the_older_one_named(run):
    newest = run / 'checkpoints' / '4'
    for path, bit in damage.random_bits(newest, 16) + [(newest / '_CHECKPOINT_METADATA', 99), (newest / 'commit_success.txt', 9)]:
        with damage.flipped_bit(path, bit), pytest.raises(errors.ModelFolderError) as caught:
            _restore(run)
        message = str(caught.value)
        assert str(path.relative_to(run)) in message and '\n' not in message, (path, bit)
        assert f'the checkpoint of step 2 is whole: delete {newest} to go on from there' in message
    assert _restore(run)[2] == {'examples': 4}


def test_the_damaged_parameter_is_named(run):
    path, start = _place(run, 'reader/w')
    with damage.flipped_bit(path, 8 * (start + 5)), pytest.raises(errors.ModelFolderError, match=r'damaged \(.*\), in reader/w; the ch'):
        _restore(run)


def _values(run):
    """Yields (file, first byte, parameter) of what the newest checkpoint's list names."""
    step = run / 'checkpoints' / '4'
    for name, facts in contents.read(step).items():
        at = 0
        for size, _, part in facts['blocks']:
            if part:
                yield step / name, at, part
            at += size


def _place(run, parameter):
    return next((path, start) for path, start, name in _values(run) if name == parameter)


def test_all_values_of_the_items_are_named(run):
    assert {name for _, _, name in _values(run)} == {'reader/w', 'retriever/layers/v', 'mu'}


def test_only_what_is_read_is_compared(run):
    optimizer = next((run / 'checkpoints' / '4' / 'optimizer').rglob('manifest.ocdbt'))
    with damage.flipped_bit(optimizer, 300), run_folder.RunCheckpoints(run) as checkpoints:
        params = checkpoints.restore_params(_shapes(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_what_follows_the_advice_goes_on(run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    (tmp_path / 'run' / 'checkpoints' / '4' / 'params' / '_METADATA').unlink()
    with pytest.raises(errors.ModelFolderError, match=r'_METADATA: is missing; the checkpoint of step 2 is whole'):
        _restore(tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '4')
    assert _restore(tmp_path / 'run')[2] == {'examples': 2}
    (tmp_path / 'run' / 'checkpoints' / '2' / 'input' / 'metadata').write_text('{}')
    with pytest.raises(errors.ModelFolderError, match='no older checkpoint is whole: restore the folder from a copy'):
        _restore(tmp_path / 'run')


def test_a_checkpoint_from_before_there_were_lists_is_restored_and_one_that_lost_its_list_is_not(run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    for step in (2, 4):
        (tmp_path / 'run' / 'checkpoints' / str(step) / contents.FILE).unlink()
    with pytest.raises(errors.ModelFolderError, match=r'4/checksums\.json: is missing; no older'):
        _restore(tmp_path / 'run')
    with contents.unchecked():
        _restore(tmp_path / 'run')
    description = json.loads((tmp_path / 'run' / 'model.json').read_text())
    del description['checksums']
    (tmp_path / 'run' / contents.FILE).unlink()
    (tmp_path / 'run' / 'model.json').write_text(json.dumps(description))
    assert _restore(tmp_path / 'run')[2] == {'examples': 4}
    # Without checksums Orbax's own checks are all there is; its errors are one line too.
    (tmp_path / 'run' / 'checkpoints' / '4' / 'params' / '_METADATA').write_text('{')
    with pytest.raises(errors.ModelFolderError, match=r'checkpoints/4: cannot be restored .*step 2 is whole') as caught:
        _restore(tmp_path / 'run')
    assert '\n' not in str(caught.value)


def test_parameters_read_one_at_a_time_are_compared_too(run):
    stored = streaming.StoredParams(run)
    np.testing.assert_array_equal(stored.read('reader/w'), PARAMS['reader']['w'])
    path, start = _place(run, 'reader/w')
    with damage.flipped_bit(path, 8 * start + 3), pytest.raises(errors.ModelFolderError, match='damaged .*step 2 is whole'):
        streaming.StoredParams(run)


def test_unfinished_saves_are_no_steps(tmp_path):
    for name in ('7', '11', '13.orbax-checkpoint-tmp', 'x'):
        (tmp_path / name).mkdir()
    (tmp_path / '17').write_text('a file')
    assert integrity.steps(Folder(tmp_path)) == [11, 7] and integrity.steps(Folder(tmp_path / 'absent')) == []


def test_a_full_disk_is_told_once(caplog):
    integrity.say_once()
    for text in ('RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]', 'something else'):
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger('absl').exception('a thread failed')
    assert [record.exc_info[1].args for record in caplog.records] == [('something else',)]
