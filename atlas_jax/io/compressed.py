"""Opens plain, gzip, bzip2 and zstd files as streams of bytes."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from atlas_jax import errors
from atlas_jax.io import untrusted

_SUFFIXES = {'.gz': 'gzip', '.bz2': 'bz2', '.zst': 'zstd'}
# A bzip2 file begins with its block size and the magic of a block, or of the end if it is empty.
_MAGIC = {
    'gzip': (b'\x1f\x8b\x08',),
    'zstd': (b'\x28\xb5\x2f\xfd',),
    'bz2': tuple(b'BZh%d' % level + magic for level in range(1, 10)
                 for magic in (b'1AY&SY', b'\x17\x72\x45\x38\x50\x90'))}
_BUFFER_BYTES = 1 << 20
_read_bytes = 0


def bytes_read() -> int:
    """Returns the bytes that this process has read from disk here, for progress bars."""
    return _read_bytes


def plain_suffix(path: pathlib.Path) -> str:
    """Returns the suffix before that of a compression, in lower case: .jsonl of corpus.jsonl.gz."""
    return plain_name(path).suffix.lower()


def plain_name(path: pathlib.Path) -> pathlib.Path:
    """Returns the path without the suffix of a compression."""
    return path.with_suffix('') if path.suffix.lower() in _SUFFIXES else path


@contextlib.contextmanager
def reading(path: str | os.PathLike, start: int = 0,
            stop: int | None = None) -> Iterator[io.BufferedReader[Any]]:
    """Opens a file and decompresses it; its first bytes tell how it is compressed.

    Read with a limit: a small file may unpack to any size.

    Args:
      path: A regular file, or gs://...; a file in a bucket is copied until the process ends.
      start: First byte on disk, to read a part that is compressed on its own.
      stop: Byte after that part.

    Raises:
      InputFileError: a missing file, a pipe or device, or a suffix of another format; while it is
        read, a truncated or damaged file.
      StorageError: a bucket cannot be read.
    """
    given, path = path, _on_disk(path)
    try:
        untrusted.require_regular_file(path)
    except ValueError as error:
        raise errors.InputFileError(given, str(error), remedy='give the path of a file') from error
    if not path.is_file():
        raise errors.InputFileError(given, 'no such file', remedy='give the path of a file')
    with PlainFile(path, start, stop) as file:
        codec = next((name for name, starts in _MAGIC.items() if file.head.startswith(starts)),
                     None)
        promised = _SUFFIXES.get(path.suffix.lower())
        if promised and not start and codec != promised:
            raise errors.InputFileError(
                given, f'its name says {promised}, its content does not',
                remedy='download the file again, or give it the name of its format')
        if codec is None:
            with io.BufferedReader(file, _BUFFER_BYTES) as buffered:
                yield buffered
            return
        # Imported here: pyarrow imports slowly, and most commands read plain files.
        import pyarrow
        with pyarrow.CompressedInputStream(file, codec) as stream, io.BufferedReader(
                _Unpacked(given, codec, stream), _BUFFER_BYTES) as buffered:
            yield buffered


def _on_disk(path: str | os.PathLike) -> pathlib.Path:
    if '://' not in str(path):
        return pathlib.Path(path)
    from atlas_jax.io import folder  # imported here: --help needs no tensorstore
    try:
        return folder.file_on_disk(path)
    except FileNotFoundError:
        return pathlib.Path(path)  # the caller finds it missing


class PlainFile(io.FileIO):
    """A file, or a part of it, that counts the bytes read."""

    def __init__(self, path: pathlib.Path, start: int, stop: int | None):
        super().__init__(path)
        self.seek(start)
        self._left = (self._size() if stop is None else stop) - start
        self.head = os.pread(self.fileno(), max(0, min(10, self._left)), start)

    def _size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """Reads like FileIO, up to the end of the part."""
        size = self._left if size is None or size < 0 else max(0, min(size, self._left))
        block = super().read(size)
        self._count(len(block))
        return block

    def readall(self) -> bytes:
        """Reads to the end of the part."""
        return b''.join(iter(lambda: self.read(_BUFFER_BYTES), b''))

    def readinto(self, buffer: Any) -> int:
        """Reads like FileIO, up to the end of the part."""
        view = memoryview(buffer).cast('B')
        count = super().readinto(view[:max(0, min(len(view), self._left))])
        self._count(count)
        return count

    def _count(self, size: int) -> None:
        global _read_bytes
        _read_bytes += size
        self._left -= size


class _Unpacked(io.RawIOBase):
    """A decompressed stream whose errors name the file."""

    def __init__(self, path: str | os.PathLike, codec: str, stream):
        self._path, self._codec, self._stream = path, codec, stream

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as it can.

        Raises InputFileError: the file is truncated or damaged.
        """
        try:
            return self._stream.readinto(buffer)
        except OSError as error:
            if error.errno:  # an error of the disk
                raise
            raise errors.InputFileError(self._path,
                                        f'truncated or damaged {self._codec} file ({error})',
                                        remedy='download or copy it again') from error
