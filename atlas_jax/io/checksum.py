"""Checksums of files and fingerprints of parameter trees."""

import hashlib
import os
from typing import Any


def sha256_file(path: str | os.PathLike) -> str:
    """Returns the file's SHA-256 in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):  # 1 MiB: files of any size take no more memory
            digest.update(block)
    return digest.hexdigest()


def fingerprint(config: Any, tree: Any) -> str:
    """Returns a model's fingerprint: 16 hexadecimal digits that change with its configuration and each parameter.

    It is the beginning of the SHA-256 of repr(config) and of each leaf's path, dtype, shape and bytes, leaves in the order of their paths.
    """
    # Not above: commands look at manifests and files before they import these.
    import jax
    import numpy as np
    # repr of a frozen dataclass names every field, so a changed size or format changes the fingerprint.
    digest = hashlib.sha256(repr(config).encode())
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(tree), key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(leaf)  # the same bytes, whatever the strides
        digest.update(f'{jax.tree_util.keystr(path)}{array.dtype}{array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
