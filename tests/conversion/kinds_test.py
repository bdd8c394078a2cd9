"""The kind of a model, told from its content; other kinds are refused by their names."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.conversion import kinds


def _touch(folder, *names, content=b'x'):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(('files', 'kind', 'place'), [
    (['model.json'], kinds.ATLAS_JAX, '.'), (['modules.json', 'config.json'], kinds.RETRIEVER, '.'), (['checkpoint'], kinds.T5X, '.'),
    (['checkpoint_9/checkpoint', 'checkpoint_10/checkpoint', 'checkpoint_11/x', 'checkpoint_12.tmp-1/checkpoint'], kinds.T5X,
     'checkpoint_10'),
    (['model.pth.tar'], kinds.ORIGINAL, 'model.pth.tar'),
    (['checkpoint/step-9/model.pth.tar', 'checkpoint/step-10/model.pth.tar'], kinds.ORIGINAL, 'checkpoint/step-10/model.pth.tar'),
    (['step-2/model.pth.tar'], kinds.ORIGINAL, 'step-2/model.pth.tar'), (['reader/x', 'retriever/x'], kinds.PAIR, '.')])
def test_kinds(tmp_path, files, kind, place):
    assert kinds.detect(_touch(tmp_path, *files)) == kinds.Found(kind, tmp_path / place)


@pytest.mark.parametrize(('model_type', 'kind'), [('t5', kinds.READER), ('bert', kinds.RETRIEVER), ('contriever', kinds.RETRIEVER)])
def test_hugging_face(tmp_path, model_type, kind):
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': model_type}))
    assert kinds.detect(tmp_path).kind == kinds.detect(tmp_path / 'config.json').kind == kind


def test_a_file_stands_for_its_folder(tmp_path):
    _touch(tmp_path, 'model.pth.tar', 'spiece.model')
    assert kinds.detect(tmp_path / 'model.pth.tar') == kinds.Found(kinds.ORIGINAL, tmp_path / 'model.pth.tar')
    with pytest.raises(errors.ModelFolderError, match='give the folder of the model'):
        kinds.detect(tmp_path / 'spiece.model')


@pytest.mark.parametrize(('files', 'content', 'message'), [
    (['_METADATA', 'checkpoint'], b'x', 'an Orbax checkpoint'), (['_CHECKPOINT_METADATA'], b'{}', 'an Orbax checkpoint'),
    (['checkpoint'], b'model_checkpoint_path: "model.ckpt-1"', 'a TensorFlow checkpoint'),
    (['model.ckpt-1.index', 'model.ckpt-1.data-00000-of-00001'], b'x', 'a TensorFlow checkpoint'),
    (['notes.txt'], b'x', 'no model that is known here; give one that atlas_jax wrote')])
def test_other_kinds_are_refused(tmp_path, files, content, message):
    with pytest.raises(errors.ModelFolderError, match=message):
        kinds.detect(_touch(tmp_path, *files, content=content))


def test_nothing_there(tmp_path):
    with pytest.raises(errors.ModelFolderError, match='no such file or folder'):
        kinds.detect(tmp_path / 'nowhere')
