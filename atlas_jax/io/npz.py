"""Reads untrusted numpy.savez files: plain arrays only, of limited size."""

import lzma
import math
import os
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from atlas_jax.io import untrusted

# Zeros unpack to a thousand times the file's size, and masks compress well too: small files may
# grow freely, large ones only by this ratio.
_FREE_BYTES, _MAX_RATIO = 1 << 28, 20
# Errors that numpy, zipfile and the decompressors raise for broken files.
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, TypeError, KeyError,
           IndexError, AttributeError, EOFError, NotImplementedError, RuntimeError, OverflowError,
           MemoryError, SyntaxError, tokenize.TokenError, ArithmeticError, OSError)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns all arrays of a file by name, with the dtypes and shapes [...] that it states.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no regular file, not a complete npz file of plain arrays, or one that unpacks to
        far more than its size.
    """
    path = pathlib.Path(path)
    untrusted.require_regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
            return {entry.filename.removesuffix('.npy'): _array(archive, entry)
                    for entry in archive.infolist()}
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        raise ValueError(f'not an npz file of plain arrays ({type(error).__name__}: '
                         f'{" ".join(str(error).split())[:200]})') from error


def _check_sizes(path: pathlib.Path, archive: zipfile.ZipFile) -> None:
    # zipfile reads no more of an entry than its header announces.
    size = sum(entry.file_size for entry in archive.infolist())
    most = max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size)
    if size > most:
        raise ValueError(f'it unpacks to {size:,} bytes, expected at most {most:,}')


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        # The header is checked first: numpy allocates what it announces before it reads.
        first = np.lib.format.read_magic(file) == (1, 0)
        header = (np.lib.format.read_array_header_1_0 if first
                  else np.lib.format.read_array_header_2_0)
        shape, _, dtype = header(file)
        size = math.prod(shape) * dtype.itemsize
        # Arrays of objects would be unpickled.
        if dtype.hasobject or dtype.names is not None or size != entry.file_size - file.tell():
            raise ValueError(f'{entry.filename} holds no {dtype}{list(shape)}')
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
