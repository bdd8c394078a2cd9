"""Files of numpy.savez, read without trust: plain arrays alone, no larger than they may be."""

import lzma
import math
import os
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from atlas_jax.io import untrusted

# A file of zeros is a thousandth of what it unpacks to, and masks are mostly one number: small files may grow, large ones hardly.
_FREE_BYTES, _MAX_RATIO = 1 << 28, 20
# What numpy, zipfile and the decompressors raise for broken files, beside OSError; some of it speaks of their insides.
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError,
           NotImplementedError, RuntimeError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError, ArithmeticError, OSError)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all arrays of a file by name; each has the dtype and the shape [...] that the file states.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no regular file, not a whole npz file of plain arrays, or one that unpacks to far more than it is large.
    """
    path = pathlib.Path(path)
    untrusted.require_regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
            return {entry.filename.removesuffix('.npy'): _array(archive, entry) for entry in archive.infolist()}
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        raise ValueError(f'not an npz file of plain arrays ({type(error).__name__}: {" ".join(str(error).split())[:200]})') from error


def _check_sizes(path: pathlib.Path, archive: zipfile.ZipFile) -> None:
    # zipfile reads no more of an entry than it announces, so what is announced is the limit.
    size, most = sum(entry.file_size for entry in archive.infolist()), max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size)
    if size > most:
        raise ValueError(f'it unpacks to {size:,} bytes, expected at most {most:,}')


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        # numpy allocates what the header announces before it reads: the header is read alone first.
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        # A dtype of objects would be unpickled.
        if dtype.hasobject or dtype.names is not None or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
            raise ValueError(f'{entry.filename} holds no {dtype}{list(shape)}')
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
