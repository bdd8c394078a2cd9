"""Deleted rows of an index: one bit a row, first row in the highest bit of the first byte."""

import hashlib
import pathlib

import numpy as np

from atlas_jax import errors
from atlas_jax.io import atomic


def write(folder: pathlib.Path, deleted: np.ndarray, generation: int) -> tuple[str, str]:
    """Writes `deleted` [rows] bool to a new file; returns its name and SHA-256, two empty strings where nothing is deleted.

    Raises DiskFullError.
    """
    if not deleted.any():
        return '', ''
    name, content = f'tombstones-{generation:06d}.bits', np.packbits(deleted).tobytes()
    with atomic.writing(folder / name, 'wb') as file:
        file.write(content)
    return name, hashlib.sha256(content).hexdigest()


def read(folder: pathlib.Path, name: str, sha256: str, rows: int) -> np.ndarray:
    """The deleted rows, [rows] bool.

    Raises IndexFolderError: the file is missing or damaged.
    """
    if not name:
        return np.zeros(rows, bool)
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise errors.IndexFolderError(f'{folder / name}: the list of deleted rows: {error.strerror}; build the index anew') from error
    if hashlib.sha256(content).hexdigest() != sha256 or len(content) != -(-rows // 8):
        raise errors.IndexFolderError(f'{folder / name}: the list of deleted rows is damaged; build the index anew')
    return np.unpackbits(np.frombuffer(content, np.uint8), count=rows).astype(bool)
