"""Logs a run's metrics as JSON lines and for TensorBoard, and makes the table of its parameters.

TensorBoard's event files are written without TensorFlow. They are TFRecords (length, masked crc32c,
bytes, masked crc32c) of tensorflow.Event messages (wall_time 1, step 2, file_version 3, summary 5).
A summary holds values (1) with tag 1 and simple_value 2.
"""

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.io import appending, untrusted
from atlas_jax.io.folder import Folder, Place

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # protobuf's wire types


class RunLog:
    """The metrics of every step, written by process 0.

    A context manager: a thread writes inside the block (io/appending.py).

    Attributes:
      rows: A row a step, with `step` and scalars. Rows after a restored step are dropped, since
        those steps are trained again.
    """

    def __init__(self, place: Place, step: int):
        """Reads the rows up to `step`; 0 starts without any.

        Raises DiskFullError, StorageError. InputFileError: the file is damaged; names the line.
        """
        self._folder = Folder(place)
        self._events_folder = self._folder / TENSORBOARD_FOLDER
        self.rows: list[dict[str, Any]] = []
        if step:
            self.rows = [row for row in _rows_of(self._folder) if row['step'] <= step]
        # None outside the block, and in processes that do not write.
        self._files: appending.Appender | None = None
        self._events = ''  # name of the event file inside the block
        if jax.process_index() == 0:
            self._folder.write(METRICS_FILE,
                               ''.join(f'{json.dumps(row)}\n' for row in self.rows).encode())

    def __enter__(self) -> 'RunLog':
        if jax.process_index() == 0:
            # TensorBoard looks for "tfevents" in the name; all files of a folder are one run.
            self._events = (f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.'
                            f'{os.getpid()}')
            self._events_folder.write(self._events, first_event())
            self._files = appending.Appender()
        return self

    def __exit__(self, *error: Any) -> None:
        files, self._files = self._files, None
        if files is not None:
            files.__exit__(*error)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a step's row; on a disk, other processes see it at once.

        Raises DiskFullError, StorageError: an earlier row could not be written.
        """
        self.rows.append(row)
        if self._files is not None:
            # Appended, since long runs have many rows. A kill may cut the last line, which a
            # restart drops.
            self._files.append(self._folder, METRICS_FILE, f'{json.dumps(row)}\n'.encode())
            scalars = {name: value for name, value in row.items() if name != 'step'}
            self._files.append(self._events_folder, self._events, event(row['step'], scalars))

    def flush(self) -> None:
        """Waits until every row is on disk, or in the bucket.

        Raises DiskFullError, StorageError.
        """
        if self._files is not None:
            self._files.flush()


def _rows_of(folder: Folder) -> list[dict[str, Any]]:
    """Reads the rows of the metrics file, if it exists, without a half line at its end.

    Raises InputFileError.
    """
    rows: list[dict[str, Any]] = []
    try:
        # Split as bytes: str.splitlines would split at other characters too.
        for line in folder.read(METRICS_FILE).split(b'\n')[:-1]:
            row = untrusted.parse_json(line)
            if not isinstance(row, dict) or not isinstance(row.get('step'), int):
                raise ValueError('no object with a step')
            rows.append(row)
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise errors.InputFileError(
            f'{folder}/{METRICS_FILE}', f'damaged ({reason})', line=len(rows) + 1,
            remedy='mend or delete the line; or take the file away, and the run goes on without '
            'these rows') from error
    return rows


def parameter_overview(params: Any, depth: int = 2) -> str:
    """Returns a table of the parameters of each part: number, share, MiB, MiB a device and dtype.

    Args:
      params: A tree of arrays.
      depth: Levels of the tree that name a part, such as 2 for reader/encoder.
    """
    parts: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(getattr(key, 'key', key)) for key in path]
        parts.setdefault('/'.join(names[:depth]), []).append(leaf)
    every = [leaf for leaves in parts.values() for leaf in leaves]
    total, width = sum(_size(leaf) for leaf in every), max(len(name) for name in parts)
    lines = [f'{"parameters":{width}}  {"number":>14}  share  {"MiB":>9}  {"MiB a device":>12}  '
             'dtype']
    for name, leaves in [*parts.items(), ('all', every)]:
        number = sum(_size(leaf) for leaf in leaves)
        dtypes = ', '.join(sorted({str(leaf.dtype) for leaf in leaves}))
        lines.append(f'{name:{width}}  {number:14,}  {number / total:5.0%}  {_mib(leaves):9.1f}  '
                     f'{_mib(leaves, on_one_device=True):12.1f}  {dtypes}')
    return '\n'.join(lines)


def _size(leaf: Any) -> int:
    return int(np.prod(leaf.shape))


def _mib(leaves: list[Any], on_one_device: bool = False) -> float:
    def shape(leaf: Any) -> tuple[int, ...]:
        # numpy arrays are on no device and count whole.
        if on_one_device and isinstance(leaf, jax.Array):
            return leaf.sharding.shard_shape(leaf.shape)
        return leaf.shape

    return sum(int(np.prod(shape(leaf))) * leaf.dtype.itemsize for leaf in leaves) / 2**20


def first_event() -> bytes:
    """Returns the record that every event file begins with."""
    return _record(_double(1, time.time()) + _bytes(3, b'brain.Event:2'))


def event(step: int, scalars: Mapping[str, float]) -> bytes:
    """Returns the record of one event with all scalars of a step."""
    values = b''.join(_bytes(1, _bytes(1, name.encode()) + _float(2, value))
                      for name, value in scalars.items())
    return _record(_double(1, time.time()) + _key(2, _VARINT) + _varint(step) + _bytes(5, values))


def _record(data: bytes) -> bytes:
    length = struct.pack('<Q', len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def crc32c(data: bytes) -> int:
    """Returns the Castagnoli checksum (RFC 3720)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


# The polynomial of CRC-32C with its bits reversed.
_POLYNOMIAL = 0x82F63B78
# TFRecord masks checksums, since a checksum of data that contains checksums is weak.
_MASK_DELTA = 0xA282EAD8


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
    return value


# With this table, a byte takes one step in place of eight.
_TABLE = tuple(_table_entry(byte) for byte in range(256))


def _masked_crc(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack('<I', (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


def _double(field: int, value: float) -> bytes:
    return _key(field, _DOUBLE) + struct.pack('<d', value)


def _float(field: int, value: float) -> bytes:
    return _key(field, _FLOAT) + struct.pack('<f', value)
