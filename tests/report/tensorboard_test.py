"""An event file holds what was written, in the form that TensorBoard's own reader checks."""

import struct

import pytest

from atlas_jax.report import tensorboard


def _records(data: bytes) -> list[bytes]:
    """The records of a TFRecord file, checksums checked."""
    found = []
    while data:
        length, = struct.unpack('<Q', data[:8])
        assert data[8:12] == tensorboard._masked_crc(data[:8])
        event = data[12:12 + length]
        assert data[12 + length:16 + length] == tensorboard._masked_crc(event)
        found.append(event)
        data = data[16 + length:]
    return found


def test_checksum_of_the_standard():
    assert tensorboard.crc32c(b'123456789') == 0xE3069283  # the check value of CRC-32C
    assert tensorboard.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_records(tmp_path):
    file = tensorboard.EventFile(tmp_path / 'new' / 'folder')
    file.write(7, {'loss': 0.5})
    file.write(300, {'loss': 0.25, 'rate': 1e-4})
    first, second, third = _records(file.path.read_bytes())
    assert b'brain.Event:2' in first
    assert second.endswith(b'\x10\x07' + b'\x2a\x0d' + b'\x0a\x0b' + b'\x0a\x04loss' + b'\x15' + struct.pack('<f', 0.5))
    assert b'\x10\xac\x02' in third and b'rate' in third and struct.pack('<f', 1e-4) in third


def test_tensorboard_reads_it(tmp_path):
    loader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    file = tensorboard.EventFile(tmp_path)
    for step in (1, 200):
        file.write(step, {'loss': step / 4, 'ä/b': -1.5})
    accumulated = loader.EventAccumulator(str(tmp_path))
    accumulated.Reload()
    assert [(event.step, event.value) for event in accumulated.Scalars('loss')] == [(1, 0.25), (200, 50.0)]
    assert accumulated.Scalars('ä/b')[0].value == -1.5
