"""T5X checkpoints that Orbax wrote, in T5X's layouts: the same parameters as in the old format, and refusals."""

import json
import os
import shutil

import msgpack
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.conversion import loading, t5x, t5x_orbax
from tests.conversion.t5x_test import LAYOUTS, RECORDED
from tests.testing import loaded, tiny_checkpoints
from tests.testing.tiny_checkpoints import V10, V11, model, write_t5x_orbax

KINDS = {'database': {}, 'folders': {'database': False}, 'tree in msgpack': {'database': False, 'metadata': False},
         'database and msgpack': {'metadata': False}}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """checkpoint_7 in one database, as T5X writes it today."""
    return write_t5x_orbax(tmp_path_factory.mktemp('whole'), LAYOUTS['apart'](V11))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('layout', ['apart', 'scanned'])
def test_kinds_and_layouts(tmp_path, kind, layout):
    folder = write_t5x_orbax(tmp_path, LAYOUTS[layout](V11), **KINDS[kind])
    opened = loading.open_model(folder)
    assert opened.kind == loading.T5X and opened.step == 7
    tiny_checkpoints.assert_equal(opened.part('reader'), model(V11))


def test_tied_in_bfloat16_and_empty_leaves(tmp_path):
    folder = write_t5x_orbax(tmp_path, {path: array.astype('bfloat16') for path, array in LAYOUTS['flaxformer'](V10).items()}, nothing={})
    opened = loaded.open_t5x(folder)
    for path in model(V10).order():
        np.testing.assert_array_equal(opened.read(path), model(V10).read(path).astype('bfloat16').astype(np.float32))


def test_a_recorded_checkpoint_converts_to_the_same_files_from_either_format(tmp_path, capsys):
    old = t5x.Checkpoint(RECORDED / 't5_1_1_scan' / 'checkpoint_1000')
    model_dir = write_t5x_orbax(tmp_path / 'model', {name: old.read(name) for name in old.names()}, step=1000).parent
    # An older one in the old format beside it: the newest is read.
    shutil.copytree(RECORDED / 't5_1_1_scan' / 'checkpoint_1000', model_dir / 'checkpoint_200')
    for source, out in ((old.path, 'old'), (model_dir, 'orbax')):
        assert cli.main(['convert', str(source), '--to', 'hf', '--out', str(tmp_path / out)]) == 0
    files = [{file.name: file.read_bytes() for file in (tmp_path / out).iterdir()} for out in ('old', 'orbax')]
    assert files[0] == files[1] and 'model.safetensors' in files[0]
    assert loading.open_model(model_dir).step == 1000


def test_the_state_itself_may_be_given(whole):
    assert loading.detect(whole / 'state').path == whole / 'state'
    tiny_checkpoints.assert_equal(loaded.open_t5x(whole / 'state'), model(V11))


def test_other_orbax_folders_are_refused(tmp_path, whole):
    other = shutil.copytree(whole / 'state', tmp_path / 'other')
    (other / '_METADATA').write_text((other / '_METADATA').read_text().replace('"target"', '"params"'))
    with pytest.raises(errors.ModelFolderError, match='an Orbax checkpoint without the parameters of a T5X one'):
        loading.detect(other)
    assert t5x_orbax.state_folder(tmp_path) is None


