"""`atlas-jax verify`: one command for every folder of ours; it names damaged files, and --no_verify loads them all the same."""

import shutil

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.conversion import convert
from tests.testing import damage, streams, tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a saved model, a converted one, a store and an index."""
    folder = tmp_path_factory.mktemp('ours')
    atlas = tiny_run.atlas()
    atlas.save(folder / 'run')
    index = tiny_run.index(atlas, folder)
    atlas.search(['who?'], index, 1, 'bm25')  # saves the searcher beside the index
    convert.convert(convert.Request(folder / 'run', 'hf', folder / 'hf'))
    return folder


def test_every_kind_of_folder_is_verified_together_and_alone(folder, capsys):
    assert cli.main(['verify', str(folder)]) == 0
    kinds = {'hf/reader': 'model', 'hf/retriever': 'model', 'index': 'index', 'run': 'run', 'store': 'passage store'}
    assert capsys.readouterr().out == ''.join(f'{folder / name}: {kind}, every file is as it was written\n' for name, kind in kinds.items())
    for name, kind in kinds.items():
        assert cli.main(['verify', str(folder / name)]) == 0
        assert capsys.readouterr().out == f'{folder / name}: {kind}, every file is as it was written\n'


@pytest.mark.parametrize(('name', 'part'), [
    ('hf/reader/model.safetensors', 'differs from the written one), in '), ('hf/retriever/vocab.txt', 'vocab.txt: damaged'),
    ('run/model.json', 'model.json: damaged'), ('run/checksums.json', 'checksums.json: damaged'),
    ('run/checkpoints/0/params/_METADATA', '_METADATA: damaged'), ('store/segment-00000/passages.arrow', 'passages.arrow'),
    ('index/bm25/data.csc.index.npy', 'index.npy: damaged'), ('index/bm25/searcher.json', 'searcher.json: damaged'),
    ('index/manifest.json', 'manifest.json: damaged'), ('store/manifest.json', 'manifest.json: damaged')])
def test_the_damaged_file_is_named(folder, capsys, name, part):
    path = folder / name
    with damage.flipped_bit(path, 8 * path.stat().st_size // 2):
        assert cli.main(['verify', str(folder)]) == 2
    printed = capsys.readouterr()
    assert part in printed.out and 'problems, listed above' in printed.err and printed.err.count('\n') == 1


def test_a_run_that_lost_its_list_is_damaged_and_one_from_before_has_none(folder, capsys, tmp_path):
    shutil.copytree(folder / 'run', tmp_path / 'run')
    (tmp_path / 'run' / 'checksums.json').unlink()
    assert cli.main(['verify', str(tmp_path / 'run')]) == 2
    assert 'checksums.json: is missing' in capsys.readouterr().out
    assert cli.main(['verify', str(streams.FIXTURES / 'before_rooms' / 'run')]) == 2
    assert 'nothing in it has checksums' in capsys.readouterr().err
    assert cli.main(['verify', str(tmp_path / 'nowhere')]) == 2


def test_no_verify_loads_what_is_damaged(folder, capsys, tmp_path):
    weights = folder / 'hf' / 'reader' / 'model.safetensors'
    arguments = ['convert', str(folder / 'hf'), '--to', 't5x', '--out', str(tmp_path / 'out')]
    with damage.flipped_bit(weights, 8 * weights.stat().st_size - 20):
        assert cli.main(arguments) == 2
        assert 'model.safetensors: damaged' in capsys.readouterr().err
        assert cli.main([*arguments, '--no_verify']) == 0
