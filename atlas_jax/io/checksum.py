"""Checksums of files and fingerprints of parameter trees."""

import hashlib
import os
from typing import Any

import jax
import numpy as np


def sha256_file(path: str | os.PathLike) -> str:
    """The file's SHA-256 in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(config: Any, tree: Any) -> str:
    """Identifies a model: SHA-256 (first 16 digits) over repr(config) and each leaf's path, dtype, shape and bytes."""
    digest = hashlib.sha256(repr(config).encode())
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(tree), key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(leaf)
        digest.update(f'{jax.tree_util.keystr(path)}{array.dtype}{array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