def _change(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def _entries(values):
    return values['tree_metadata']


def _add(values, keys, value_type='jax.Array'):
    _entries(values)[str(keys)] = {'key_metadata': [{'key': key, 'key_type': 2} for key in keys],
                                   'value_metadata': {'value_type': value_type, 'skip_deserialize': False}}


EMBEDDING = ['token_embedder', 'embedding']
DAMAGES = {
    'no tree': (lambda state: (state / '_METADATA').unlink(), 'neither a file _METADATA nor checkpoint'),
    'cut tree': (lambda state: (state / '_METADATA').write_text((state / '_METADATA').read_text()[:-9]), 'broken JSON'),
    'a list': (lambda state: (state / '_METADATA').write_text('[]'), 'describes no tree of arrays'),
    'no entries': (lambda state: _change(state / '_METADATA', lambda values: values.pop('tree_metadata')), 'describes no tree of arrays'),
    'zarr3': (lambda state: _change(state / '_METADATA', lambda values: values.update(use_zarr3=True)), 'use_zarr3'),
    'no array': (lambda state: _change(state / '_METADATA', lambda values: _add(values, ['target', 'x'])), 'target.x: no .zarray in it'),
    'below an array': (lambda state: _change(state / '_METADATA', lambda values: _add(values, ['target', *EMBEDDING, 'x'])),
                       'describes no tree of arrays'),
    'leads out': (lambda state: _change(state / '_METADATA', lambda values: _add(values, ['target', 'a/../../b'])), 'leads out of the'),
    'no name': (lambda state: _change(state / '_METADATA', lambda values: _add(values, [])), 'describes no tree of arrays'),
    'no parameters': (lambda state: _change(state / '_METADATA', lambda values: _entries(values).clear()), r'no parameters \("target"\)'),
    'cut manifest': (lambda state: (state / 'manifest.ocdbt').write_bytes((state / 'manifest.ocdbt').read_bytes()[:-9]),
                     'not a whole OCDBT database'),
    'empty manifest': (lambda state: (state / 'manifest.ocdbt').write_bytes(b''), 'not a whole OCDBT database'),
    'no data': (lambda state: shutil.rmtree(state / 'd'), 'OCDBT database|not a whole zarr'),
    'a manifest of holes': (lambda state: os.truncate(state / 'manifest.ocdbt', 1 << 40), 'not a whole OCDBT database .*bytes, expected'),
    'a pipe': (lambda state: os.mkfifo(state / 'd' / 'pipe'), 'not a whole OCDBT database'),
    'no manifest': (lambda state: (state / 'manifest.ocdbt').unlink(), 'no .zarray in it'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damage_is_one_line_with_its_file(tmp_path, whole, damage):
    folder = shutil.copytree(whole, tmp_path / 'checkpoint_7')
    change, match = DAMAGES[damage]
    change(folder / 'state')
    with pytest.raises(errors.ModelFolderError, match=match) as caught:
        loading.open_model(folder).reader().params()
    assert '\n' not in str(caught.value) and str(caught.value).startswith(str(folder))


def test_flipped_bytes_of_the_tree_and_the_manifest_are_one_line(tmp_path, whole):
    folder, generator = shutil.copytree(whole, tmp_path / 'checkpoint_7'), np.random.default_rng(0)
    for name in ('_METADATA', 'manifest.ocdbt'):
        content = (whole / 'state' / name).read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            changed[generator.integers(len(content))] = generator.integers(256)
            (folder / 'state' / name).write_bytes(changed)
            try:
                t5x.Checkpoint(folder)
            except errors.ModelFolderError as error:
                assert '\n' not in str(error)
        (folder / 'state' / name).write_bytes(content)


def test_flipped_bytes_of_the_data_give_one_line_or_an_array_of_its_shape(tmp_path, whole):
    folder, generator = shutil.copytree(whole, tmp_path / 'checkpoint_7'), np.random.default_rng(0)
    files, refused = sorted(file for file in (folder / 'state').rglob('d/*')), 0
    for number in range(40):
        file = files[number % len(files)]
        content = file.read_bytes()
        changed = bytearray(content)
        changed[generator.integers(len(content))] ^= 1 << generator.integers(8)
        file.write_bytes(changed)
        try:
            opened = loaded.open_t5x(folder)
            assert all(opened.read(path).shape == opened.shapes[path] for path in opened.order())
        except errors.ModelFolderError as error:
            assert '\n' not in str(error)
            refused += 1
        file.write_bytes(content)
    assert refused


def test_a_name_of_an_array_in_msgpack_stays_in_the_folder(tmp_path):
    state = write_t5x_orbax(tmp_path, LAYOUTS['apart'](V11), database=False, metadata=False) / 'state'
    (state / 'checkpoint').write_bytes(msgpack.packb({'target': {'a': 'PLACEHOLDER://../state/target.token_embedder.embedding'}}))
    with pytest.raises(errors.ModelFolderError, match='leads out of the folder'):
        t5x.Checkpoint(state.parent)
    (state / 'checkpoint').write_bytes(msgpack.packb({'target': {'a': 'some text'}}))
    with pytest.raises(errors.ModelFolderError, match='not a whole msgpack file of T5X'):
        t5x.Checkpoint(state.parent)
