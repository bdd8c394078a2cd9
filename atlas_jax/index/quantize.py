"""Embeddings in the types they are stored in: float32, bfloat16, or int8 with a scale for each row."""

import ml_dtypes
import numpy as np

DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16), 'int8': np.dtype(np.int8)}
_LARGEST = 127


def encode(embeddings: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """[n, dim] float32 to (numbers [n, dim] of `dtype`, scales [n] float32 of int8, else None).

    int8 is symmetric: scale = max|x| / 127, number = round(x / scale); a row of zeros has scale 0.
    """
    if dtype != 'int8':
        return embeddings.astype(DTYPES[dtype]), None
    scales = (np.abs(embeddings).max(axis=1) / _LARGEST).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(embeddings / divisors), -_LARGEST, _LARGEST).astype(np.int8), scales


def decode(values: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """The embeddings, [n, dim] float32."""
    return values.astype(np.float32) * (1 if scales is None else scales[:, None])
