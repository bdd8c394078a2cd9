"""A run's folder: whole checkpoints only, the newest first, nothing that is not a model taken for one."""

import errno
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.checkpoints import run_folder
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder

PARAMS = {'reader': {'w': jnp.arange(6.0).reshape(2, 3)}, 'retriever': {'w': jnp.ones(5)}}
WHOLE = {'reader': {}, 'retriever': {}, 'inputs': {}, 'task': {}, 'has_passage_encoder': False}  # a model.json without its sizes
OPTIMIZER = {'step': jnp.asarray(7, jnp.int32), 'moments': (jnp.zeros(3), {'mu': jnp.ones(2)})}


def _shapes(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def test_what_is_saved_is_restored_bit_by_bit(tmp_path):
    with run_folder.RunCheckpoints(tmp_path, create=True) as checkpoints:
        assert checkpoints.latest_step is None
        checkpoints.save(7, PARAMS, OPTIMIZER, {'next_index': 28})
    with run_folder.RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 7
        params, optimizer, position = checkpoints.restore(_shapes(PARAMS), _shapes(OPTIMIZER))
        alone = checkpoints.restore_params(_shapes(PARAMS))
    assert position == {'next_index': 28}
    jax.tree.map(np.testing.assert_array_equal, (params, optimizer, alone), (PARAMS, OPTIMIZER, PARAMS))


def test_the_last_ones_are_kept(tmp_path):
    with run_folder.RunCheckpoints(tmp_path, keep=2, create=True) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, PARAMS, OPTIMIZER, None)
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '3']


@pytest.mark.parametrize('asynchronous', [False, True])
def test_one_that_gave_no_loss_is_discarded_and_the_one_before_is_still_there(tmp_path, asynchronous):
    with pytest.raises(errors.DivergedError), run_folder.RunCheckpoints(tmp_path, keep=1, create=True,
                                                                        asynchronous=asynchronous) as checkpoints:
        assert not checkpoints.discard(1)
        for step in (1, 2, 3):
            checkpoints.save(step, PARAMS, OPTIMIZER, {'at': step})
        assert not checkpoints.discard(2)
        assert checkpoints.discard(3) and checkpoints.latest_step == 2
        raise errors.DivergedError
    with run_folder.RunCheckpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore(_shapes(PARAMS), _shapes(OPTIMIZER))[2] == {'at': 2}
        assert not checkpoints.discard(2)  # another object saved it


@pytest.mark.parametrize('asynchronous', [False, True])
def test_the_best_ones_are_kept_besides(tmp_path, asynchronous):
    with run_folder.RunCheckpoints(tmp_path, keep=1, keep_best=1, create=True, asynchronous=asynchronous) as checkpoints:
        for step, score in ((1, 0.2), (2, 0.7), (3, 0.5), (4, 0.1)):
            checkpoints.save(step, PARAMS, OPTIMIZER, None, {'score': score, 'recall': 1 - score})
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '4']
    with run_folder.RunCheckpoints(tmp_path, keep_best=1) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (2, 4)
        params = checkpoints.restore_params(_shapes(PARAMS), checkpoints.best_step)
    with run_folder.RunCheckpoints(tmp_path, keep_best=1, best_by='recall') as checkpoints:
        assert checkpoints.best_step == 4
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_a_save_killed_anywhere_leaves_the_one_before(tmp_path):
    program = (
        'import pathlib, sys, jax.numpy as jnp\n'
        'from atlas_jax.checkpoints import run_folder\n'
        'with run_folder.RunCheckpoints(pathlib.Path(sys.argv[1]), create=True) as checkpoints:\n'
        '    for step in range(1, 1000):\n'
        '        arrays = {"w": jnp.full((200, 300), step, jnp.float32)}, {"m": jnp.full(5, step, jnp.float32)}\n'
        '        checkpoints.save(step, *arrays, {"at": step})\n'
        '        print(step, flush=True)\n')
    for wait in (0.0, 0.013, 0.031):
        folder = tmp_path / str(wait)
        process = subprocess.Popen([sys.executable, '-c', program, str(folder)], stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.DEVNULL)
        done = [int(process.stdout.readline()) for _ in range(2)][-1]
        time.sleep(wait)
        process.kill()
        process.wait()
        template = _shapes({'w': jnp.zeros((200, 300)), 'm': jnp.zeros(5)})
        with run_folder.RunCheckpoints(folder) as checkpoints:
            step = checkpoints.latest_step
            params, moments, position = checkpoints.restore({'w': template['w']}, {'m': template['m']})
        assert step >= done and position == {'at': step}
        assert np.all(np.asarray(params['w']) == step) and np.all(np.asarray(moments['m']) == step)


