"""Loading a converted folder finds one flipped bit anywhere in it, and names the file."""

import dataclasses
import shutil

import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.conversion import convert, hf, loading
from atlas_jax.io import contents
from atlas_jax.tokenizers import t5_tokenizer
from tests.testing import damage, word_tokenizers
from tests.testing.tiny_checkpoints import BERT, V11, model

READER_TOKENIZER, RETRIEVER_TOKENIZER = word_tokenizers.t5(), word_tokenizers.bert()


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pair')
    hf.write(folder / 'reader', model(dataclasses.replace(V11, vocab_size=READER_TOKENIZER.vocab_size)))
    hf.write(folder / 'retriever', model(dataclasses.replace(BERT, vocab_size=RETRIEVER_TOKENIZER.vocab_size, pooling='sqrt')))
    READER_TOKENIZER.save(folder / 'reader')
    RETRIEVER_TOKENIZER.save(folder / 'retriever')
    return folder


def _convert(pair, folder, to):
    # T5X's name of a checkpoint's folder.
    out = folder / ('checkpoint_3' if to == 't5x' else to)
    convert.convert(convert.Request(pair, to, out))
    return out


def _load(out, to):
    if to == 't5x':
        loading.open_model(out).reader().params()
        loading.reader_tokenizer(None, [out], READER_TOKENIZER.vocab_size)
    else:
        api.Atlas.load(out)


@pytest.mark.parametrize('to', convert.TARGETS)
def test_every_flipped_bit_is_found_and_its_file_named(pair, tmp_path, to):
    out = _convert(pair, tmp_path, to)
    _load(out, to)
    small = ('spiece.model', 'vocab.txt', 'tokenizer_config.json', 'config.json', 'model.json')  # rarely hit by chance
    bits = damage.random_bits(out, 14) + [bit for name in small for bit in damage.random_bits(out, 2, pattern=name)]
    for path, bit in bits:
        with damage.flipped_bit(path, bit), pytest.raises(errors.ModelFolderError) as caught:
            _load(out, to)
        assert path.name in str(caught.value) and '\n' not in str(caught.value), (path, bit)
    _load(out, to)


def test_a_damaged_tensor_is_named_and_can_be_loaded_as_it_is(pair, tmp_path):
    out = _convert(pair, tmp_path, 'hf')
    weights = out / 'reader' / 'model.safetensors'
    with damage.flipped_bit(weights, 8 * (weights.stat().st_size - 2)):
        with pytest.raises(errors.ModelFolderError, match=r'model\.safetensors: damaged .*, in [a-z_.\d]+; restore .*--no_verify'):
            api.Atlas.load(out)
        with contents.unchecked():
            api.Atlas.load(out)


def test_swapped_chunks_of_a_t5x_checkpoint_are_found(pair, tmp_path):
    out = _convert(pair, tmp_path, 't5x')
    # Both have the same shape, so only checksums show the swap.
    first, second = (out / f'target.encoder.layers_{layer}.attention.query.kernel' / '0.0' for layer in (0, 1))
    first_content = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(first_content)
    with pytest.raises(errors.ModelFolderError, match=r'target\.encoder\.layers_0\.attention\.query\.kernel/0\.0: damaged'):
        loading.open_model(out)


def test_files_beside_ours_are_no_damage_and_tokenizers_are_checked_alone(pair, tmp_path):
    out = _convert(pair, tmp_path, 'atlas_jax')
    (out / 'notes.txt').write_text('mine')
    (out / 'checkpoints' / '0' / 'notes.txt').write_text('mine')
    _load(out, 'atlas_jax')
    spiece = out / 'tokenizers' / 'reader' / 'spiece.model'
    with damage.flipped_bit(spiece, 1000), pytest.raises(errors.ModelFolderError, match=r'spiece\.model: damaged'):
        t5_tokenizer.T5Tokenizer.from_folder(spiece.parent)


def test_a_lost_list_is_damage_where_model_json_says_that_there_was_one(pair, tmp_path):
    out = _convert(pair, tmp_path, 'atlas_jax')
    (out / contents.FILE).rename(tmp_path / 'list')
    with pytest.raises(errors.ModelFolderError, match=r'checksums\.json: is missing; restore'):
        _load(out, 'atlas_jax')
    (tmp_path / 'list').rename(out / contents.FILE)
    (out / 'checkpoints' / '0' / contents.FILE).unlink()
    with pytest.raises(errors.ModelFolderError, match=r'checkpoints/0/checksums\.json: is missing; no older checkpoint is whole'):
        _load(out, 'atlas_jax')
    with pytest.raises(errors.ModelFolderError, match='is missing'):
        loading.open_model(out)
