"""Several indexes searched as one, and the searchers over them: what train, evaluate and answer take their knowledge from."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import host, int8, protocol
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks.task import TaskExample


class IndexGroup:
    """One api.Index or more; the rows of one follow those of another, padding included.

    Raises ConfigError: no index, or indexes of different sizes or types.
    """

    def __init__(self, indexes: Sequence[Any]):
        self.indexes = tuple(indexes)
        kinds = {(index.index.dim, index.index.dtype) for index in self.indexes}
        if len(kinds) != 1:
            found = ', '.join(f'{index.index.path}: {index.index.dim} x {index.index.dtype}' for index in self.indexes) or 'none'
            raise errors.ConfigError(f'indexes that are searched together must have one dim and one dtype, found {found}')
        # What was made last and what it was made of: made again when a part is no longer the same object.
        self._kept: dict[Any, tuple[tuple, Any]] = {}

    def token_lengths(self, reader_queries: np.ndarray) -> spec_lib.TokenLengths:
        """What stream capacities are chosen from."""
        parts = [index.token_lengths(reader_queries) for index in self.indexes]
        return spec_lib.TokenLengths(np.concatenate([part.reader_passages for part in parts]),
                                     np.concatenate([part.retriever_passages for part in parts]), reader_queries)

    def knowledge(self, atlas: Any, *, retriever_tokens: bool = False, embeddings: bool = True,
                  search: SearchConfig | None = None) -> types.Knowledge:
        """Indexes and token tables on the model's devices, kept for the next call.

        Args:
          atlas: the model; it must have built every index.
          retriever_tokens: also the passages in the retriever's tokens, to embed them in a step.
          embeddings: without them, the host must search.
          search: for the int8 searcher an int8 copy is made of an index that is not int8.
        """
        parts = tuple(index.knowledge(atlas, retriever_tokens=retriever_tokens, embeddings=embeddings) for index in self.indexes)
        whole = parts[0] if len(parts) == 1 else self._keep('whole', jax.tree.leaves(parts), lambda: _joined(parts, atlas.mesh))
        if search is None or not search.scans_int8 or not embeddings or whole.index.scales is not None:
            return whole
        scanned = self._keep(('scanned', search.metric, search.scan_share), jax.tree.leaves(whole.index),
                             lambda: int8.scanned_rows(whole.index, atlas.mesh, search.metric, search.scan_share))
        return whole.replace(scanned=scanned)

    def host_searcher(self, atlas: Any, search: SearchConfig) -> protocol.HostSearcher:
        """The searcher of the host that `search` names, kept for the next call."""
        for index in self.indexes:
            index.check(atlas)
        first_rows = self._first_rows(atlas.mesh)
        parts = [host.Part(index.index, index.store, first) for index, first in zip(self.indexes, first_rows, strict=True)]
        # Every change of an index reads its deletions anew.
        made_of = [index.index.deleted for index in self.indexes]
        return self._keep(search, made_of, lambda: host.make(search, parts, lambda: self.knowledge(atlas, search=search), atlas.mesh))

    def locate(self, row: int, mesh: jax.sharding.Mesh) -> tuple[Any, int]:
        """The index that a row of the whole belongs to, and its row there."""
        first_rows = self._first_rows(mesh)
        number = int(np.searchsorted(first_rows, row, side='right')) - 1
        return self.indexes[number], row - first_rows[number]

    def for_step(self, atlas: Any, spec: spec_lib.StepSpec) -> tuple[types.Knowledge, protocol.HostSearcher | None]:
        """What a step made for `spec` reads, and the searcher of the host that it needs; None where it searches itself."""
        knowledge = self.knowledge(atlas, retriever_tokens=spec.needs_retriever_tokens, embeddings=spec.needs_embeddings,
                                   search=spec.search)
        return knowledge, self.host_searcher(atlas, spec.search) if spec.search.on_host else None

    def rows_of(self, docid: str, mesh: jax.sharding.Mesh) -> list[int]:
        """The rows of the whole that hold a passage, one at most in each index."""
        rows = []
        for index, first_row in zip(self.indexes, self._first_rows(mesh), strict=True):
            with contextlib.suppress(errors.StoreError):
                rows.append(first_row + int(index.store.rows_of([docid])[0]))
        return rows

    def _first_rows(self, mesh: jax.sharding.Mesh) -> list[int]:
        rows = [padded_rows(len(index.index), mesh) for index in self.indexes]
        return [0, *np.cumsum(rows)[:-1].tolist()]

    def _keep(self, name: Any, made_of: Sequence[Any], make: Callable[[], Any]) -> Any:
        known = self._kept.get(name)
        if known is None or len(known[0]) != len(made_of) or any(a is not b for a, b in zip(known[0], made_of, strict=True)):
            known = self._kept[name] = (tuple(made_of), make())
        return known[1]


def of(index: Any) -> IndexGroup | None:
    """The group of an api.Index, of a sequence of them, or of a group; None of None."""
    if index is None or isinstance(index, IndexGroup):
        return index
    return IndexGroup(index) if isinstance(index, Sequence) else index.group


def own_rows(group: IndexGroup | None, examples: Sequence[TaskExample], mesh: jax.sharding.Mesh) -> dict[str, list[int]] | None:
    """The rows of the passages that examples were made of, by docid; None where no example was made of one."""
    docids = {example.own_docid for example in examples if example.own_docid is not None}
    return {docid: group.rows_of(docid, mesh) for docid in docids} if group is not None and docids else None


def padded_rows(rows: int, mesh: jax.sharding.Mesh) -> int:
    """Rows that an index of `rows` passages has on the devices."""
    return max(1, -(-rows // mesh.size)) * mesh.size


def _joined(parts: Sequence[types.Knowledge], mesh: jax.sharding.Mesh) -> types.Knowledge:
    """The rows of all parts, sharded over all devices."""
    def join(*columns: jax.Array) -> jax.Array:
        if columns[0].ndim == 1:
            return jnp.concatenate(columns)
        width = max(column.shape[1] for column in columns)  # token tables may differ in width
        dtype = max((column.dtype for column in columns), key=lambda dtype: dtype.itemsize)
        return jnp.concatenate([jnp.pad(column.astype(dtype), ((0, 0), (0, width - column.shape[1]))) for column in columns])

    run = jax.jit(lambda *parts: jax.tree.map(join, *parts), out_shardings=partitioning.sharding(mesh, 'passages'))
    return run(*parts)


def place(table_of: Callable[..., types.TokenTable], max_tokens: int, rows: int, mesh: jax.sharding.Mesh) -> types.TokenTable:
    """A store's table on the mesh, padded with empty rows to the index's row count; each process reads its own devices' rows only."""
    parts: dict[int, types.TokenTable] = {}  # by first row

    def part(where: tuple[slice, ...]) -> types.TokenTable:
        start, stop, _ = where[0].indices(rows)
        if start not in parts:
            parts[start] = table_of(max_tokens=max_tokens, rows=(start, stop))
        return parts[start]

    def put(name: str, empty: np.ndarray) -> jax.Array:
        sharding = partitioning.sharding(mesh, 'passages', *(None,) * (empty.ndim - 1))
        return jax.make_array_from_callback((rows, *empty.shape[1:]), sharding, lambda where: getattr(part(where), name))

    empty = table_of(max_tokens=max_tokens, rows=(0, 0))
    return types.TokenTable(**{name: put(name, getattr(empty, name)) for name in ('tokens', 'title_lengths', 'lengths')})
