"""T5X checkpoints in every described layout and encoding, and refusals."""

import dataclasses
import json
import shutil

import ml_dtypes
import msgpack
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import hf, hf_names, loading, t5x, t5x_arrays, weights
from tests.testing import loaded, streams, tiny_checkpoints
from tests.testing.tiny_checkpoints import V10, V11, inlined, model, zarr

RECORDED = streams.FIXTURES / 't5x'


def _apart(config) -> dict[str, np.ndarray]:
    """T5X's names, layers apart."""
    opened = model(config)
    return {path: opened.read(path) for path in opened.order()}


def _scanned(config, joined: bool, shared_relpos: bool) -> dict[str, np.ndarray]:
    """T5X's scanned names, made from the description: heads joined as in flaxformer, or apart as in T5X."""
    opened, arrays = model(config), {}
    for path, paths in opened.stacked().items():
        layers = [opened.read(name) for name in paths]
        side, layer_count = path.split('/')[0], config.num_encoder_layers if path.startswith('encoder') else config.num_decoder_layers
        if 'relpos' in path and not shared_relpos:
            arrays[f'{side}/{side}/relpos_bias/rel_embedding'] = np.stack(layers * layer_count, axis=1)
            continue
        if '/layers/' not in path:
            arrays[path] = layers[0]
            continue
        if 'attention/' in path and 'kernel' in path and not joined:
            layers = [_heads_apart(config, path, layer) for layer in layers]
        arrays[path.replace(f'{side}/layers/', f'{side}/{side}/')] = np.stack(layers, axis=1)
    return arrays


def _heads_apart(config, path, kernel):
    heads = (config.num_heads, config.head_dim)
    return kernel.reshape(*heads, config.emb_dim) if '/out/' in path else kernel.reshape(config.emb_dim, *heads)


def _per_layer_relpos(config) -> dict[str, np.ndarray]:
    """scalable_t5 with scan off: a position bias in each layer, heads apart."""
    arrays = {}
    for path, array in _apart(config).items():
        side, count = path.split('/')[0], config.num_encoder_layers if path.startswith('encoder') else config.num_decoder_layers
        if 'relpos' in path:
            arrays |= {f'{side}/layers_{i}/relpos_bias/rel_embedding': array for i in range(count)}
        else:
            arrays[path] = _heads_apart(config, path, array) if 'attention/' in path and 'kernel' in path else array
    return arrays


LAYOUTS = {'apart': _apart, 'scanned': lambda config: _scanned(config, False, False),
           'flaxformer': lambda config: _scanned(config, True, True),
           'flaxformer_relpos_inside': lambda config: _scanned(config, True, False), 'relpos_in_layers': _per_layer_relpos}


@pytest.mark.parametrize('name', ['t5_1_1', 't5_1_1_scan'])
def test_recorded_checkpoints_equal_their_hugging_face_folders(name):
    opened = loading.open_model(RECORDED / name)
    assert opened.step == 1000
    tiny_checkpoints.assert_equal(opened.part('reader'), hf.open_t5(RECORDED / name / 'hf'))


@pytest.mark.parametrize(('name', 'scan'), [('t5_1_1', False), ('t5_1_1_scan', True)])
def test_written_as_t5x_wrote_it(tmp_path, name, scan):
    """Same tree, same folders, same metadata, same bytes once decompressed."""
    recorded = RECORDED / name / 'checkpoint_1000'
    t5x.write(tmp_path / 'x', loaded.open_t5x(recorded), scan, step=1000)
    theirs, ours = (msgpack.unpackb((folder / 'checkpoint').read_bytes()) for folder in (recorded, tmp_path / 'x'))
    assert ours['version'] == theirs['version'] and ours['optimizer']['target'] == theirs['optimizer']['target']
    assert ours['optimizer']['state']['step'] == theirs['optimizer']['state']['step']
    folders = {path.name for path in recorded.iterdir() if path.name.startswith('target.')}
    assert {path.name for path in (tmp_path / 'x').iterdir()} == folders | {'checkpoint'}
    for folder in folders:
        assert json.loads((recorded / folder / '.zarray').read_text()) == json.loads((tmp_path / 'x' / folder / '.zarray').read_text())


