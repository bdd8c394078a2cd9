"""What kind of model lies somewhere, told from its content."""

import dataclasses
import os
import pathlib
import re
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files

ATLAS_JAX, READER, RETRIEVER, T5X, ORIGINAL, PAIR = 'atlas_jax', 'hugging_face_reader', 'hugging_face_retriever', 't5x', 'original', 'pair'
ORIGINAL_FILE = 'model.pth.tar'
_KNOWN = ('atlas_jax wrote (model.json), a Hugging Face T5, BERT or sentence-transformers folder (config.json), a T5X checkpoint '
          f'(checkpoint_<step>/checkpoint), an original Atlas checkpoint ({ORIGINAL_FILE}), or a folder with reader/ and retriever/')


@dataclasses.dataclass(frozen=True)
class Found:
    """kind: one of the constants of this module. path: the folder (ORIGINAL: the file) that holds the model."""

    kind: str
    path: pathlib.Path


def detect(path: str | os.PathLike) -> Found:
    """The kind of model in a folder, or of one of its files.

    Raises ModelFolderError where nothing is there, or a kind that is not read: the line says which.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise errors.ModelFolderError(f'{path}: no such file or folder; give a model that {_KNOWN}')
    if path.is_file():
        if path.name == ORIGINAL_FILE:
            return Found(ORIGINAL, path)
        if path.name not in ('checkpoint', 'config.json', 'model.json'):
            raise errors.ModelFolderError(f'{path}: give the folder of the model, or an original {ORIGINAL_FILE}')
        path = path.parent
    if (path / 'model.json').is_file():
        return Found(ATLAS_JAX, path)
    if (path / 'modules.json').is_file():
        return Found(RETRIEVER, path)
    if (path / 'config.json').is_file():
        return Found(_hugging_face_kind(path), path)
    for find in (_original, _t5x):
        if found := find(path):
            return found
    if (path / 'reader').is_dir() and (path / 'retriever').is_dir():
        return Found(PAIR, path)
    _refuse_other_kinds(path)
    raise errors.ModelFolderError(f'{path}: no model that is known here; give one that {_KNOWN}')


def _hugging_face_kind(path: pathlib.Path) -> str:
    config: Any = hf_files.read_config(path, ('t5', 'bert', 'contriever'))
    return READER if config['model_type'] == 't5' else RETRIEVER


def _original(path: pathlib.Path) -> Found | None:
    """The step folder itself, or the newest step of the run's folder."""
    steps = _numbered(path / 'checkpoint', 'step-', ORIGINAL_FILE) or _numbered(path, 'step-', ORIGINAL_FILE)
    for folder in (path, *(path / 'checkpoint' / name for name in ('', 'latest')), *steps):
        if (folder / ORIGINAL_FILE).is_file():
            return Found(ORIGINAL, folder / ORIGINAL_FILE)
    return None


def _t5x(path: pathlib.Path) -> Found | None:
    """The checkpoint's folder itself, or the newest checkpoint of the model's folder."""
    for folder in (path, *_numbered(path, 'checkpoint_', 'checkpoint')):
        if (folder / 'checkpoint').is_file():
            _refuse_other_kinds(folder)
            return Found(T5X, folder)
    return None


def _numbered(path: pathlib.Path, start: str, file: str) -> list[pathlib.Path]:
    """Subfolders `<start><number>` that hold `file`, the highest number first; unfinished saves have other names."""
    found = [folder for folder in path.glob(f'{start}*')
             if re.fullmatch(re.escape(start) + r'\d+', folder.name) and (folder / file).is_file()]
    return sorted(found, key=lambda folder: -int(folder.name.removeprefix(start)))


def _refuse_other_kinds(path: pathlib.Path) -> None:
    if (path / '_METADATA').is_file() or (path / '_CHECKPOINT_METADATA').is_file():
        raise errors.ModelFolderError(f'{path}: an Orbax checkpoint (_METADATA) and no T5X one; convert it with T5X, or give the run '
                                      'folder if atlas_jax wrote it')
    with_index = list(path.glob('*.ckpt*.index'))
    index = path / 'checkpoint'
    if with_index or (index.is_file() and index.open('rb').read(22) == b'model_checkpoint_path:'):
        raise errors.ModelFolderError(f'{path}: a TensorFlow checkpoint, which is not read; convert it with T5X '
                                      '(t5x.scripts.convert_tf_checkpoint) or give the Hugging Face folder of the model')
