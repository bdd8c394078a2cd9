"""Vectors like those of a text encoder: clusters of unequal sizes, a falling spectrum, queries close to their passages."""

import pathlib

import numpy as np

DIM = 768
TYPES = {'.f32': np.float32, '.f16': np.float16}  # types of the numbers in a file, by its name
_BLOCK = 50_000
_NOISE = 0.6  # standard deviations: a vector around its cluster's centre, and a query around its passage; the centres have 1


def write(path: pathlib.Path, rows: int, queries: int, seed: int = 0) -> np.ndarray:
    """Writes [rows, DIM] of unit length as raw bytes, block by block. Returns queries [queries, DIM] float32.

    There are sqrt(rows) clusters whose sizes follow Zipf's law; axis i has a standard deviation of 1 / sqrt(1 + i / 32).
    """
    generator = np.random.default_rng(seed)
    spectrum = (1 / np.sqrt(1 + np.arange(DIM) / 32)).astype(np.float32)
    centres = generator.standard_normal((max(int(rows ** 0.5), 1), DIM), np.float32) * spectrum
    sizes = 1 / np.arange(1, len(centres) + 1)
    chosen = set(generator.choice(rows, min(queries, rows), replace=False).tolist())
    asked = []
    with open(path, 'wb') as file:
        for start in range(0, rows, _BLOCK):
            number = min(_BLOCK, rows - start)
            cluster = generator.choice(len(centres), number, p=sizes / sizes.sum())
            block = _unit(centres[cluster] + _NOISE * generator.standard_normal((number, DIM), np.float32) * spectrum)
            block.astype(TYPES[path.suffix]).tofile(file)
            # The length of a vector before normalisation. A Python float: numpy's would turn the queries into float64 and, in numpy's
            # search, all the vectors at every call.
            scale = float(np.linalg.norm(spectrum)) * (1 + _NOISE ** 2) ** 0.5
            near = [row - start for row in sorted(chosen) if start <= row < start + number]
            asked.append(_unit(block[near] * scale + _NOISE * generator.standard_normal((len(near), DIM), np.float32) * spectrum))
    return generator.permutation(np.concatenate(asked))


def rows_of(path: pathlib.Path) -> int:
    """Returns the number of vectors in a file."""
    return path.stat().st_size // (np.dtype(TYPES[path.suffix]).itemsize * DIM)


def read_blocks(path: pathlib.Path):
    """Yields the vectors as float32, one block at a time, in memory of their own."""
    with open(path, 'rb') as file:
        while len(block := np.fromfile(file, TYPES[path.suffix], _BLOCK * DIM)):
            yield block.reshape(-1, DIM).astype(np.float32, copy=False)


def read(path: pathlib.Path) -> np.ndarray:
    """Returns all vectors as float32, page-aligned, so that jax can use them without a copy."""
    import mmap
    whole = np.frombuffer(mmap.mmap(-1, 4 * DIM * rows_of(path)), np.float32).reshape(-1, DIM)
    done = 0
    for block in read_blocks(path):
        whole[done:done + len(block)] = block
        done += len(block)
    return whole


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
