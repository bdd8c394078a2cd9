"""Conversions between all kinds: bit-equal parameters, tokenizers included, folders whole or absent."""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.conversion import convert, hf, hf_files, loading, t5x, weights
from atlas_jax.models import t5
from tests.testing import loaded, tiny_checkpoints, word_tokenizers
from tests.testing.tiny_checkpoints import BERT, V10, V11, model

READER_TOKENIZER, RETRIEVER_TOKENIZER = word_tokenizers.t5(), word_tokenizers.bert()
READER = dataclasses.replace(V11, vocab_size=READER_TOKENIZER.vocab_size)
RETRIEVER = dataclasses.replace(BERT, vocab_size=RETRIEVER_TOKENIZER.vocab_size, pooling='sqrt')


def _run(source, to: str, out, **options) -> loading.Opened:
    convert.convert(convert.Request(source, to, out, **options))
    return loading.open_model(out)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """A folder with reader/ and retriever/ and their tokenizers."""
    folder = tmp_path_factory.mktemp('pair')
    hf.write(folder / 'reader', model(READER))
    hf.write(folder / 'retriever', model(RETRIEVER))
    READER_TOKENIZER.save(folder / 'reader')
    RETRIEVER_TOKENIZER.save(folder / 'retriever')
    return folder


def test_there_and_back_through_every_kind(pair, tmp_path):
    run = _run(pair, 'atlas_jax', tmp_path / 'run')
    assert run.kind == loading.ATLAS_JAX
    tiny_checkpoints.assert_equal(run.part('reader'), model(READER))
    tiny_checkpoints.assert_equal(run.part('retriever'), model(RETRIEVER))
    assert _run(run.path, 'hf', tmp_path / 'hf').kind == loading.PAIR
    _run(tmp_path / 'hf', 't5x', tmp_path / 'scanned', scan=True)
    apart = _run(tmp_path / 'scanned', 't5x', tmp_path / 'apart')
    tiny_checkpoints.assert_equal(apart.part('reader'), model(READER))
    again = _run(tmp_path / 'apart', 'atlas_jax', tmp_path / 'again', retriever=tmp_path / 'hf' / 'retriever')
    tiny_checkpoints.assert_equal(again.part('reader'), model(READER))
    tiny_checkpoints.assert_equal(again.part('retriever'), model(RETRIEVER))
    atlas = api.Atlas.load(tmp_path / 'again')
    assert atlas.reader_tokenizer.fingerprint == READER_TOKENIZER.fingerprint
    assert atlas.retriever_tokenizer.fingerprint == RETRIEVER_TOKENIZER.fingerprint
    assert not [path for path in tmp_path.iterdir() if '.tmp' in path.name]


def test_atlas_loads_every_kind(pair, tmp_path):
    _run(pair, 't5x', tmp_path / 'checkpoint_5')
    for atlas in (api.Atlas.load(pair), api.Atlas.from_pretrained(pair / 'reader', pair / 'retriever', n_context=7),
                  api.Atlas.from_pretrained(tmp_path, pair / 'retriever', reader_tokenizer=pair / 'reader' / 'spiece.model')):
        kernel = atlas.params['reader']['decoder']['layers']['mlp']['wo']['kernel']
        np.testing.assert_array_equal(kernel[1], model(READER).read('decoder/layers_1/mlp/wo/kernel'))
        assert atlas.config.retriever.pooling == 'sqrt'
    assert api.Atlas.from_pretrained(pair / 'reader', pair / 'retriever', n_context=7).config.n_context == 7


@pytest.mark.torch
def test_an_original_becomes_a_run(pair, tmp_path):
    pytest.importorskip('torch')
    path = tiny_checkpoints.write_original(tmp_path / 'original', untied=True, encoder_format='{query} {text}', temperature_gold=0.5,
                                           task='qa', qa_prompt_format='{question}')
    with pytest.raises(errors.ModelFolderError, match='no T5 tokenizer .* --reader_tokenizer'):
        convert.convert(convert.Request(path, 'atlas_jax', tmp_path / 'run'))
    with pytest.raises(errors.ModelFolderError, match='tokenizer has .* tokens and the model 37'):
        convert.convert(convert.Request(path, 'atlas_jax', tmp_path / 'run', reader_tokenizer=pair / 'reader'))
    assert not (tmp_path / 'run').exists()
    parts = _run(path, 'hf', tmp_path / 'hf')
    assert set(parts.openers) == {'reader', 'retriever', 'passage_encoder'}
    assert parts.part('passage_encoder').config.layer_norm == 'second_moment'
    assert convert.distillation_hint(tmp_path / 'original') == {'temperature_gold': 0.5} and convert.distillation_hint(pair) == {}


