"""Imports an index that the original Atlas saved as a store and an index, with the same numbers."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import tqdm

from atlas_jax import errors
from atlas_jax.conversion.original_index import SavedIndex
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index.building import RowEmbedder
from atlas_jax.index.embedded_by import EmbeddedBy
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.knowledge.index_with_store import EmbeddingModel, Index

_SAMPLE_ROWS = 64
# Length of the difference, relative to the embedding. Half precision, and a limit that cuts a few
# passages elsewhere, stay below it.
_MOST_DIFFERENCE = 0.05


class _SavedEmbedder:
    """A RowEmbedder that returns saved embeddings."""

    def __init__(self, saved: SavedIndex, record: EmbeddedBy):
        self._saved, self.record, self.dim = saved, record, saved.dim
        self.fingerprint = record.fingerprint

    def rows_of(self, store: PassageStore, first: int,
                stop: int) -> Callable[[np.ndarray, tqdm.tqdm | None], np.ndarray]:
        """See building.RowEmbedder."""
        def take(rows: np.ndarray, bar: tqdm.tqdm | None) -> np.ndarray:
            if bar is not None:
                bar.update(len(rows))
            return self._saved.embeddings(rows + first)

        return take


def import_saved(path: str | os.PathLike, store_path: str | os.PathLike,
                 index_path: str | os.PathLike, atlas: EmbeddingModel, *, dtype: str = 'float32',
                 row_ids: bool = False, force: bool = False,
                 show_progress: bool = True) -> tuple[Index, float]:
    """Makes a store and an index from the passages and embeddings that the original saved, with one
    shard in memory at a time.

    The files do not name the model that embedded them. So `atlas` embeds a sample of the passages,
    and the index is recorded as made by it if the embeddings agree. A killed import continues after
    the embeddings that it has copied.

    Args:
      path: the folder with `embeddings.N.pt` and `passages.N.pt`.
      store_path: the store to write.
      index_path: the index to write.
      atlas: the model whose retriever made the embeddings.
      dtype: type of the embeddings, float32, bfloat16 or int8; float32 keeps half precision
        exactly.
      row_ids: uses row numbers as docids, for files with repeated ids.
      force: accepts a model whose embeddings differ.
      show_progress: shows bars.

    Returns:
      The index, and the median difference of the sample, 0.01 for one per cent of an embedding's
      length.

    Raises:
      ModelFolderError: a file is missing, damaged, or not what the original writes.
      IndexFolderError: the model embeds otherwise, or the index cannot be written. StoreError,
        DiskFullError, StorageError.
    """
    saved, embedder = SavedIndex(pathlib.Path(path)), atlas.embedder()
    if saved.dim != embedder.dim:
        raise errors.IndexFolderError(f'{path}: embeddings of {saved.dim} numbers, those of this '
                                      f'model have {embedder.dim}; give the model '
                                      'that made them')
    store = PassageStore.from_passages(saved.passages(row_ids), store_path,
                                       reader_tokenizer=atlas.reader_tokenizer,
                                       retriever_tokenizer=atlas.retriever_tokenizer,
                                       progress=show_progress)
    difference = _difference(saved, store, embedder)
    if difference > _MOST_DIFFERENCE and not force:
        raise errors.IndexFolderError(f'{path}: this model embeds the same passages otherwise '
                                      f'(median difference {difference:.0%}, '
                                      f'expected at most {_MOST_DIFFERENCE:.0%}); give the model '
                                      'that made them, or --force')
    built = EmbeddingIndex.build(store, _SavedEmbedder(saved, embedder.record), index_path,
                                 dtype=dtype, progress=show_progress)
    return Index(built, store), difference


def _difference(saved: SavedIndex, store: PassageStore, embedder: RowEmbedder) -> float:
    """Returns the median distance of saved embeddings from those of the model, by their length."""
    rows = np.unique(np.linspace(0, saved.rows - 1, _SAMPLE_ROWS).astype(np.int64))
    theirs = saved.embeddings(rows)
    # Row by row: the sample is spread over all shards, and a table of all tokens would fill the
    # memory.
    ours = np.concatenate([
        embedder.rows_of(store, row, row + 1)(np.zeros(1, np.int64), None) for row in rows.tolist()
    ])
    lengths = np.linalg.norm(theirs, axis=1)
    return float(
        np.median(np.linalg.norm(ours - theirs, axis=1) / np.where(lengths > 0, lengths, 1)))
