"""An index with its passage store: building, changing, checking, and the layout on the devices."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.runtime import hosts
from atlas_jax.searchers import codes_building
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tokenizers.bert_tokenizer import BertTokenizer
from atlas_jax.tokenizers.t5_tokenizer import T5Tokenizer

_LEAST_ROOM, _MOST_ROOM = 64, 65536  # rows per device
# rows per device above which they are searched in chunks; rows of an int8 tile
_LARGE, _TILE_ROWS = 65536, 32


@dataclasses.dataclass(frozen=True)
class FoundPassage:
    """A passage that a search found.

    Attributes:
      score: the searcher's score: by default the inner product with the query.
      index: folder of the passage's index.
    """

    passage: Passage
    score: float
    index: str = ''


class EmbeddingModel(Protocol):
    """The part of a model that an index depends on. model.AtlasModel is one.

    text_max_tokens, retriever_max_tokens  limits of an input, at which a passage's tokens on the
                                           devices are cut
    """

    @property
    def reader_tokenizer(self) -> T5Tokenizer: ...

    @property
    def retriever_tokenizer(self) -> BertTokenizer: ...

    @property
    def mesh(self) -> jax.sharding.Mesh: ...

    @property
    def text_max_tokens(self) -> int: ...

    @property
    def retriever_max_tokens(self) -> int: ...

    def embedder(self) -> PassageEmbedder:
        """Returns the passage encoder with its format."""


class SearchingModel(Protocol):
    """The part of a model that searches. api.Atlas is one."""

    def search(self, questions: Sequence[str], index: 'Index', top_k: int,
               search: SearchConfig | str | None = None) -> list[list[FoundPassage]]:
        """Returns the passages found for each question, best first."""


class Index:
    """Embeddings on disk together with their passage store.

    Attributes:
      index: the embeddings, their manifest and tombstones.
      store: the passages.
      force: accepts models that did not build the index. Their results are usually useless.
      derived: cache of the arrays and searchers made from this index, filled by knowledge/group.py.
    """

    def __init__(self, index: EmbeddingIndex, store: PassageStore, force: bool = False):
        self.index, self.store, self.force = index, store, force
        self.derived: dict[Any, tuple[tuple, Any]] = {}
        self._knowledge: dict[tuple, Any] = {}  # parts of types.Knowledge

    @classmethod
    def build(cls, store: PassageStore, atlas: EmbeddingModel, path: str | os.PathLike, *,
              dtype: str = 'float32', show_progress: bool = True) -> 'Index':
        """Embeds every passage of the store with the model's passage encoder; resumes where a
        killed build stopped.

        Under jax.distributed every process calls it and embeds its share.

        Args:
          store: the passages; a store without tokens is tokenised here.
          atlas: the model.
          path: folder of the index, on a disk or gs://….
          dtype: type of the embeddings, float32, bfloat16 or int8.
          show_progress: shows progress bars.

        Raises:
          StoreError, IndexFolderError: the folder holds something else, or another process is
            writing. DiskFullError.
        """
        with hosts.together():
            if hosts.is_first():
                store.tokenize(atlas.reader_tokenizer, atlas.retriever_tokenizer,
                               progress=show_progress)
        # Process 0 has written the token ids; the others must open the store again to see them.
        store = store if hosts.is_first() else PassageStore.open(store.path)
        return cls(
            EmbeddingIndex.build(store, atlas.embedder(), path, dtype=dtype,
                                 progress=show_progress), store)

    @classmethod
    def open(cls, path: str | os.PathLike, store: PassageStore | str | os.PathLike | None = None, *,
             force: bool = False) -> 'Index':
        """Opens an index and its store; None opens the store it was built from, relative to the
        index.

        Raises:
          IndexFolderError, StoreError: missing or damaged.
        """
        index = EmbeddingIndex.open(path)
        store = index.store_path if store is None else store
        return cls(index, store if isinstance(store, PassageStore) else PassageStore.open(store),
                   force)

    def check(self, atlas: EmbeddingModel) -> None:
        """Checks that the model built this index (unless `force`), with the store's tokenizers.

        Raises:
          IndexFolderError, StoreError: name the difference, with both values.
        """
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        # Tokenizers cannot be forced: the same ids would mean other words.
        self.index.check(self.store, atlas.embedder(), self.force)

    def search(self, questions: Sequence[str], atlas: SearchingModel, top_k: int = 5,
               search: SearchConfig | str | None = None) -> list[list[FoundPassage]]:
        """Returns the `top_k` passages of this index found for each question, best first; fewer if
        the index has fewer. Atlas.search also searches several indexes together.

        Args:
          questions: plain questions, or any texts.
          atlas: the model that built this index.
          top_k: number of passages for each question.
          search: how passages are found, or the name of a searcher; None is exact.

        Raises:
          IndexFolderError, StoreError, ConfigError: the same errors as Atlas.search.
        """
        return atlas.search(questions, self, top_k, search)

    def replace(self, passages: Iterable[Passage], atlas: EmbeddingModel, *,
                show_progress: bool = True) -> int:
        """Adds passages, and embeds only them. A passage replaces an earlier one with its docid.

        An identical passage that this model has embedded is skipped. A killed call may therefore be
        repeated: passages that it stored are embedded first, and not stored twice.

        Args:
          passages: passages to add.
          atlas: the model that built this index.
          show_progress: shows progress bars.

        Returns:
          The number of rows added, including those that an earlier call stored without embedding.

        Raises:
          IndexFolderError, StoreError: the same errors as `check`, or another process is writing.
            DiskFullError.
        """
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        # Before anything is stored: an error must not leave passages without embeddings.
        self.index.check_model(atlas.embedder(), self.store, self.force)
        added = self.index.add(self.store, atlas.embedder(), show_progress, self.force)
        with hosts.together():
            if hosts.is_first():
                self._append_missing(passages,
                                     self.index.rows_of_model(atlas.embedder(),
                                                              self.store), show_progress)
        if not hosts.is_first():
            self.store = PassageStore.open(self.store.path)
        added += self.index.add(self.store, atlas.embedder(), show_progress, self.force)
        with hosts.together():
            # Codes must cover the whole index, or the next search refuses them.
            if hosts.is_first():
                codes_building.extend_if_there(self.index, show_progress)
        self._forget()
        return added

    def _append_missing(self, passages: Iterable[Passage], usable: np.ndarray,
                        progress: bool) -> None:
        """Appends the passages to the store that no `usable` row [rows] bool holds unchanged.

        Raises the same errors as PassageStore.append.
        """
        seen: set[str] = set()

        def missing() -> Iterator[Passage]:
            for passage in passages:
                # Anything else goes through: the store refuses it.
                if isinstance(passage, Passage):
                    # The store does not see passages that are skipped, so it would miss some twins.
                    if passage.docid in seen:
                        raise errors.StoreError(f'{self.store.path}: docid "{passage.docid}" '
                                                'occurs twice; give each passage its own')
                    seen.add(passage.docid)
                    row = self.store.find(passage.docid)
                    if row is not None and usable[row] and self.store[row] == passage:
                        continue
                yield passage

        remaining = missing()
        first = next(remaining, None)
        if first is not None:
            self.store.append(itertools.chain([first], remaining), progress=progress)
        elif not seen:
            self.store.append(())  # raises: no passages

    def delete(self, docids: Sequence[str]) -> int:
        """Removes passages from all later searches; returns their number."""
        deleted = self.index.delete(docids, self.store)
        self._forget()
        return deleted

    def compact(self) -> bool:
        """Rewrites index and passages without the deleted ones; returns False if none were deleted.
        Row numbers change, docids stay.
        """
        changed = self.index.compact(self.store)
        self.store = PassageStore.open(self.index.store_path)
        self._forget()
        return changed

    # Rows have moved or disappeared, so caches of the old rows are invalid.
    def _forget(self) -> None:
        self._knowledge.clear()
        self.derived.clear()

    def token_lengths(self, reader_queries: np.ndarray) -> types.TokenLengths:
        """Returns the token counts that stream capacities are chosen from; `reader_queries` [n]
        int.
        """
        return types.TokenLengths(np.asarray(self.store.reader_lengths),
                                  np.asarray(self.store.retriever_lengths), reader_queries)

    def knowledge(self, atlas: EmbeddingModel, *, tokens: bool = True,
                  retriever_tokens: bool = False, embeddings: bool = True,
                  room: bool = False) -> types.Knowledge:
        """Returns index and token tables on the model's devices, rows sharded over all of them;
        caches them.

        Args:
          atlas: the model; it must have built this index.
          tokens: includes the token tables; otherwise the host reads the passages
            (knowledge/token_rows.py).
          retriever_tokens: includes the passages in the retriever's tokens, to embed them in a
            step.
          embeddings: includes the index; otherwise the host must search.
          room: adds empty rows at the end, so that passages can be added without a new program.

        Raises:
          IndexFolderError, StoreError: the same errors as `check`.
        """
        self.check(atlas)
        limits, mesh = {
            'reader_table': atlas.text_max_tokens,
            'retriever_table': atlas.retriever_max_tokens}, atlas.mesh
        # Tables and embeddings have equally many rows, so that a row has one number in all.
        rows = padded_rows(len(self.index), mesh, room)

        def kept(name: str, wanted: bool, make: Callable[[], Any]) -> Any:
            if not wanted:
                return None
            key = (name, mesh, limits.get(name), rows)
            if key not in self._knowledge:
                self._knowledge[key] = make()
            return self._knowledge[key]

        return types.Knowledge(
            index=kept('index', embeddings, lambda: self.index.device_arrays(mesh, rows)),
            reader_table=kept(
                'reader_table', tokens,
                lambda: place(self.store.reader_table, limits['reader_table'], rows, mesh)),
            retriever_table=kept(
                'retriever_table', tokens and retriever_tokens,
                lambda: place(self.store.retriever_table, limits['retriever_table'], rows, mesh)))


def padded_rows(rows: int, mesh: jax.sharding.Mesh, room: bool = False) -> int:
    """Returns how many rows an index of `rows` passages has on the devices: equally many on each,
    at least one.

    `room` rounds up, so that similar numbers of passages get the same rows: up to a sixteenth more,
    and at most 65,536 more per device.
    """
    local = max(1, -(-rows // mesh.size))
    if local > _LARGE:  # whole tiles, which a TPU slices without a copy (searchers/scan.py)
        local = -(-local // _TILE_ROWS) * _TILE_ROWS
    if room:
        step = min(max(_LEAST_ROOM, 1 << max(local.bit_length() - 5, 0)), _MOST_ROOM)
        local = -(-local // step) * step
    return local * mesh.size


def place(table_of: Callable[..., types.TokenTable], max_tokens: int, rows: int,
          mesh: jax.sharding.Mesh) -> types.TokenTable:
    """Lays a store's token table out on the mesh; each process reads its own devices' rows only.

    Args:
      table_of: the store's `reader_table` or `retriever_table`.
      max_tokens: width at which passages are cut.
      rows: rows of the result; those after the store's end are empty.
      mesh: devices; the rows are sharded over all of them.
    """
    parts: dict[int, types.TokenTable] = {}  # by first row

    def part(where: tuple[slice, ...]) -> types.TokenTable:
        start, stop, _ = where[0].indices(rows)
        # One callback per column; the table's three columns are read together.
        if start not in parts:
            parts[start] = table_of(max_tokens=max_tokens, rows=(start, stop))
        return parts[start]

    def put(name: str, empty: np.ndarray) -> jax.Array:
        sharding = partitioning.sharding(mesh, 'passages', *(None,) * (empty.ndim - 1))
        return jax.make_array_from_callback(
            (rows, *empty.shape[1:]), sharding,
            lambda where: getattr(part(types.required(where)), name))

    empty = table_of(max_tokens=max_tokens, rows=(0, 0))
    return types.TokenTable(**{
        name: put(name, getattr(empty, name)) for name in ('tokens', 'title_lengths', 'lengths')})
