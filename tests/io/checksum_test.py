"""Checksums of files and fingerprints of models."""

import hashlib

import numpy as np
import pytest

from atlas_jax.io import checksum

TREE = {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3), 'layers': [np.zeros(5, np.int8)]}


@pytest.mark.parametrize('size', [0, 1, 2_100_001])
def test_sha256_reads_all_of_a_file(tmp_path, size):
    content = b'abc' * (size // 3) + b'd' * (size % 3)
    (tmp_path / 'file').write_bytes(content)
    assert checksum.sha256_file(tmp_path / 'file') == hashlib.sha256(content).hexdigest()


def test_sha256_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        checksum.sha256_file(tmp_path / 'file')


def test_fingerprints_are_the_same_wherever_the_arrays_lie():
    again = {'layers': [np.zeros(10, np.int8)[::2]], 'kernel': np.asfortranarray(TREE['kernel'])}
    found = checksum.fingerprint('config', TREE)
    assert checksum.fingerprint('config', again) == found == 'abd7a3be12b50f0a'  # recorded: indexes on disk hold fingerprints


@pytest.mark.parametrize('change', [
    {'kernel': TREE['kernel'] + np.float32(1e-6)}, {'kernel': TREE['kernel'].reshape(3, 2)}, {'kernel': TREE['kernel'].astype(np.float64)},
    {'bias': TREE['kernel']}, {'layers': []}])
def test_fingerprints_change_with_any_parameter(change):
    assert checksum.fingerprint('config', TREE | change) != checksum.fingerprint('config', TREE)


def test_fingerprints_change_with_the_configuration():
    assert checksum.fingerprint('other', TREE) != checksum.fingerprint('config', TREE) != checksum.fingerprint('config', {})
