"""States of files: of a file its size and time, of a folder its names, of a missing one its name."""

import os

from atlas_jax.io import file_states


def test_states_of_files_folders_and_missing_ones(tmp_path):
    (tmp_path / 'b').write_text('xyz')
    os.utime(tmp_path / 'b', ns=(7, 5_000_000_123))
    (tmp_path / 'a').mkdir()
    assert file_states.state_of(tmp_path / 'b', 'name') == ['name', 3, 5_000_000]
    assert file_states.state_of(tmp_path, 'folder') == ['folder', ['a', 'b']]
    assert file_states.state_of(tmp_path / 'c', 'c') == ['c']