def test_an_unfinished_checkpoint_is_not_seen(tmp_path):
    with run_folder.RunCheckpoints(tmp_path, create=True) as checkpoints:
        checkpoints.save(1, PARAMS, OPTIMIZER, None)
    (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir()
    with run_folder.RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 1


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='no checkpoints'):
        run_folder.RunCheckpoints(tmp_path)
    assert not list(tmp_path.iterdir())  # looking leaves nothing behind


@pytest.mark.parametrize('text, word', [(None, 'not an atlas_jax model'), ('{', 'broken JSON'), ('[]', 'format version'),
                                        (json.dumps({'format': 'atlas_jax', 'version': 99}), 'format version')])
def test_model_files_that_are_none(tmp_path, text, word):
    if text is not None:
        (tmp_path / run_folder.MODEL_FILE).write_text(text)
    with pytest.raises(errors.ModelFolderError, match=word):
        run_folder.read_model_file(tmp_path)


def test_the_model_file_comes_back(tmp_path):
    run_folder.write_model_file(tmp_path, {**WHOLE, 'n_context': 3})
    assert run_folder.read_model_file(tmp_path)['n_context'] == 3


def test_what_killed_saves_left_goes_with_the_next_run(tmp_path):
    (tmp_path / 'checkpoints' / '5.orbax-checkpoint-tmp').mkdir(parents=True)
    with run_folder.RunCheckpoints(tmp_path, create=True) as checkpoints:
        checkpoints.save(7, PARAMS)
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['7']


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    with pytest.raises(errors.DiskFullError, match='checkpoints: the disk is full; free'), \
            run_folder.RunCheckpoints(tmp_path, create=True) as checkpoints:
        checkpoints.save(1, PARAMS, OPTIMIZER, {'at': 1})

        def full(*_, **__):
            raise ValueError('RESOURCE_EXHAUSTED: Error writing "d/0": [OS error 28: ENOSPC No space left on device]')  # TensorStore's

        monkeypatch.setattr(checkpoints._manager, 'save', full)
        checkpoints.save(2, PARAMS, OPTIMIZER, {'at': 2})
    with run_folder.RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(_shapes(PARAMS), _shapes(OPTIMIZER))[2] == {'at': 1}


def test_a_folder_is_written_by_one_run_whose_blocks_may_lie_in_one_another(tmp_path):
    with run_folder.writing(tmp_path / 'run'), run_folder.writing(tmp_path / 'run'):
        (tmp_path / 'run' / 'config.gin').write_text('')
        with pytest.raises(errors.ConfigError, match='another process is writing this run; wait'), \
                lock.writing(Folder(tmp_path / 'run'), 'run', errors.ConfigError):
            raise AssertionError('two writers')
    with lock.writing(Folder(tmp_path / 'run'), 'run', errors.ConfigError):
        pass


@pytest.mark.parametrize(('change', 'problem'), [
    ({'reader': []}, 'reader is \\[\\], expected a value of type dict'), ({'task': None}, 'task is None'),
    ({'has_passage_encoder': 1}, 'of type bool'),
    ({'inputs': 'x'}, 'inputs is'), ({'version': []}, 'not a model file')])
def test_a_forged_model_file_is_refused(tmp_path, change, problem):
    (tmp_path / 'model.json').write_text(json.dumps({'format': 'atlas_jax', 'version': 1, **WHOLE, **change}))
    with pytest.raises(errors.ModelFolderError, match=problem):
        run_folder.read_model_file(tmp_path)
    for content in ('[' * 100_000, '{"a": ' + '1' * 5000):
        (tmp_path / 'model.json').write_text(content)
        with pytest.raises(errors.ModelFolderError, match='broken JSON'):
            run_folder.read_model_file(tmp_path)


def test_a_bucket_that_cannot_rename_folders_is_refused_before_long_work(tmp_path, monkeypatch):
    def rename(before, after, **options):
        # As gcsfuse does on a bucket without a hierarchical namespace.
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), before)
    monkeypatch.setattr(os, 'rename', rename)
    with pytest.raises(errors.ConfigError, match='cannot be renamed there .Too many open files.*name the bucket as gs://bucket/folder'), \
            run_folder.writing(tmp_path / 'run'):
        pass
    assert not (tmp_path / 'run').exists()
    monkeypatch.undo()
    with run_folder.writing(tmp_path / 'run'):
        assert [path.name for path in (tmp_path / 'run').iterdir()] == ['lock']
