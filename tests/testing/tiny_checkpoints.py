"""Tiny models on disk in the kinds that atlas_jax reads; sizes are distinct and kernels not square, so that a missed transpose fails."""

import argparse
import dataclasses
import functools
import json
import pathlib

import jax
import ml_dtypes
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from atlas_jax.conversion import hf_names, weights
from atlas_jax.models import contriever, t5

V11 = t5.T5Config(vocab_size=37, emb_dim=6, num_heads=2, head_dim=5, mlp_dim=7, num_encoder_layers=3, num_decoder_layers=2)
V10 = dataclasses.replace(V11, mlp_activations=('relu',), logits_via_embedding=True)
BERT = contriever.ContrieverConfig(vocab_size=29, emb_dim=6, num_heads=2, num_layers=2, mlp_dim=7, max_positions=5)


@functools.lru_cache(8)
def model(config) -> weights.Weights:
    """A model with random weights."""
    shapes, generator = weights.expected_shapes(config), np.random.default_rng(0)
    arrays = {path: generator.standard_normal(shapes[path], dtype=np.float32) for path in sorted(shapes)}
    return weights.Weights(config, shapes, arrays.__getitem__)


def assert_equal(found: weights.Weights, expected: weights.Weights) -> None:
    """Bit-equal parameters, and configurations equal except for dropout, which not every kind writes down."""
    assert dataclasses.replace(found.config, dropout_rate=0.1) == dataclasses.replace(expected.config, dropout_rate=0.1)
    assert set(found.shapes) == set(expected.shapes)
    for path in expected.order():
        array = found.read(path)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected.read(path), err_msg=path)


def hugging_face(opened: weights.Weights) -> dict[str, np.ndarray]:
    """The parameters under Hugging Face's names."""
    table = hf_names.table(opened.config)
    return {entry.name: entry.transform(opened.read(path)) for path, entry in table.items()}


def write_original(folder: pathlib.Path, reader=V11, untied: bool = False, **options) -> pathlib.Path:
    """checkpoint/step-3/model.pth.tar, as torch.save writes it, and the retriever's config.json; needs PyTorch."""
    import torch
    retriever = dataclasses.replace(BERT, layer_norm='second_moment')
    state = {f'reader.{name}': torch.from_numpy(array) for name, array in hugging_face(model(reader)).items()}
    state['reader.encoder.embed_tokens.weight'] = state['reader.shared.weight']
    if reader.logits_via_embedding:
        state['reader.lm_head.weight'] = state['reader.shared.weight']
    for number, encoder in enumerate(('query_contriever', 'passage_contriever') if untied else ('contriever',)):
        for name, array in hugging_face(model(retriever)).items():
            state[f'retriever.{encoder}.{name}'] = torch.from_numpy(array + number)
        state[f'retriever.{encoder}.embeddings.position_ids'] = torch.arange(5)[None]
    opt = argparse.Namespace(**{'dropout': 0.0, 'n_context': 4, 'text_maxlength': 31, 'device': torch.device('cpu'), **options})
    path = folder / 'checkpoint' / 'step-3' / 'model.pth.tar'
    path.parent.mkdir(parents=True)
    torch.save({'step': 3, 'model': state, 'optimizer': None, 'opt': opt}, path)
    described = {'model_type': 'bert', 'vocab_size': 29, 'hidden_size': 6, 'num_attention_heads': 2, 'num_hidden_layers': 2,
                 'intermediate_size': 7, 'max_position_embeddings': 5, 'type_vocab_size': 2}
    (folder / 'retriever').mkdir()
    (folder / 'retriever' / 'config.json').write_text(json.dumps(described))
    return path


