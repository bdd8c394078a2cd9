"""A store and an index whose whole life is in a bucket: the same as on a disk."""

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.corpus import store_arrays, store_text
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import building, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from tests.testing import bucket
from tests.testing.fake_store import FakeEmbedder
from tests.testing.fake_tokenizer import FakeTokenizer
from tests.testing.rewritten_rows import rewrite_rows

READER, RETRIEVER = FakeTokenizer('reader', 101), FakeTokenizer('retriever', 50)
PASSAGES = [Passage(f'p{row}', f'Title {row}', '', ' '.join(f'w{row * 7 + word}' for word in range(1 + row % 5))) for row in range(29)]


@pytest.fixture
def server(tmp_path, monkeypatch):
    for module, name, value in ((building, 'SHARD_ROWS', 11), (building, 'CHUNK_ROWS', 3), (store_arrays, 'CHUNK_VALUES', 31),
                                (store_text, 'BATCH_ROWS', 4)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))
    with bucket.serving(monkeypatch) as serving:
        yield serving


def live(path) -> dict[str, np.ndarray]:
    """Builds, adds, deletes, rewrites and compacts below `path`; the embeddings by docid."""
    store = PassageStore.from_passages(PASSAGES[:20], f'{path}/store', reader_tokenizer=READER, retriever_tokenizer=RETRIEVER,
                                       progress=False)
    index = EmbeddingIndex.build(store, FakeEmbedder(), f'{path}/index', dtype='int8', progress=False)
    store.append([*PASSAGES[20:], Passage('p3', 'New', '', 'other words')], progress=False)
    assert index.add(store, FakeEmbedder(), progress=False) == 10
    index.delete(['p5', 'p28'], store)
    index = rewrite_rows(index.path, 9, np.full((5, 7), 2.5, np.float32), generation=6)
    index.compact(store)
    index, store = EmbeddingIndex.open(f'{path}/index'), PassageStore.open(index.store_path)
    index.check(store, FakeEmbedder())
    assert verification.verify(index.path) == [] and PassageStore.problems(store.path) == []
    assert list(store)[3:5] == [PASSAGES[4], PASSAGES[6]] and store.rows_of(['p3']).tolist() == [26]
    table, mesh = store.reader_table(), partitioning.make_mesh(devices=jax.devices()[:1])
    assert table.lengths.tolist() == [len(READER.encode(each.full_title) + READER.encode(each.text)) for each in store]
    assert np.asarray(index.device_arrays(mesh).embeddings).shape == (27, 7)
    assert [generation for _, _, generation in index.generations()] == [0, 6, 0]
    return dict(zip([store.docid(row) for row in range(27)], index.embeddings(np.arange(27)), strict=True))


def test_the_same_as_on_a_disk(server, tmp_path):
    in_bucket, on_disk = live('gs://some-bucket/deep'), live(tmp_path)
    assert in_bucket.keys() == on_disk.keys() and not any(key[1].endswith('lock') for key in server.objects)
    for docid, embedding in on_disk.items():
        np.testing.assert_array_equal(in_bucket[docid], embedding)


def test_damage_in_a_bucket_is_noticed(server):
    store = PassageStore.from_passages(PASSAGES, 'gs://some-bucket/store', reader_tokenizer=READER, retriever_tokenizer=RETRIEVER,
                                       progress=False)
    index = EmbeddingIndex.build(store, FakeEmbedder(), 'gs://some-bucket/index', progress=False)
    name = next(name for owner, name in server.objects if '000000000011-' in name and name.endswith('/c/2/0'))
    generation, content = server.objects['some-bucket', name]
    server.objects['some-bucket', name] = generation, b'x' + content[1:]
    with pytest.raises(errors.IndexFolderError, match='flipped bit'):
        index.embeddings(np.array([18]))
    assert [(each.first_row, each.stop_row) for each in verification.verify(index.path)] == [(17, 20)]
    del server.objects['some-bucket', name]
    with pytest.raises(errors.IndexFolderError, match='missing'):
        index.embeddings(np.array([18]))
    with pytest.raises(errors.IndexFolderError, match='rows 17 to 19'):
        EmbeddingIndex.open(index.path)
    text = next(name for _, name in server.objects if name.endswith('passages.arrow'))
    server.objects['some-bucket', text] = 1, b'another text'
    [problem] = PassageStore.problems(store.path)
    assert problem.path.endswith('passages.arrow') and (problem.first_row, problem.stop_row) == (0, 29)


def test_a_stopped_build_goes_on_in_a_bucket(server):
    store = PassageStore.from_passages(PASSAGES, 'gs://some-bucket/store', reader_tokenizer=READER, retriever_tokenizer=RETRIEVER,
                                       progress=False)
    with pytest.raises(RuntimeError):
        EmbeddingIndex.build(store, FakeEmbedder(stop_after=15), 'gs://some-bucket/index', progress=False)
    with pytest.raises(errors.IndexFolderError, match='not finished'):
        EmbeddingIndex.open('gs://some-bucket/index')
    again = FakeEmbedder()
    EmbeddingIndex.build(store, again, 'gs://some-bucket/index', progress=False)
    assert again.embedded == 29 - 14


def test_a_bucket_that_cannot_be_written(server):
    with pytest.raises(errors.StorageError, match='gs://read-only/store: .*PERMISSION_DENIED'):
        PassageStore.from_passages(PASSAGES, f'gs://{bucket.READ_ONLY}/store', progress=False)
    with pytest.raises(errors.StoreError, match='no such folder'):
        PassageStore.open('gs://some-bucket/nothing')
    with pytest.raises(errors.IndexFolderError, match='no such folder'):
        EmbeddingIndex.open('gs://some-bucket/nothing')
