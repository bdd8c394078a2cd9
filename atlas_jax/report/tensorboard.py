"""Scalars as TensorBoard reads them: an event file, without TensorFlow.

Format: TFRecord (length, masked crc32c, bytes, masked crc32c) of tensorflow.Event messages (wall_time 1, step 2, file_version 3,
summary 5); a summary holds values (1) of tag 1 and simple_value 2.
"""

import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # protobuf's wire types


class EventFile:
    """Appends scalars to a new event file in `folder`; every row is on disk when `write` returns."""

    def __init__(self, folder: str | os.PathLike):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}'
        self._append(_double(1, time.time()) + _bytes(3, b'brain.Event:2'))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one event with all scalars of a step."""
        values = b''.join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in scalars.items())
        self._append(_double(1, time.time()) + _key(2, _VARINT) + _varint(step) + _bytes(5, values))

    def _append(self, event: bytes) -> None:
        length = struct.pack('<Q', len(event))
        with open(self.path, 'ab') as file:
            file.write(length + _masked_crc(length) + event + _masked_crc(event))


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = tuple(_table_entry(byte) for byte in range(256))


def _masked_crc(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack('<I', (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


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
