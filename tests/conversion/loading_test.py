"""A model's kind follows from its content; tokenizers lie beside the model or in a named folder."""

import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.conversion import convert, loading, original
from tests.testing import bucket, tiny_run, word_tokenizers


def _touch(folder, *names, content=b'x'):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(('files', 'kind', 'place'), [
    (['model.json'], loading.ATLAS_JAX, '.'), (['modules.json', 'config.json'], loading.RETRIEVER, '.'), (['checkpoint'], loading.T5X, '.'),
    (['checkpoint_9/checkpoint', 'checkpoint_10/checkpoint', 'checkpoint_11/x', 'checkpoint_12.tmp-1/checkpoint'], loading.T5X,
     'checkpoint_10'),
    (['model.pth.tar'], loading.ORIGINAL, 'model.pth.tar'),
    (['checkpoint/step-9/model.pth.tar', 'checkpoint/step-10/model.pth.tar'], loading.ORIGINAL, 'checkpoint/step-10/model.pth.tar'),
    (['step-2/model.pth.tar'], loading.ORIGINAL, 'step-2/model.pth.tar'), (['reader/x', 'retriever/x'], loading.PAIR, '.')])
def test_kinds(tmp_path, files, kind, place):
    assert loading.detect(_touch(tmp_path, *files)) == loading.DetectedModel(kind, tmp_path / place)


def test_a_checkpoint_of_a_run(tmp_path):
    _touch(tmp_path, 'model.json', 'checkpoints/20/params/x')
    for path in (tmp_path / 'checkpoints/20', f'{tmp_path}/checkpoints/20/'):
        assert loading.detect(path) == loading.DetectedModel(loading.ATLAS_JAX, tmp_path, 20)
    with pytest.raises(errors.ModelFolderError, match='no model that is known here'):
        loading.detect(_touch(tmp_path, 'other/checkpoints/20/params/x') / 'other' / 'checkpoints' / '20')


@pytest.mark.parametrize(('model_type', 'kind'), [('t5', loading.READER), ('bert', loading.RETRIEVER), ('contriever', loading.RETRIEVER)])
def test_hugging_face(tmp_path, model_type, kind):
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': model_type}))
    assert loading.detect(tmp_path).kind == loading.detect(tmp_path / 'config.json').kind == kind


def test_a_file_stands_for_its_folder(tmp_path):
    _touch(tmp_path, 'model.pth.tar', 'spiece.model')
    assert loading.detect(tmp_path / 'model.pth.tar') == loading.DetectedModel(loading.ORIGINAL, tmp_path / 'model.pth.tar')
    with pytest.raises(errors.ModelFolderError, match='give the folder of the model'):
        loading.detect(tmp_path / 'spiece.model')


@pytest.mark.parametrize(('files', 'content', 'message'), [
    (['_METADATA', 'checkpoint'], b'x', 'an Orbax checkpoint'), (['_CHECKPOINT_METADATA'], b'{}', 'an Orbax checkpoint'),
    (['checkpoint'], b'model_checkpoint_path: "model.ckpt-1"', 'a TensorFlow checkpoint'),
    (['model.ckpt-1.index', 'model.ckpt-1.data-00000-of-00001'], b'x', 'a TensorFlow checkpoint'),
    (['notes.txt'], b'x', 'no model that is known here; give one that atlas_jax wrote')])
def test_other_kinds_are_refused(tmp_path, files, content, message):
    with pytest.raises(errors.ModelFolderError, match=message):
        loading.detect(_touch(tmp_path, *files, content=content))


def test_nothing_there(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='no such file or folder'):
        loading.detect(tmp_path / 'nowhere')


T5, BERT = word_tokenizers.t5(), word_tokenizers.bert()


def test_given_found_and_missing(tmp_path):
    nowhere, there = tmp_path / 'nowhere', tmp_path / 'there'
    T5.save(there)
    BERT.save(there)
    for find, tokenizer, option in ((loading.reader_tokenizer, T5, '--reader_tokenizer'),
                                    (loading.retriever_tokenizer, BERT, '--retriever_tokenizer')):
        for given, places in ((None, [nowhere, there]), (there, [nowhere]), (str(there), [])):
            assert find(given, places, tokenizer.vocab_size).fingerprint == tokenizer.fingerprint
        with pytest.raises(errors.ModelFolderError, match=f'in {nowhere} nor beside it; copy it there, or .* by {option}'):
            find(None, [nowhere], tokenizer.vocab_size)
        with pytest.raises(errors.ModelFolderError, match=f'has {tokenizer.vocab_size} tokens and the model 9'):
            find(there, [], 9)
    assert loading.reader_tokenizer(there / 'spiece.model', [], T5.vocab_size).fingerprint == T5.fingerprint
    with pytest.raises(errors.ModelFolderError, match='vocab.txt: not a sentencepiece model'):
        loading.reader_tokenizer(there / 'vocab.txt', [], T5.vocab_size)
    assert loading.has_tokenizer([nowhere, there]) and not loading.has_tokenizer([nowhere])


def test_where_the_folders_of_an_option_may_lie():
    found = original.named_folders(pathlib.Path('/runs/nq/checkpoint/step-1/model.pth.tar'), 'models/contriever')
    assert found[0] == pathlib.Path('models/contriever')
    assert {pathlib.Path('/runs/nq/contriever'), pathlib.Path('/runs/nq/models/contriever')} <= set(found)
    assert original.named_folders(pathlib.Path('/x'), None) == original.named_folders(pathlib.Path('/x'), 'none') == []


def _opened(path, *parts):
    return loading.Opened('some kind', path, {part: lambda part=part: f'{path} {part}' for part in parts}, {part: [path] for part in parts},
                          n_context=7)


def test_joining_takes_the_reader_of_one_and_the_encoders_of_the_other(tmp_path):
    joined = loading.join(_opened('a', 'reader', 'retriever'), _opened('b', 'reader', 'retriever', 'passage_encoder'))
    assert [joined.part(name) for name in joined.openers] == ['a reader', 'b retriever', 'b passage_encoder']
    assert joined.tokenizer_places == {'reader': ['a'], 'retriever': ['b']} and joined.n_context == 7


def test_a_part_that_is_not_there():
    with pytest.raises(errors.ModelFolderError, match='a: holds no retriever, only reader; give a folder that has one'):
        _opened('a', 'reader').retriever()


def test_of_a_bucket_run_folders_are_read_and_other_kinds_refused(monkeypatch, tmp_path):
    with bucket.serving(monkeypatch):
        tiny_run.atlas().save('gs://some-bucket/run')
        opened = loading.open_model('gs://some-bucket/run')
        assert opened.kind == loading.ATLAS_JAX and str(opened.path) == 'gs://some-bucket/run' and opened.step == 0
        assert opened.reader().read('decoder/decoder_norm/scale').ndim == 1
        convert.convert(convert.Request('gs://some-bucket/run', 'hf', tmp_path / 'hf'))
        assert loading.detect(tmp_path / 'hf').kind == loading.PAIR
        with pytest.raises(errors.ModelFolderError, match='^gs://some-bucket/hf: no model.json in it, .*copy other'):
            loading.detect('gs://some-bucket/hf')
        with pytest.raises(errors.ConfigError, match='^gs://some-bucket/hf: a conversion is written to a disk'):
            convert.convert(convert.Request('gs://some-bucket/run', 'hf', 'gs://some-bucket/hf'))
