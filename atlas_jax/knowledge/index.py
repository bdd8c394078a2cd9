"""An index with the passage store that it belongs to: built, changed, checked, and laid out on the devices."""

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
from atlas_jax.tokenizers.bert import BertTokenizer
from atlas_jax.tokenizers.t5 import T5Tokenizer

_LEAST_ROOM, _MOST_ROOM = 64, 65536  # rows of a device
_LARGE, _TILE_ROWS = 65536, 32  # a device's rows that are searched in chunks; rows of a tile of int8


@dataclasses.dataclass(frozen=True)
class Found:
    """A passage that a search found.

    Attributes:
      score: what the searcher orders by: the inner product with the query unless told otherwise.
      index: the folder of the index it is in.
    """

    passage: Passage
    score: float
    index: str = ''


class EmbeddingModel(Protocol):
    """The part of a model that an index depends on. model.AtlasModel is one.

    text_max_tokens, retriever_max_tokens  limits of an input; a passage's tokens on the devices are cut there
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

    def search(self, questions: Sequence[str], index: 'Index', top_k: int, search: SearchConfig | str | None = None) -> list[list[Found]]:
        """Returns the passages found for each question, best first."""


class Index:
    """Embeddings on disk together with the passage store they belong to.

    Attributes:
      index: the embeddings, their manifest and tombstones.
      store: the passages.
      force: takes models that did not build the index; what is found is then of no use, unless one knows better.
      derived: what was made of this index for a device or a search, kept for the next call; knowledge/group.py fills it.
    """

    def __init__(self, index: EmbeddingIndex, store: PassageStore, force: bool = False):
        self.index, self.store, self.force = index, store, force
        self.derived: dict[Any, tuple[tuple, Any]] = {}
        self._knowledge: dict[tuple, Any] = {}  # parts of types.Knowledge

    @classmethod
    def build(cls, store: PassageStore, atlas: EmbeddingModel, path: str | os.PathLike, *, dtype: str = 'float32',
              show_progress: bool = True) -> 'Index':
        """Embeds every passage of the store with the model's passage encoder; resumes where a killed build stopped.

        Under jax.distributed every process calls it and embeds its share.

        Args:
          store: passages; tokenised here where it holds text alone.
          atlas: the model.
          path: the index's folder, on a disk or gs://….
          dtype: of the embeddings, float32, bfloat16 or int8.
          show_progress: whether to show bars.

        Raises:
          StoreError, IndexFolderError: the folder holds something else, or another process is writing. DiskFullError.
        """
        with hosts.together():
            if hosts.is_first():
                store.tokenize(atlas.reader_tokenizer, atlas.retriever_tokenizer, progress=show_progress)
        # Process 0 has written the token ids; the others see them in a store opened after that.
        store = store if hosts.is_first() else PassageStore.open(store.path)
        return cls(EmbeddingIndex.build(store, atlas.embedder(), path, dtype=dtype, progress=show_progress), store)

    @classmethod
    def open(cls, path: str | os.PathLike, store: PassageStore | str | os.PathLike | None = None, *, force: bool = False) -> 'Index':
        """Opens an index and its store (default: the store it was built from, found relative to the index).

        Raises:
          IndexFolderError, StoreError: missing or damaged.
        """
        # The index names its store, relative to itself where both are on a disk.
        index = EmbeddingIndex.open(path)
        store = index.store_path if store is None else store
        return cls(index, store if isinstance(store, PassageStore) else PassageStore.open(store), force)

    def check(self, atlas: EmbeddingModel) -> None:
        """Refuses a model that did not build this index (unless `force`), or whose tokenizers are not the store's.

        Raises:
          IndexFolderError, StoreError: naming what differs, with both values.
        """
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        # Tokenizers cannot be forced: other ids would be other words.
        self.index.check(self.store, atlas.embedder(), self.force)

    def search(self, questions: Sequence[str], atlas: SearchingModel, top_k: int = 5,
               search: SearchConfig | str | None = None) -> list[list[Found]]:
        """Returns the `top_k` passages of this index found for each question, best first; fewer where there are fewer.

        Args:
          questions: plain questions, or any texts.
          atlas: the model that built this index.
          top_k: passages a question gets.
          search: how, or the name of a searcher; None is exact.

        Raises:
          IndexFolderError, StoreError, ConfigError: as Atlas.search, which searches several indexes together too.
        """
        return atlas.search(questions, self, top_k, search)

    def replace(self, passages: Iterable[Passage], atlas: EmbeddingModel, *, show_progress: bool = True) -> int:
        """Adds passages; one whose docid is there already takes its place. Only these are embedded.

        A passage that is there as it is, embedded by this model, is left alone. So a call that was killed may be made again, wherever it
        stopped: what it had stored is embedded first, and not stored twice. `show_progress` shows bars.

        Returns:
          The number of rows added, with those that an earlier call had stored and not embedded.

        Raises:
          IndexFolderError, StoreError: as `check`, or another process is writing. DiskFullError.
        """
        self.store.check_tokenizers(atlas.reader_tokenizer, atlas.retriever_tokenizer)
        # Before anything is stored: passages without embeddings would be left behind.
        self.index.check_model(atlas.embedder(), self.store, self.force)
        added = self.index.add(self.store, atlas.embedder(), show_progress, self.force)
        with hosts.together():
            if hosts.is_first():
                self._append_missing(passages, self.index.rows_of_model(atlas.embedder(), self.store), show_progress)
        if not hosts.is_first():
            self.store = PassageStore.open(self.store.path)
        added += self.index.add(self.store, atlas.embedder(), show_progress, self.force)
        with hosts.together():
            # Codes grow with their index, or the next search would refuse them.
            if hosts.is_first():
                codes_building.extend_if_there(self.index, show_progress)
        self._forget()
        return added

    def _append_missing(self, passages: Iterable[Passage], usable: np.ndarray, progress: bool) -> None:
        """Appends those passages to the store that no `usable` row [rows] bool holds as they are. Raises as PassageStore.append."""
        seen: set[str] = set()

        def missing() -> Iterator[Passage]:
            for passage in passages:
                # What is no passage goes on: the store says so.
                if isinstance(passage, Passage):
                    # Here, for the store sees but one of a pair of which the other is left out.
                    if passage.docid in seen:
                        raise errors.StoreError(f'{self.store.path}: docid "{passage.docid}" occurs twice; give each passage its own')
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
            self.store.append(())  # which says that there are none

    def delete(self, docids: Sequence[str]) -> int:
        """Takes passages out of every later search; returns how many."""
        deleted = self.index.delete(docids, self.store)
        self._forget()
        return deleted

    def compact(self) -> bool:
        """Rewrites index and passages without the deleted ones; returns whether there was anything to do. Rows change, docids stay."""
        changed = self.index.compact(self.store)
        self.store = PassageStore.open(self.index.store_path)
        self._forget()
        return changed

    # Rows have moved or are gone: nothing made of the old ones may be used again.
    def _forget(self) -> None:
        self._knowledge.clear()
        self.derived.clear()

    def token_lengths(self, reader_queries: np.ndarray) -> types.TokenLengths:
        """Returns the token counts that stream capacities are chosen from; `reader_queries` [n] int."""
        return types.TokenLengths(np.asarray(self.store.reader_lengths), np.asarray(self.store.retriever_lengths), reader_queries)

    def knowledge(self, atlas: EmbeddingModel, *, tokens: bool = True, retriever_tokens: bool = False, embeddings: bool = True,
                  room: bool = False) -> types.Knowledge:
        """Returns index and token tables on the model's devices, rows sharded over all of them; kept for the next call.

        Args:
          atlas: the model; it must have built this index.
          tokens: without them, the host reads the passages (knowledge/token_rows.py).
          retriever_tokens: also the passages in the retriever's tokens, to embed them in the train step.
          embeddings: without them, the host must search.
          room: with empty rows behind the last, so that passages can be added without another program.

        Raises:
          IndexFolderError, StoreError: as `check`.
        """
        self.check(atlas)
        limits, mesh = {'reader_table': atlas.text_max_tokens, 'retriever_table': atlas.retriever_max_tokens}, atlas.mesh
        # Tables and embeddings are equally long, so that a row is the same number in each.
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
            reader_table=kept('reader_table', tokens, lambda: place(self.store.reader_table, limits['reader_table'], rows, mesh)),
            retriever_table=kept('retriever_table', tokens and retriever_tokens,
                                 lambda: place(self.store.retriever_table, limits['retriever_table'], rows, mesh)))


def padded_rows(rows: int, mesh: jax.sharding.Mesh, room: bool = False) -> int:
    """Returns how many rows an index of `rows` passages has on the devices: at least one each, equally many.

    With `room` they are so many that other numbers of passages come to the same: up to a sixteenth more, and at most 65,536 on a device.
    """
    local = max(1, -(-rows // mesh.size))
    if local > _LARGE:  # whole tiles, which a TPU slices without a copy (searchers/scan.py)
        local = -(-local // _TILE_ROWS) * _TILE_ROWS
    if room:
        step = min(max(_LEAST_ROOM, 1 << max(local.bit_length() - 5, 0)), _MOST_ROOM)
        local = -(-local // step) * step
    return local * mesh.size


def place(table_of: Callable[..., types.TokenTable], max_tokens: int, rows: int, mesh: jax.sharding.Mesh) -> types.TokenTable:
    """Lays a store's token table out on the mesh; each process reads its own devices' rows only.

    Args:
      table_of: the store's `reader_table` or `retriever_table`.
      max_tokens: width at which passages are cut.
      rows: of the result; those past the store's end are empty.
      mesh: devices, over all of which the rows are sharded.
    """
    parts: dict[int, types.TokenTable] = {}  # by first row

    def part(where: tuple[slice, ...]) -> types.TokenTable:
        start, stop, _ = where[0].indices(rows)
        # Callbacks come once a column; the table's three columns are read together.
        if start not in parts:
            parts[start] = table_of(max_tokens=max_tokens, rows=(start, stop))
        return parts[start]

    def put(name: str, empty: np.ndarray) -> jax.Array:
        sharding = partitioning.sharding(mesh, 'passages', *(None,) * (empty.ndim - 1))
        return jax.make_array_from_callback((rows, *empty.shape[1:]), sharding, lambda where: getattr(part(types.required(where)), name))

    empty = table_of(max_tokens=max_tokens, rows=(0, 0))
    return types.TokenTable(**{name: put(name, getattr(empty, name)) for name in ('tokens', 'title_lengths', 'lengths')})
