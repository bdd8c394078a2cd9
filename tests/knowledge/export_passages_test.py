"""The passages of an index as files to pre-train on."""

import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.knowledge import export_passages
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp('passage-files')
    made = tiny_run.index(tiny_run.atlas(dropout_rate=0.0, mesh=None), folder)
    made.delete(['d3', 'd4'])
    return folder / 'index'


def ids(path):
    return [json.loads(line)['id'] for line in path.read_text(encoding='utf-8').splitlines()]


def test_all_but_the_deleted_in_two_files(index, tmp_path, capsys):
    assert export_passages.write(str(index), tmp_path / 'a', held_back=1000) == (19, 2)
    trained, held_back = (ids(tmp_path / 'a' / name) for name in (export_passages.TRAIN_FILE, export_passages.HELD_BACK_FILE))
    assert len(held_back) == 2 and sorted(trained + held_back) == sorted(f'd{i}' for i in range(23) if i not in (3, 4))
    assert trained == sorted(trained, key=lambda name: int(name[1:]))
    row = json.loads((tmp_path / 'a' / export_passages.TRAIN_FILE).read_text(encoding='utf-8').splitlines()[0])
    assert row.keys() == {'id', 'title', 'section', 'text'} and row['text'].startswith('The thing')
    # The command, and another draw.
    assert cli.main(['index', 'passages', '--index', str(index), '--to', str(tmp_path / 'b'), '--hold_back', '1', '--seed', '5']) == 0
    assert '20 passages, 1 held back' in capsys.readouterr().out and len(ids(tmp_path / 'b' / export_passages.HELD_BACK_FILE)) == 1


def test_too_few_passages_are_told(index, tmp_path):
    folder = tmp_path / 'small'
    made = tiny_run.index(tiny_run.atlas(dropout_rate=0.0, mesh=None), folder)
    made.delete([f'd{i}' for i in range(22)])
    with pytest.raises(errors.IndexFolderError, match='1 passages; pre-training needs at least 2'):
        export_passages.write(str(folder / 'index'), tmp_path / 'out')