def inlined(array: np.ndarray, code: int = 1) -> msgpack.ExtType:
    """An array as flax puts it into msgpack."""
    return msgpack.ExtType(code, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def chunked(array: np.ndarray, size: int) -> dict:
    """An array as flax puts it into msgpack in pieces."""
    flat = array.reshape(-1)
    pieces = [flat[i:i + size] for i in range(0, flat.size, size)]
    return {'__msgpack_chunked_array__': True, 'shape': {str(i): n for i, n in enumerate(array.shape)},
            'chunks': {str(i): inlined(piece) for i, piece in enumerate(pieces)}}


def zarr(folder: pathlib.Path, name: str, array: np.ndarray, chunks=None, compressor=None, kvstore='file', separator='.') -> dict:
    """An array as TensorStore writes it, and its placeholder. `kvstore`: file, gcs, gfile, or old: without kvstore path and slash."""
    store = ts.open({'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str(folder / name)}, 'metadata': {
        'shape': array.shape, 'chunks': chunks or list(array.shape), 'compressor': compressor or {'id': 'gzip', 'level': 1},
        'dimension_separator': separator, 'dtype': 'bfloat16' if array.dtype == ml_dtypes.bfloat16 else array.dtype.str,
        'fill_value': None}}, create=True).result()
    store.write(array).result()
    metadata = {'shape': list(array.shape), 'chunks': chunks or list(array.shape)}
    if kvstore == 'old':
        return {'driver': 'zarr', 'kvstore': {'driver': 'file'}, 'path': name, 'metadata': metadata}
    place = {'file': {'path': f'{name}/'}, 'gcs': {'bucket': 't5x-dummy-bucket', 'path': f'{name}/'}, 'gfile': {'path': name}}[kvstore]
    return {'driver': 'zarr', 'dtype': 'float32', 'kvstore': {'driver': kvstore, **place}, 'metadata': metadata}


def write_t5x(folder: pathlib.Path, arrays: dict[str, np.ndarray], put=inlined, **extra) -> pathlib.Path:
    """A checkpoint's msgpack file with `put(array)`, or `put(array, folder, name)` where that takes three, for each leaf."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {path: put(array) if put in (inlined,) else put(folder, 'target.' + path.replace('/', '.'), array)
              for path, array in arrays.items()}
    contents = {'version': 3, 'optimizer': {'target': hf_names.nest(leaves), 'state': {'step': inlined(np.array(7, np.int32))}}} | extra
    (folder / 'checkpoint').write_bytes(msgpack.packb({key: value for key, value in contents.items() if value is not None}))
    return folder


def write_t5x_orbax(folder: pathlib.Path, arrays: dict[str, np.ndarray], database: bool = True, metadata: bool = True, step: int = 7,
                    **extra) -> pathlib.Path:
    """checkpoint_<step>/ as T5X's OrbaxCheckpointManagerInterface writes it, by Orbax itself: the train state and the input's position.

    database: one OCDBT database, as today, or a folder for each array. metadata: False leaves the tree in a msgpack file, as the oldest do.
    """
    slots = {path: {'m': np.zeros(1, np.float32), 'v': array * array, 'v_col': np.zeros(1, np.float32), 'v_row': np.zeros(1, np.float32)}
             for path, array in arrays.items()}
    state = jax.tree.map(jax.numpy.asarray, {'target': hf_names.nest(arrays) | extra, 'state': {
        'step': np.int32(step), 'param_states': hf_names.nest(slots)}})
    options = ocp.CheckpointManagerOptions(step_prefix='checkpoint', enable_async_checkpointing=False)
    handlers = {'state': ocp.PyTreeCheckpointHandler(use_ocdbt=database)}
    with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)))
    found = folder / f'checkpoint_{step}'
    (found / 'dataset').mkdir()
    (found / 'dataset' / 'train_ds-000-of-001.index').touch()
    if not metadata:
        names = {path: 'PLACEHOLDER://' + path.replace('/', '.') for path in hf_names.flatten(state)}
        (found / 'state' / 'checkpoint').write_bytes(msgpack.packb(hf_names.nest(names)))
        (found / 'state' / '_METADATA').unlink()
    return found
