"""Ranges of files, read many at a time."""

import threading

import numpy as np
import pytest

from atlas_jax.io import ranges


def test_ranges_fill_their_targets(tmp_path):
    (tmp_path / 'file').write_bytes(bytes(range(50)))
    target = np.zeros((3, 4), np.uint8)
    ranges.read(tmp_path / 'file', [46, 0, 7], list(target))
    assert target.tolist() == [[46, 47, 48, 49], [0, 1, 2, 3], [7, 8, 9, 10]]
    ranges.read(tmp_path / 'file', [], [])


@pytest.mark.parametrize(('name', 'reason'), [('file', 'cut short'), ('none', 'No such file or directory'), ('', 'Is a directory')])
def test_errors_name_file_and_reason(tmp_path, name, reason):
    (tmp_path / 'file').write_bytes(bytes(50))
    with pytest.raises(OSError) as caught:
        ranges.read(tmp_path / name, [0, 47], list(np.zeros((2, 4), np.uint8)))
    assert (caught.value.filename, caught.value.strerror) == (str(tmp_path / name), reason)


def test_items_run_side_by_side_and_the_first_error_is_raised():
    both = threading.Barrier(2, timeout=20)  # is passed only if two wait at the same time
    ranges.side_by_side(lambda _: both.wait(), range(2))

    def fail(number: int) -> None:
        if number:
            raise ValueError(number)

    with pytest.raises(ValueError, match='1'):
        ranges.side_by_side(fail, range(3))