@pytest.mark.parametrize('tokenizer', ['reader', 'reader/spiece.model'])
def test_tokenizers_that_lie_elsewhere(pair, tmp_path, tokenizer):
    t5x.write(tmp_path / 'checkpoint_0', model(READER))
    opened = _run(tmp_path / 'checkpoint_0', 'hf', tmp_path / 'hf', reader_tokenizer=pair / tokenizer)
    assert (tmp_path / 'hf' / 'spiece.model').read_bytes() == (pair / 'reader' / 'spiece.model').read_bytes()
    tiny_checkpoints.assert_equal(opened.part('reader'), model(READER))
    assert not (_run(tmp_path / 'checkpoint_0', 'hf', tmp_path / 'without').path / 'spiece.model').exists()


def test_parts_and_precision(pair, tmp_path):
    assert set(_run(pair, 'hf', tmp_path / 'a', part='retriever').openers) == {'retriever'}
    opened = _run(pair, 'hf', tmp_path / 'b', part='reader', dtype='bfloat16')
    assert safetensors.safe_open(tmp_path / 'b' / 'model.safetensors', 'numpy').get_slice('shared.weight').get_dtype() == 'BF16'
    path = 'token_embedder/embedding'
    np.testing.assert_allclose(opened.part('reader').read(path), model(READER).read(path), rtol=1e-2)


@pytest.mark.parametrize(('options', 'message'), [
    ({'to': 'onnx'}, '--to is "onnx"; choose one of hf, t5x, atlas_jax'), ({'to': 'hf', 'scan': True}, '--scan is a layout of T5X'),
    ({'to': 't5x', 'part': 'both'}, 'T5X holds a reader only'), ({'to': 'atlas_jax', 'part': 'reader'}, 'takes both parts'),
    ({'to': 'hf', 'dtype': 'int8'}, '--dtype'), ({'to': 'hf', 'part': 'decoder'}, '--part')])
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(errors.ConfigError, match=message):
        convert.Request('x', out='y', **options)


def test_nothing_is_overwritten_and_nothing_half_written(pair, tmp_path, monkeypatch):
    (tmp_path / 'there').mkdir()
    with pytest.raises(errors.ConfigError, match='exists already'):
        convert.convert(convert.Request(pair, 'hf', tmp_path / 'there'))
    with pytest.raises(errors.ModelFolderError, match='holds no retriever, only reader; give its folder by --retriever'):
        convert.convert(convert.Request(pair / 'reader', 'atlas_jax', tmp_path / 'x'))
    with pytest.raises(errors.ModelFolderError, match='holds no reader, only retriever'):
        convert.convert(convert.Request(pair / 'retriever', 't5x', tmp_path / 'x'))
    written = hf_files.write_safetensors

    def full(path, tensors, *rest):
        written(path, tensors[:3], *rest)
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(hf_files, 'write_safetensors', full)
    with pytest.raises(errors.DiskFullError):
        convert.convert(convert.Request(pair, 'hf', tmp_path / 'x'))
    assert [path.name for path in tmp_path.iterdir()] == ['there']


def _bin_folder(folder: pathlib.Path, source: pathlib.Path, shards: int, **save) -> pathlib.Path:
    import torch
    tensors = sorted(safetensors.numpy.load_file(source / 'model.safetensors').items())
    folder.mkdir()
    (folder / 'config.json').write_text((source / 'config.json').read_text())
    files = {}
    for i in range(shards):
        name = 'pytorch_model.bin' if shards == 1 else f'pytorch_model-{i}.bin'
        torch.save({key: torch.from_numpy(array) for key, array in tensors[i::shards]}, folder / name, **save)
        files |= {key: name for key, _ in tensors[i::shards]}
    if shards > 1:
        (folder / 'pytorch_model.bin.index.json').write_text(json.dumps({'weight_map': files}))
    return folder


@pytest.mark.torch
@pytest.mark.parametrize(('shards', 'zipped'), [(1, True), (3, True), (1, False)])
def test_bin_folders(pair, tmp_path, shards, zipped):
    pytest.importorskip('torch')
    for part, expected in (('reader', model(READER)), ('retriever', model(RETRIEVER))):
        folder = _bin_folder(tmp_path / part, pair / part, shards, _use_new_zipfile_serialization=zipped)
        tiny_checkpoints.assert_equal(loading.open_model(folder).part(part), expected)
    (tmp_path / 'reader' / ('pytorch_model.bin' if shards == 1 else 'pytorch_model-0.bin')).write_bytes(b'PK')
    with pytest.raises(errors.ModelFolderError, match='not a whole PyTorch file'):
        loaded.reader(tmp_path / 'reader')