@pytest.mark.parametrize('config', [V11, V10], ids=['untied', 'tied'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, config, layout):
    tiny_checkpoints.write_t5x(tmp_path, LAYOUTS[layout](config))
    tiny_checkpoints.assert_equal(loaded.open_t5x(tmp_path), model(config))


@pytest.mark.parametrize('config', [V11, V10], ids=['untied', 'tied'])
def test_round_trips(tmp_path, config):
    """Hugging Face, T5X apart, T5X scanned, Hugging Face: bit-equal all the way."""
    hf.write(tmp_path / 'hf', model(config))
    t5x.write(tmp_path / 'apart', hf.open_t5(tmp_path / 'hf'))
    t5x.write(tmp_path / 'scanned', loaded.open_t5x(tmp_path / 'apart'), scan=True)
    hf.write(tmp_path / 'back', loaded.open_t5x(tmp_path / 'scanned'))
    tiny_checkpoints.assert_equal(hf.open_t5(tmp_path / 'back'), model(config))


ENCODINGS = {
    'many chunks': lambda folder, name, array: zarr(folder, name, array, [max(1, -(-n // 2)) for n in array.shape]),
    'zstd': lambda folder, name, array: zarr(folder, name, array, compressor={'id': 'zstd', 'level': 1}),
    'slashes': lambda folder, name, array: zarr(folder, name, array, [1 if n < 8 else n for n in array.shape], separator='/'),
    'gcs': lambda folder, name, array: zarr(folder, name, array, kvstore='gcs'),
    'gfile': lambda folder, name, array: zarr(folder, name, array, kvstore='gfile'),
    'old': lambda folder, name, array: zarr(folder, name, array, kvstore='old'),
    'pieces': lambda folder, name, array: tiny_checkpoints.chunked(array, 11),
}


@pytest.mark.parametrize(('encoding', 'put'), ENCODINGS.items(), ids=ENCODINGS)
def test_encodings(tmp_path, encoding, put):
    tiny_checkpoints.write_t5x(tmp_path, _scanned(V11, False, False), put)
    tiny_checkpoints.assert_equal(loaded.open_t5x(tmp_path), model(V11))


@pytest.mark.parametrize('put', [inlined, zarr])
def test_bfloat16(tmp_path, put):
    arrays = {path: array.astype(ml_dtypes.bfloat16) for path, array in _apart(V11).items()}
    opened = loaded.open_t5x(tiny_checkpoints.write_t5x(tmp_path, arrays, put))
    for path, array in arrays.items():
        np.testing.assert_array_equal(opened.read(path), array.astype(np.float32))
    t5x.write(tmp_path / 'again', opened, dtype='bfloat16')
    assert json.loads((tmp_path / 'again' / 'target.token_embedder.embedding' / '.zarray').read_text())['dtype'] == 'bfloat16'
    tiny_checkpoints.assert_equal(loaded.open_t5x(tmp_path / 'again'), opened)


@pytest.mark.parametrize('version', [{'version': None}, {'version': 2}])
def test_versions(tmp_path, version):
    """Without `version` the file is the state itself."""
    tiny_checkpoints.write_t5x(tmp_path, _apart(V11), **version)
    if version['version'] is None:
        tree = msgpack.unpackb((tmp_path / 'checkpoint').read_bytes())
        (tmp_path / 'checkpoint').write_bytes(msgpack.packb(tree['optimizer']))
    tiny_checkpoints.assert_equal(loaded.open_t5x(tmp_path), model(V11))
    tiny_checkpoints.write_t5x(tmp_path, _apart(V11), version=4)
    with pytest.raises(errors.ModelFolderError, match='version 4; versions 2 and 3 are read'):
        loaded.open_t5x(tmp_path)


def test_optimiser_state_and_empty_leaves_are_skipped(tmp_path):
    slots = {'m': inlined(np.zeros(1, np.float32)), 'odd': inlined(np.ones(2), 2)}
    state = {'step': inlined(np.int32(5), 3), 'param_states': {'encoder': slots}}
    leaves = hf_names.nest({path: inlined(array) for path, array in _apart(V11).items()}) | {'nothing': {}, 'none': None}
    contents = {'version': 3, 'optimizer': {'target': leaves, 'state': state, 'flax_mutables': {}}}
    (tmp_path / 'checkpoint').write_bytes(msgpack.packb(contents))
    assert t5x.Checkpoint(tmp_path).step == 5
    tiny_checkpoints.assert_equal(loaded.open_t5x(tmp_path), model(V11))


def test_layers_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x, 'BLOCK_BYTES', 2 * 4 * V11.emb_dim * V11.mlp_dim)  # two layers of an MLP
    tiny_checkpoints.write_t5x(tmp_path, _scanned(V11, False, False), zarr)
    tiny_checkpoints.assert_equal(loaded.open_t5x(tmp_path), model(V11))


def test_what_the_format_cannot_say_is_refused(tmp_path):
    for change, message in (({'mlp_activations': ('silu', 'linear')}, 'mlp_activations'),
                            ({'relpos_max_distance': 64}, 'relpos_max_distance'),
                            ({'layer_norm_epsilon': 1e-5}, 'layer_norm_epsilon is 1e-05')):
        with pytest.raises(errors.ConfigError, match=f'{message}.* T5X checkpoint cannot say'):
            t5x.write(tmp_path / 'x', dataclasses.replace(model(V11), config=dataclasses.replace(V11, **change)))
    assert not (tmp_path / 'x').exists()


def test_zeros_are_written_too(tmp_path):
    """TensorStore omits chunks that equal the fill value, unless it is null."""
    shapes = weights.expected_shapes(V11)
    t5x.write(tmp_path, weights.Weights(V11, shapes, lambda path: np.zeros(shapes[path], np.float32)))
    assert (tmp_path / 'target.token_embedder.embedding' / '0.0').is_file()
    assert not loaded.open_t5x(tmp_path).read('token_embedder/embedding').any()


@pytest.mark.parametrize(('shape', 'limit', 'chunks'), [
    ((6, 4), 96, [6, 4]), ((6, 4), 95, [3, 4]), ((6, 4), 47, [3, 2]), ((7, 2), 50, [1, 2]), ((1024, 24, 32, 128), 64 << 20, None),
    ((), 4, [])])
def test_chunk_rule(shape, limit, chunks):
    found = t5x.chunk_shape(shape, 4, limit)
    assert chunks is None or found == chunks
    assert all(size % chunk == 0 for size, chunk in zip(shape, found, strict=True)) and 4 * np.prod(found) <= limit


def _refused(folder, match):
    with pytest.raises(errors.ModelFolderError, match=match) as caught:
        loaded.open_t5x(folder).params()
    assert '\n' not in str(caught.value)


def test_missing_extra_and_misshapen_parameters_are_named(tmp_path):
    name, arrays = 'decoder/layers_1/encoder_decoder_attention/key/kernel', _apart(V11)
    for changes, match in (
            ({name: None}, rf'lacks parameters {name} \[6, 10\]'),
            ({'encoder/extra/scale': np.ones(3, np.float32)}, r'unknown parameters encoder/extra/scale \[3\]'),
            ({name: arrays[name].T}, r'has shape \[10, 6\], expected \[6, 10\]'),
            ({'token_embedder/embedding': None}, 'token_embedder/embedding is missing'),
            ({'encoder/relpos_bias/rel_embedding': np.ones((3, 32), np.float32)}, 'expected a multiple of the 3 heads')):
        changed = {path: array for path, array in (arrays | changes).items() if array is not None}
        _refused(tiny_checkpoints.write_t5x(tmp_path, changed), match)


def test_position_biases_of_each_layer_are_refused(tmp_path):
    arrays = _scanned(V11, False, False)
    arrays['encoder/encoder/relpos_bias/rel_embedding'] = arrays['encoder/encoder/relpos_bias/rel_embedding'] + np.arange(3)[:, None]
    _refused(tiny_checkpoints.write_t5x(tmp_path, arrays), 'position biases of their own')


def test_incomplete_copies_are_refused(tmp_path):
    whole = tiny_checkpoints.write_t5x(tmp_path / 'whole', _apart(V11), lambda folder, name, array: zarr(folder, name, array, [
        max(1, -(-n // 2)) for n in array.shape]))
    embedding = 'target.token_embedder.embedding'
    for number, (damage, match) in enumerate((
            (lambda folder: (folder / embedding / '1.0').unlink(), f'{embedding}: chunk 1.0 of token_embedder/embedding is missing'),
            (lambda folder: (folder / embedding / '.zarray').unlink(), f'{embedding}: no .zarray'),
            (lambda folder: shutil.rmtree(folder / embedding), f'{embedding}: no .zarray'),
            (lambda folder: (folder / embedding / '0.0').write_bytes(b'no gzip'), f'{embedding}: not a whole zarr array'),
            (lambda folder: (folder / embedding / '.zarray').write_text('{'), 'broken JSON'),
            (lambda folder: (folder / 'checkpoint').write_bytes(b''), 'not a whole msgpack file'),
            (lambda folder: (folder / 'checkpoint').write_bytes((folder / 'checkpoint').read_bytes()[:-9]), 'not a whole msgpack file'),
            (lambda folder: (folder / 'checkpoint').write_bytes(msgpack.packb([1])), 'not a T5X checkpoint'),
            (lambda folder: (folder / 'checkpoint').write_bytes(msgpack.packb({'version': 3})), 'no parameters'),
            (lambda folder: tiny_checkpoints.write_t5x(folder, {'a/b': np.arange(3)}), 'token_embedder/embedding is missing'))):
        damage(shutil.copytree(whole, tmp_path / str(number)))
        _refused(tmp_path / str(number), match)


@pytest.mark.parametrize('separator', ['/../', '/../../victim/', '\\'])
def test_no_array_or_chunk_leads_out_of_the_checkpoint(tmp_path, separator):
    folder = tiny_checkpoints.write_t5x(tmp_path / 'whole', _apart(V11), zarr)
    for path in ('..', 'x/..'):
        with pytest.raises(errors.ModelFolderError, match='leads out of the folder'):
            t5x._open_placeholder(t5x_arrays.Store(folder), 'a', {'kvstore': {'path': path}, 'metadata': {}})
    described = folder / 'target.token_embedder.embedding' / '.zarray'
    described.write_text(json.dumps({**json.loads(described.read_text()), 'dimension_separator': separator}))
    _refused(folder, 'a compressor, order, separator or filter that T5X does not write')


def test_altered_msgpack_gives_one_line(tmp_path):
    tiny_checkpoints.write_t5x(tmp_path, {'a/b': np.float32([1, 2])})
    whole, generator = (tmp_path / 'checkpoint').read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for position in generator.integers(0, len(whole), 2):
            content[position] = generator.integers(256)
        (tmp_path / 'checkpoint').write_bytes(content)
        try:
            checkpoint = t5x.Checkpoint(tmp_path)
            for name in checkpoint.names():
                checkpoint.read(name)
        except errors.UserError:
            pass


@pytest.mark.parametrize(('change', 'problem'), [
    ({'chunks': [2**39, 6]}, 'larger than any'), ({'chunks': [2**20, 2**20]}, 'larger than any'),
    ({'shape': [10**12, 6], 'chunks': [1, 1]}, 'larger|expected'),
    ({'shape': [10**8, 6], 'chunks': [1, 1]}, 'expected \\[37, 6\\] by'), ({'chunks': [1, 1]}, 'files for the 222 chunks'),
    ({'chunks': None}, 'describe no'),
    ({'dtype': '|O'}, 'describe no'), ({'dtype': []}, 'describe no'), ({'order': 'X'}, 'a compressor, order'),
    ({'compressor': {'id': 'x'}}, 'a compressor'),
    ({'compressor': 'gzip9'}, 'a compressor'), ({'dimension_separator': 5}, 'separator'), ({'filters': [{'id': 'x'}]}, 'filter')])
def test_a_forged_zarray_is_refused_before_tensorstore_sees_it(tmp_path, change, problem):
    folder = tiny_checkpoints.write_t5x(tmp_path, _apart(V11), lambda *place: zarr(*place))
    path = folder / 'target.token_embedder.embedding' / '.zarray'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(errors.ModelFolderError, match=problem):
        t5x.Checkpoint(folder)


def test_a_billion_layers_are_refused(tmp_path):
    folder = tiny_checkpoints.write_t5x(tmp_path, {**_apart(V11), 'encoder/encoder/x': np.zeros((0, 10**9), np.float32)})
    with pytest.raises(errors.ModelFolderError, match='1,000,000,000 layers .* at most 256'):
        loaded.open_t5x(folder)


@pytest.mark.parametrize('content', [b'\xdd\x7f\xff\xff\xff', b'\xdf\x7f\xff\xff\xff', b'\x81\xa1a' * 100_000])
def test_what_msgpack_announces_is_not_allocated(tmp_path, content):
    (tmp_path / 'checkpoint').write_bytes(content)
    with pytest.raises(errors.ModelFolderError, match='not a whole msgpack'):
        t5x.Checkpoint(tmp_path)
