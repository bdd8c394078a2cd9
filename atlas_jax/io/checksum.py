"""Checksums of files and fingerprints of parameter trees."""

import hashlib
import json
import os
from typing import Any


def sha256_file(path: str | os.PathLike) -> str:
    """Returns the file's SHA-256 in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):  # 1 MiB: files of any size take no more memory
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in hexadecimal. Raises TypeError: not a JSON value."""
    # Sorted keys: a dict that was read from JSON has the digest of the one that was written.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(config: Any, tree: Any) -> str:
    """Returns a model's fingerprint: 16 hexadecimal digits that change with its configuration and
    every parameter.

    It is the beginning of the SHA-256 of repr(config) and of the path, dtype, shape and bytes of
    each leaf, in the order of the paths.
    """
    # Imported here, because commands check files before they import jax.
    import jax
    import numpy as np
    # The repr of a dataclass names every field, so every changed field changes the fingerprint.
    digest = hashlib.sha256(repr(config).encode())
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(tree),
                             key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(leaf)  # the same bytes, whatever the strides
        digest.update(f'{jax.tree_util.keystr(path)}{array.dtype}{array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