def test_old_names_of_first_checkpoints(pair, tmp_path):
    tensors = safetensors.numpy.load_file(pair / 'retriever' / 'model.safetensors')
    old = {'bert.' + name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): array
           for name, array in tensors.items()}
    hf.write(tmp_path / 'bert', model(RETRIEVER))
    safetensors.numpy.save_file(old, tmp_path / 'bert' / 'model.safetensors')
    tiny_checkpoints.assert_equal(hf.open_contriever(tmp_path / 'bert'), model(RETRIEVER))
    hf.write(tmp_path / 't5', model(V10))
    tensors = safetensors.numpy.load_file(tmp_path / 't5' / 'model.safetensors')
    unused = {'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight': np.zeros((32, 2), np.float32)}
    safetensors.numpy.save_file(tensors | unused, tmp_path / 't5' / 'model.safetensors')
    tiny_checkpoints.assert_equal(hf.open_t5(tmp_path / 't5'), model(V10))


def test_written_shards_are_read_again(tmp_path):
    hf.write(tmp_path, model(V11), shard_bytes=1000)
    index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
    assert len(set(index['weight_map'].values())) > 3 and index['metadata']['total_size'] == 4 * sum(
        int(np.prod(shape)) for shape in model(V11).shapes.values())
    tiny_checkpoints.assert_equal(hf.open_t5(tmp_path), model(V11))
    for file in set(index['weight_map'].values()):
        assert safetensors.numpy.load_file(tmp_path / file)  # the library's own reader


@pytest.mark.torch
@pytest.mark.parametrize('shard_bytes', [hf_files.SHARD_BYTES, 2000])
def test_transformers_loads_what_is_written(tmp_path, shard_bytes):
    transformers = pytest.importorskip('transformers')
    for config, kind in ((V10, transformers.T5ForConditionalGeneration), (V11, transformers.T5ForConditionalGeneration),
                         (BERT, transformers.BertModel)):
        folder = tmp_path / str(id(config))
        hf.write(folder, model(config), shard_bytes=shard_bytes)
        options = {'add_pooling_layer': False} if config is BERT else {}
        found, report = kind.from_pretrained(folder, output_loading_info=True, **options)
        assert not report['missing_keys'] - {'lm_head.weight'} and not report['unexpected_keys'] and not report['mismatched_keys']
        state = found.state_dict()
        for name, array in tiny_checkpoints.hugging_face(model(config)).items():
            np.testing.assert_array_equal(state[name].numpy(), array, err_msg=name)


_STREAMING = """
import resource, sys
from atlas_jax.conversion import convert, hf, loading
loading.open_model(sys.argv[1]).part('reader')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert.convert(convert.Request(sys.argv[1], 'hf', sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow  # only a model of some size shows that it is never whole in memory
def test_conversion_streams(tmp_path):
    """80 MB in files of 9 MB: the peak stays below a third of the model."""
    config = t5.T5Config(vocab_size=101, emb_dim=512, num_heads=8, head_dim=64, mlp_dim=1024, num_encoder_layers=4, num_decoder_layers=3)
    shapes = weights.expected_shapes(config)
    hf.write(tmp_path / 'a', weights.Weights(config, shapes, lambda path: np.ones(shapes[path], np.float32)), shard_bytes=9_000_000)
    size = sum(file.stat().st_size for file in (tmp_path / 'a').iterdir())
    done = subprocess.run([sys.executable, '-c', _STREAMING, tmp_path / 'a', tmp_path / 'b'], capture_output=True, text=True, check=True)
    assert size > 75_000_000 and int(done.stdout) < size / 3


def test_a_folder_with_the_config_alone_is_what_the_message_asks_for(tmp_path):
    pytest.importorskip('torch')
    path = tiny_checkpoints.write_original(tmp_path / 'run')
    (tmp_path / 'run' / 'retriever').rename(tmp_path / 'bert')
    with pytest.raises(errors.ModelFolderError, match='put its config.json into .* or .* --retriever_tokenizer'):
        convert.convert(convert.Request(path, 'hf', tmp_path / 'out'))
    opened = _run(path, 'hf', tmp_path / 'out', retriever_tokenizer=tmp_path / 'bert')
    assert opened.retriever().config.num_heads == 2
    # Or beside the checkpoint, where every command finds it.
    (tmp_path / 'bert').rename(path.parent / 'retriever')
    assert loaded.retriever(path)[0].num_heads == 2


@pytest.mark.parametrize('scan', [False, True])
def test_the_bar_ends_at_its_total(pair, tmp_path, monkeypatch, scan):
    class Bar(contextlib.nullcontext):
        done = total = 0

        def update(self, n=1):
            Bar.done += n

    def make(total, *_):
        Bar.total = total
        return Bar(Bar())

    monkeypatch.setattr(convert.progress, 'bar', make)
    convert.convert(convert.Request(pair / 'reader', 't5x', tmp_path / 'out', scan=scan))
    assert Bar.done == Bar.total > 0
