"""Deleted rows of an index: one bit a row, first row in the highest bit of the first byte."""

import hashlib

import numpy as np

from atlas_jax import errors
from atlas_jax.io.folder import Folder


def write(folder: Folder, deleted: np.ndarray, revision: int) -> tuple[str, str]:
    """Writes `deleted` [rows] bool to a new file; returns its name and SHA-256, two empty strings where nothing is deleted.

    Raises DiskFullError.
    """
    if not deleted.any():
        return '', ''
    name, content = f'tombstones-{revision:06d}.bits', np.packbits(deleted).tobytes()
    folder.write(name, content)
    return name, hashlib.sha256(content).hexdigest()


def read(folder: Folder, name: str, sha256: str, rows: int) -> np.ndarray:
    """The deleted rows, [rows] bool.

    Raises IndexFolderError: the file is missing or damaged.
    """
    if not name:
        return np.zeros(rows, bool)
    try:
        content = folder.read(name)
    except OSError as error:
        raise errors.IndexFolderError(f'{folder}/{name}: the list of deleted rows: {error.strerror}; build the index anew') from error
    if hashlib.sha256(content).hexdigest() != sha256 or len(content) != -(-rows // 8):
        raise errors.IndexFolderError(f'{folder}/{name}: the list of deleted rows is damaged; build the index anew')
    return np.unpackbits(np.frombuffer(content, np.uint8), count=rows).astype(bool)
