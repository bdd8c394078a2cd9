"""What index_test.py runs in every process: builds an index together, adds, deletes, compacts, and lays it over all devices."""

import pathlib
import sys

import jax
import numpy as np

from atlas_jax import errors, partitioning
from atlas_jax.index import building
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.models import contriever
from atlas_jax.runtime import hosts
from tests.testing import tiny
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages

folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
if how != 'alone':
    hosts.initialize()
building.SHARD_ROWS, building.CHUNK_ROWS = 5, 3
store = FakeStore(passages(29))
if how == 'fails':
    broken = FakeEmbedder(stop_after=0 if jax.process_index() == 1 else None)
    try:
        EmbeddingIndex.build(store, broken, folder, progress=False)
    except RuntimeError:
        print('own: killed')
    except errors.UserError as error:
        print(f'other: {error}')
    sys.exit(0)
params = contriever.init_params(tiny.RETRIEVER, jax.random.key(0))
with jax.default_matmul_precision('highest'):
    embedder = PassageEmbedder(tiny.RETRIEVER, jax.tree.map(np.asarray, params), tiny.SEGMENTS.retriever, 37, tokens_per_batch=79)
    index = EmbeddingIndex.build(store, embedder, folder, dtype='int8', progress=False)
    store.passages += passages(4, seed=1, prefix='new')
    assert index.add(store, embedder, progress=False) == 4
assert index.delete(['doc3', 'new2'], store) == 2
kept = store.copy_kept(folder / 'elsewhere', ~index.deleted)
assert index.compact(store) and len(index) == 31 and not index.deleted.any()
index.check_store(kept)
arrays = index.device_arrays(partitioning.make_mesh())
expected = index.embeddings(np.arange(31))
assert len(arrays.embeddings.addressable_shards) == 2
for part, scales in zip(arrays.embeddings.addressable_shards, arrays.scales.addressable_shards, strict=True):
    start, stop, _ = part.index[0].indices(len(arrays.embeddings))
    found = np.asarray(part.data).astype(np.float32) * np.asarray(scales.data)[:, None]
    np.testing.assert_array_equal(found[:31 - start], expected[start:stop])
print('done', jax.process_count(), len(arrays.embeddings))
