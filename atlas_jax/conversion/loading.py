"""Opens and loads a reader or a retriever of any kind: the one place that knows them all."""

import os

from atlas_jax import errors
from atlas_jax.conversion import hf, kinds, t5x, weights
from atlas_jax.models import contriever, t5

PARTS = ('reader', 'retriever')


def open_reader(path: str | os.PathLike) -> weights.Weights:
    """The reader in a folder of any kind, its parameters not read yet.

    Raises ModelFolderError: nothing is there that has a reader, or it is broken.
    """
    return _open(path, 'reader')


def open_retriever(path: str | os.PathLike) -> weights.Weights:
    """The retriever in a folder of any kind, its parameters not read yet; of two encoders the one for queries.

    Raises ModelFolderError: nothing is there that has a retriever, or it is broken.
    """
    return _open(path, 'retriever')


def load_reader(path: str | os.PathLike) -> tuple[t5.T5Config, weights.Params]:
    """(config, params) of the reader in a folder of any kind; params float32, layers apart. Raises ModelFolderError."""
    opened = open_reader(path)
    return opened.config, opened.params()


def load_retriever(path: str | os.PathLike) -> tuple[contriever.ContrieverConfig, weights.Params]:
    """(config, params) of the retriever in a folder of any kind; params float32, layers apart. Raises ModelFolderError."""
    opened = open_retriever(path)
    return opened.config, opened.params()


def _open(path: str | os.PathLike, part: str) -> weights.Weights:
    found = kinds.detect(path)
    if found.kind == kinds.PAIR:
        found = kinds.detect(found.path / part)
    if found.kind == kinds.READER and part == 'reader':
        return hf.open_t5(found.path)
    if found.kind == kinds.RETRIEVER and part == 'retriever':
        return hf.open_contriever(found.path)
    if found.kind == kinds.T5X and part == 'reader':
        return t5x.open_t5(found.path)
    raise errors.ModelFolderError(f'{path}: holds no {part}')
