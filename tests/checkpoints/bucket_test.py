"""Checkpoints in a bucket: whole or absent whenever the process dies, compared with their lists, and refused in one line without rights."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.checkpoints import integrity, run_folder, streaming
from atlas_jax.io import contents, lock
from atlas_jax.io.folder import Folder
from tests.testing import bucket

RUN = Folder('gs://some-bucket/runs/x')
# Random numbers: Orbax compresses regular ones, and keeps small arrays inside its tree.
PARAMS = {'reader': {'w': jax.random.normal(jax.random.key(3), (31, 37))}, 'retriever': {'v': jnp.arange(5.0)}}
OPTIMIZER = {'step': jnp.asarray(7, jnp.int32)}
DESCRIPTION = {'reader': {}, 'retriever': {}, 'inputs': {}, 'task': {}, 'has_passage_encoder': False}


@pytest.fixture(scope='module')
def server():
    with pytest.MonkeyPatch.context() as patch, bucket.serving(patch) as serving:
        yield serving


@pytest.fixture(scope='module')
def saved(server):
    """A run with checkpoints 2, 4 and 6, of which 2 was removed: the objects of the bucket."""
    with run_folder.writing(RUN):
        run_folder.write_model_file(RUN, DESCRIPTION)
        with run_folder.RunCheckpoints(RUN, create=True) as checkpoints:
            for step in (2, 4, 6):
                checkpoints.save(step, PARAMS, OPTIMIZER, {'examples': step})
    return dict(server.objects)


@pytest.fixture(autouse=True)
def whole(server, saved):
    """Every test begins with the run as it was saved."""
    server.objects = dict(saved)


def _restore():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = [jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
              for tree in (PARAMS, OPTIMIZER)]
    with run_folder.RunCheckpoints(RUN) as checkpoints:
        return checkpoints.restore(*shapes)


def _object(server, piece):
    return max((key for key in server.objects if piece in key[1]), key=lambda key: len(server.objects[key][1]))


def test_what_was_saved_is_restored_and_old_checkpoints_are_gone(saved):
    assert {name.split('/')[3] for _, name in saved if '/checkpoints/' in name} == {'4', '6'} and not any(
        name.endswith('/lock') for _, name in saved)
    assert run_folder.latest_step(RUN) == 6 and run_folder.damage(RUN) == []
    params, optimizer, position = _restore()
    jax.tree.map(np.testing.assert_array_equal, (params, optimizer), (PARAMS, OPTIMIZER))
    assert position == {'examples': 6}
    stored = streaming.StoredParams(RUN)
    np.testing.assert_array_equal(stored.read('reader/w'), PARAMS['reader']['w'])


def test_a_save_that_was_cut_off_is_no_checkpoint_and_the_next_run_removes_it(server):
    name = 'runs/x/checkpoints/6'
    del server.objects['some-bucket', f'{name}/commit_success.txt']
    assert run_folder.latest_step(RUN) == 4 and _restore()[2] == {'examples': 4}
    with run_folder.RunCheckpoints(RUN, create=True) as checkpoints:
        assert checkpoints.latest_step == 4
        # Orbax removes it; not always before it returns.
        until = time.monotonic() + 20
        while left := [key[1] for key in list(server.objects) if key[1].startswith(name)]:
            assert time.monotonic() < until, left
            time.sleep(0.05)
        checkpoints.save(6, PARAMS, OPTIMIZER, {'examples': 66})
    assert _restore()[2] == {'examples': 66}


def test_a_removal_that_is_cut_off_leaves_no_half_checkpoint(server, monkeypatch):
    with run_folder.RunCheckpoints(RUN, create=True, keep=1) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, 'delete', lambda step: None)  # killed here
        checkpoints._remove_old()
    assert integrity.steps(RUN / 'checkpoints') == [6]


@pytest.mark.parametrize('change', [lambda content: content[:-1], lambda content: content + b'x', lambda content: b'', lambda content: None,
                                    lambda content: bytes([*content[:100], content[100] ^ 1, *content[101:]])])
def test_damage_is_named(server, change):
    key = _object(server, '/6/params/')
    generation, content = server.objects[key]
    changed = change(content)
    server.objects[key] = generation + 1, changed
    if changed is None:
        del server.objects[key]
    with pytest.raises(errors.ModelFolderError) as caught:
        _restore()
    message = str(caught.value)
    assert message.startswith(f'gs://some-bucket/{key[1]}: ') and '\n' not in message
    assert 'the checkpoint of step 4 is whole: delete gs://some-bucket/runs/x/checkpoints/6' in message
    assert str(run_folder.damage(RUN)[0]).startswith(f'gs://some-bucket/{key[1]}: ')


def test_the_damaged_parameter_is_named(server):
    step, values = RUN / 'checkpoints' / '6', []
    for name, facts in contents.read(step).items():
        at = 0
        for size, _, part in facts['blocks']:
            values += [(name, at)] if part == 'reader/w' else []
            at += size
    (name, start), = values
    content = bytearray(step.read(name))
    content[start + 5] ^= 1
    step.write(name, bytes(content))
    with pytest.raises(errors.ModelFolderError, match=r'differs from the written one\), in reader/w; the checkpoint of step 4'):
        _restore()


def test_a_run_that_slept_while_another_took_over_commits_nothing(server):
    with run_folder.writing(RUN), run_folder.RunCheckpoints(RUN, create=True) as checkpoints:
        RUN.write_json(lock.FILE, {'writer': 'the other', 'until': 1e12})
        with pytest.raises(errors.ConfigError, match='another one has begun to write this run'):
            checkpoints.save(8, PARAMS)
    assert run_folder.latest_step(RUN) == 6


@pytest.mark.parametrize('name', [bucket.READ_ONLY, 'missing', 'B'])
def test_a_bucket_that_cannot_be_used_is_one_line_before_long_work(name):
    with pytest.raises(errors.StorageError, match=f'^gs://{name}/run') as caught, run_folder.writing(f'gs://{name}/run'):
        pass
    assert '\n' not in str(caught.value)


def test_what_orbax_may_not_look_at_is_one_line(server, monkeypatch):
    answer = bucket._Handler._answer_json
    monkeypatch.setattr(bucket._Handler, '_answer_json', lambda self, value: self._answer(403) if value['kind'] == 'storage#bucket' else
                        answer(self, value))
    with pytest.raises(errors.StorageError, match='runs/x/checkpoints: cannot be used .*storage.legacyBucketReader') as caught, \
            run_folder.writing(RUN):
        pass
    assert '\n' not in str(caught.value)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gcsfs', None)
    with pytest.raises(errors.StorageError, match=r"needs the package gcsfs: pip install 'atlas-jax\[gcs\]'"):
        run_folder.RunCheckpoints(RUN)


def test_a_run_may_be_copied_from_a_disk_and_to_one(tmp_path):
    run_folder.write_model_file(tmp_path / 'run', DESCRIPTION)
    streaming.save(tmp_path / 'run', {'reader': {'w': streaming.LazyArray((31, 37), lambda: np.asarray(PARAMS['reader']['w']))}})
    here, there = Folder(tmp_path / 'run'), Folder('gs://some-bucket/copy')
    for name in here.sizes():
        there.write(name, here.read(name))
    back = Folder(tmp_path / 'back')
    for name in there.sizes():
        back.write(name, there.read(name))
    for copy in (there, back):
        assert run_folder.latest_step(copy) == 0 and integrity.steps(copy / 'checkpoints') == [0] and run_folder.damage(copy) == []
        np.testing.assert_array_equal(streaming.StoredParams(copy).read('reader/w'), PARAMS['reader']['w'])
