"""The original's saved index: read by rows over all shards, never unpickled; missing and mixed-up files are named."""

import pathlib
import pickle

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import torch_file
from atlas_jax.conversion.original_index import SavedIndex
from tests.testing import saved_index

ROWS, DIM, BOUNDS = 29, 5, [7, 7, 20]  # one shard is empty


def _passages(rows: int = ROWS) -> list[dict]:
    return [{'id': str(row) if row % 2 else row, 'title': f'T{row}', 'section': 'S' if row % 3 else None, 'text': f' text é {row} '}
            for row in range(rows)]


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float16)


@pytest.fixture
def folder(tmp_path, embeddings):
    return saved_index.write(tmp_path / 'saved', embeddings, _passages(), BOUNDS)


def test_rows_run_over_all_shards(folder, embeddings):
    saved = SavedIndex(folder)
    assert (saved.rows, saved.dim) == (ROWS, DIM)
    for rows in (np.arange(ROWS), np.array([6, 7, 19, 20, 28]), np.array([28, 0]), np.array([], np.int64)):
        np.testing.assert_array_equal(saved.embeddings(rows), embeddings[rows].astype(np.float32))


def test_passages_are_those_of_all_shards_in_order(folder):
    found = list(SavedIndex(folder).passages())
    assert [passage.docid for passage in found] == [str(row) for row in range(ROWS)]
    assert (found[3].title, found[3].section, found[4].section, found[4].text) == ('T3', '', 'S', 'text é 4')
    (folder / 'passages.0.pt').write_bytes(pickle.dumps([{'text': 'x'}] * 7))
    with pytest.raises(errors.ModelFolderError, match='passages.0.pt: passage 0 has no id; name passages by their rows'):
        list(SavedIndex(folder).passages())
    assert [passage.docid for passage in SavedIndex(folder).passages(row_ids=True)] == [str(row) for row in range(ROWS)]


@pytest.mark.torch
def test_files_of_pytorch_are_read(tmp_path, embeddings):
    torch = pytest.importorskip('torch')
    (tmp_path / 'saved').mkdir()
    tensor = torch.from_numpy(embeddings)
    torch.save(tensor[:9].T, tmp_path / 'saved/embeddings.0.pt')  # a view, as slices of the whole index are
    torch.save(tensor.T[:, 9:].clone(), tmp_path / 'saved/embeddings.1.pt')
    torch.save(_passages()[:9], tmp_path / 'saved/passages.0.pt')
    torch.save(_passages()[9:], tmp_path / 'saved/passages.1.pt', _use_new_zipfile_serialization=False)
    saved = SavedIndex(tmp_path / 'saved')
    np.testing.assert_array_equal(saved.embeddings(np.arange(ROWS)), embeddings.astype(np.float32))
    assert [passage.title for passage in saved.passages()] == [f'T{row}' for row in range(ROWS)]


class _Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path('executed'),)


@pytest.mark.parametrize('content, message', [
    (pickle.dumps([_Evil()]), 'never executed'), (pickle.dumps({'a': 1}), 'expected a list of passages, found dict'),
    (pickle.dumps(_passages(3)), r'passages.0.pt: 3 passages, embeddings.0.pt has 7'), (b'\x80\x04', 'not a whole'),
    (pickle.dumps(_passages(7))[:-9], 'not a whole'), (pickle.dumps([1] * 7), 'passage 0 is no dict'),
    (pickle.dumps([{'id': 'a', 'text': ['x']}] * 7), r'passage 0, field "text": .* is no text')])
def test_other_passages_are_refused(folder, monkeypatch, tmp_path, content, message):
    monkeypatch.chdir(tmp_path)
    (folder / 'passages.0.pt').write_bytes(content)
    with pytest.raises(errors.ModelFolderError, match=message):
        list(SavedIndex(folder).passages())
    assert not (tmp_path / 'executed').exists()


def test_missing_and_foreign_files_are_told(folder, embeddings, tmp_path):
    def refused(message: str) -> None:
        with pytest.raises(errors.ModelFolderError, match=message):
            SavedIndex(folder)

    whole = (folder / 'embeddings.2.pt').read_bytes()
    saved_index.tensor_file(folder / 'embeddings.2.pt', embeddings[7:20, :4].T)
    refused('embeddings.2.pt: 4 numbers a passage, other shards have 5')
    saved_index.tensor_file(folder / 'embeddings.2.pt', embeddings[0])
    refused('embeddings.2.pt: expected one matrix')
    (folder / 'embeddings.2.pt').write_bytes(whole[:-30])
    refused('embeddings.2.pt: not a whole PyTorch file')
    (folder / 'embeddings.2.pt').unlink()
    refused('no embeddings.2.pt; copy all shards')
    (folder / 'embeddings.2.pt').write_bytes(whole)
    (folder / 'passages.3.pt').unlink()
    refused('no passages.3.pt')
    with pytest.raises(errors.ModelFolderError, match='no embeddings.N.pt in this folder'):
        SavedIndex(tmp_path / 'nowhere')


def test_one_object_of_a_file(tmp_path):
    (tmp_path / 'x').write_bytes(pickle.dumps({'a': [1, 'é']}))
    assert torch_file.read_object(tmp_path / 'x') == {'a': [1, 'é']}
    with pytest.raises(errors.ModelFolderError, match='no such file'):
        torch_file.read_object(tmp_path / 'y')
