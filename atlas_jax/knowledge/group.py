"""Several indexes searched as one, with their searchers: the knowledge of train, evaluate and
answer.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.knowledge.index_with_store import EmbeddingModel, Index, padded_rows
from atlas_jax.runtime import hosts
from atlas_jax.searchers import codes_files, fitting, int8, on_host
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostSearcher
from atlas_jax.tasks.task import TaskExample


class IndexGroup:
    """One index or more; the rows of one follow those of the one before, padding included.

    Raises:
      ConfigError: no index, or indexes of different sizes or types.
    """

    def __init__(self, indexes: Sequence[Index]):
        self.indexes = tuple(indexes)
        kinds = {(index.index.dim, index.index.dtype) for index in self.indexes}
        # Their rows become one array, which has one width and one type.
        if len(kinds) != 1:
            found = ', '.join(f'{index.index.path}: {index.index.dim} x {index.index.dtype}'
                              for index in self.indexes) or 'none'
            raise errors.ConfigError('indexes that are searched together must have one dim and '
                                     f'one dtype, found {found}')
        # The last result by name, with the objects that it was made from; it is made again when one
        # of them is another object. A single index keeps it beyond this group.
        self._kept: dict[Any, tuple[tuple, Any]] = (
            self.indexes[0].derived if len(self.indexes) == 1 else {})

    def token_lengths(self, reader_queries: np.ndarray) -> types.TokenLengths:
        """Returns the token counts that stream capacities are chosen from; `reader_queries` [n]
        int.
        """
        parts = [index.token_lengths(reader_queries) for index in self.indexes]
        return types.TokenLengths(np.concatenate([part.reader_passages for part in parts]),
                                  np.concatenate([part.retriever_passages for part in parts]),
                                  reader_queries)

    def knowledge(self, atlas: EmbeddingModel, *, retriever_tokens: bool = False,
                  embeddings: bool = True, search: SearchConfig | None = None,
                  room: bool = False) -> types.Knowledge:
        """Returns indexes and token tables on the model's devices; caches them.

        Args:
          atlas: the model; it must have built every index.
          retriever_tokens: includes the passages in the retriever's tokens, to embed them in a
            step.
          embeddings: includes the index; otherwise the host must search.
          search: how passages are found. The int8 searcher needs an int8 copy of the index, the
            codes searcher its codes. With tokens "host" the token tables are left out.
          room: adds empty rows after the last index; see Index.knowledge.

        Raises:
          IndexFolderError, StoreError: the same errors as Index.check, or codes that are missing or
            do not fit. ConfigError: codes of several indexes.
        """
        on_devices = search is None or search.tokens == 'device'
        parts = tuple(
            index.knowledge(atlas, tokens=on_devices, retriever_tokens=retriever_tokens,
                            embeddings=embeddings, room=room and index is self.indexes[-1])
            for index in self.indexes)
        by_rows = partitioning.sharding(atlas.mesh, 'passages')
        whole = parts[0] if len(parts) == 1 else self._keep('whole', jax.tree.leaves(parts),
                                                            lambda: hosts.join_rows(parts, by_rows))
        arrays = whole.index
        if search is not None and search.scans_codes and arrays is not None:
            whole = whole.replace(codes=self._codes(search.metric, arrays, atlas.mesh))
        # An int8 index needs no copy.
        if search is None or not search.scans_int8 or arrays is None or arrays.scales is not None:
            return whole
        scanned = self._keep(
            ('scanned', search.metric, search.scan_share), jax.tree.leaves(arrays),
            lambda: int8.scanned_rows(arrays, atlas.mesh, search.metric, search.scan_share))
        return whole.replace(scanned=scanned)

    def _codes(self, metric: str, arrays: types.IndexArrays,
               mesh: jax.sharding.Mesh) -> types.Codes:
        if len(self.indexes) > 1:
            raise errors.ConfigError('the searcher "codes" scans one index on the devices, found '
                                     f"{len(self.indexes)}; set SearchConfig.rescore = 'host', or "
                                     'choose another searcher')
        index = self.indexes[0].index
        return self._keep(('codes', metric), [arrays.embeddings, arrays.valid],
                          lambda: codes_files.open_for(index, metric).device_arrays(
                              mesh, arrays.valid.shape[0], index.deleted))

    def host_searcher(self, atlas: EmbeddingModel, search: SearchConfig,
                      room: bool = False) -> HostSearcher:
        """Returns the searcher of the host that `search` names, and caches it; for `room` see
        `knowledge`.

        Raises:
          IndexFolderError, StoreError: the same errors as Index.check, or the fit of hybrid search
            is damaged. ConfigError: a package is missing.
        """
        for index in self.indexes:
            index.check(atlas)
        # Ids count padding rows on the host too, so that a row has the same number in the graph.
        first_rows = self.first_rows(atlas.mesh)
        parts = [
            on_host.SearcherPart(index.index, index.store, first)
            for index, first in zip(self.indexes, first_rows, strict=True)]
        # Before the cache is read: a new fit makes another searcher.
        search = fitting.apply(search,
                               [(index.index, index.store.fingerprint) for index in self.indexes])
        # Every change of an index makes a new array of deletions.
        made_of = [index.index.deleted for index in self.indexes]
        return self._keep((search, room), made_of, lambda: on_host.make(
            search, parts, lambda: self.knowledge(atlas, search=search, room=room), atlas.mesh))

    def first_rows(self, mesh: jax.sharding.Mesh) -> list[int]:
        """Returns the first row of each index in the group."""
        rows = [padded_rows(len(index.index), mesh) for index in self.indexes]
        return [0, *np.cumsum(rows)[:-1].tolist()]

    def locate(self, row: int, mesh: jax.sharding.Mesh) -> tuple[Index, int]:
        """Returns the index of a row of the group, and its row there."""
        first_rows = self.first_rows(mesh)
        # The last index that starts at the row or before it.
        number = int(np.searchsorted(first_rows, row, side='right')) - 1
        return self.indexes[number], row - first_rows[number]

    def passage(self, row: int, mesh: jax.sharding.Mesh) -> Passage:
        """Returns the passage of a row of the group."""
        index, place = self.locate(row, mesh)
        return index.store[place]

    def rows_of(self, docid: str, mesh: jax.sharding.Mesh) -> list[int]:
        """Returns the group's rows with a passage, or with the pieces of a document (id#0, id#1,
        ...). Raises StoreError: damaged.
        """
        return [
            first_row + row
            for index, first_row in zip(self.indexes, self.first_rows(mesh), strict=True)
            for row in index.store.rows_of_document(docid)]

    def _keep(self, name: Hashable, made_of: Sequence[Any], make: Callable[[], Any]) -> Any:
        known = self._kept.get(name)
        if known is None or len(known[0]) != len(made_of) or any(
                a is not b for a, b in zip(known[0], made_of, strict=True)):
            known = self._kept[name] = (tuple(made_of), make())
        return known[1]


def open_indexes(folders: str | Sequence[str] | None, force: bool = False) -> list[Index]:
    """Opens the index in a folder, or in each of several; `force` accepts an index that another
    model built.

    Raises IndexFolderError, StoreError.
    """
    folders = [folders] if isinstance(folders, str) else folders or []
    return [Index.open(folder, force=force) for folder in folders]


def as_group(index: Index | Sequence[Index] | IndexGroup | None) -> IndexGroup | None:
    """Returns the group of an index or of several, the group itself, or None for None. Raises
    ConfigError: see IndexGroup.
    """
    if index is None or isinstance(index, IndexGroup):
        return index
    return IndexGroup([index] if isinstance(index, Index) else index)


def kept_rows(group: IndexGroup | None, examples: Sequence[TaskExample],
              mesh: jax.sharding.Mesh) -> dict[int, list[int]] | None:
    """Returns the rows that must not be retrieved, by example_id: the example's own passage and its
    hidden ones. Returns None if no example has any.
    """
    # Examples made from questions, as in most tasks, have none.
    docids = {
        example.example_id: (*filter(None, [example.own_docid]), *example.hidden_docids)
        for example in examples
        if example.own_docid is not None or example.hidden_docids}
    if group is None or not docids:
        return None
    rows = {
        docid: group.rows_of(docid, mesh)
        for docid in {docid for each in docids.values() for docid in each}}
    return {example_id: [row for docid in each for row in rows[docid]]
            for example_id, each in docids.items()}
