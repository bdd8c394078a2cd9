"""The index: embeddings of a store's passages on disk, changed by atomic commits and read by any number of devices."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import building, index_manifest, row_reader, shards, traces, verification
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts

DTYPES = tuple(shards.DTYPES)


class EmbeddingIndex:
    """One version of an index folder; a method that changes the folder moves this object to the version it commits.

    Under jax.distributed all processes call `build`, `add`, `delete` and `compact` together; they must see the same folder.

    path     the folder: a pathlib.Path, or the text gs://…
    deleted  [rows] bool, rows that searches must not find
    """

    def __init__(self, path: str | os.PathLike):
        """Opens the folder; see `open`."""
        self._folder = Folder(path)
        self.path = self._folder.path
        self._said_limits: set[int] = set()
        current = index_manifest.read(self._folder)
        try:
            self._load(current)
        except errors.IndexFolderError:
            newer = index_manifest.read(self._folder)
            if newer == current:
                raise
            self._load(newer)  # a writer committed it in between and removed the older files

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'EmbeddingIndex':
        """Opens an index folder without reading embeddings.

        Raises:
          IndexFolderError: no index there, or a file is missing, cut or damaged.
        """
        return cls(path)

    @classmethod
    def build(cls, store: PassageStore, embedder: building.RowEmbedder, path: str | os.PathLike, dtype: str = 'float32',
              progress: bool = True, generation: int = 0) -> 'EmbeddingIndex':
        """Embeds every passage of the store; passages that a later one of the same docid supersedes are deleted.

        An index already in the folder stays readable until the new one is complete. The new one then replaces it, deletions included. A
        build that was killed continues when the same build is run again.

        Args:
          store: the passages.
          embedder: the passage encoder.
          path: the folder; created if missing.
          dtype: of the stored embeddings, one of DTYPES.
          progress: whether to show a bar.
          generation: training step of the retriever.

        Raises:
          ConfigError: an unknown dtype.
          StoreError: the store was tokenised for another model.
          IndexFolderError: another process is writing, the folder holds something else, or an embedding is not finite.
          DiskFullError, StorageError: finished chunks stay, and the same call continues behind them.
        """
        if dtype not in DTYPES:
            raise errors.ConfigError(f'index dtype "{dtype}" is unknown; choose one of: {", ".join(DTYPES)}')
        folder = Folder(path)
        _check_folder(folder)
        with _writing(folder):
            before = index_manifest.read_if_whole(folder)
            # A damaged index may be built over; its revision is then unknown and counting begins at 1.
            job = building.make_job(store, embedder, 0, dtype, 1 + (before.revision if before else 0), generation)
            _embed_and_commit(folder, job, (), store.superseded(), store, embedder, progress)
            return cls(path)

    def add(self, store: PassageStore, embedder: PassageEmbedder, progress: bool = True, force: bool = False,
            generation: int = 0) -> int:
        """Embeds the passages that were appended to the store since the last build or add; older passages of the same docid are deleted.

        `force` accepts a model that did not embed the other passages.

        Returns:
          The number of passages added.

        Raises:
          IndexFolderError: as `build`, or the index was made from another store or by another model.
          StoreError, DiskFullError, StorageError: as `build`.
        """
        with _writing(self._folder):
            self._load(index_manifest.read(self._folder))
            self.check_model(embedder, store, force)
            self._check_store(store)
            # The manifest was read again under the lock: another process may have added rows since this object was opened.
            first = len(self)
            if len(store) == first:
                return 0
            # superseded() compares old and new rows alike, so passages embedded long ago are deleted here too.
            job = building.make_job(store, embedder, first, self._manifest.dtype, self._manifest.revision + 1, generation)
            deleted = np.concatenate([self.deleted, np.zeros(len(store) - first, bool)]) | store.superseded()
            # Old shards are named again, not copied: adding costs what is added.
            self._load(_embed_and_commit(self._folder, job, self._manifest.shards, deleted, store, embedder, progress))
            return len(store) - first

    def delete(self, docids: Sequence[str], store: PassageStore) -> int:
        """Deletes passages by docid. Searches no longer find them; their rows stay on disk until `compact`.

        Returns:
          The number of rows deleted by this call; rows deleted before do not count.

        Raises:
          StoreError: the store has no such docid.
          IndexFolderError: another store, a passage not yet in the index, or another writer.
          DiskFullError, StorageError: nothing was deleted.
        """
        with _writing(self._folder):
            self._load(index_manifest.read(self._folder))
            self._check_store(store)
            # The store knows the last row of a docid, which is the one that searches find.
            rows = np.unique(store.rows_of(docids))  # a docid may be given twice
            if len(rows) and rows[-1] >= len(self):
                raise errors.IndexFolderError(f'{self.path}: passage "{store.docid(int(rows[-1]))}" is in the store but not yet in '
                                              'the index; run `atlas-jax index add` first')
            # Without a fresh row there is nothing to commit, and the version stays.
            fresh = rows[~self.deleted[rows]]
            if len(fresh):
                # A copy: searchers of this process may still be reading the old one.
                deleted = self.deleted.copy()
                deleted[fresh] = True
                self._commit(dataclasses.replace(self._manifest, revision=self._manifest.revision + 1, deleted=int(deleted.sum())), deleted)
            return len(fresh)

    def compact(self, store: PassageStore) -> bool:
        """Rewrites the index and its passages without the deleted rows, and joins small shards; see building.py.

        Row numbers change; docids stay. Afterwards the passages are those at `store_path`.

        Returns:
          False if there was nothing to do.

        Raises:
          IndexFolderError: another store, one with passages that are not yet in the index, no passage left, or another writer.
          DiskFullError, StorageError: the index stays as it was.
        """
        with _writing(self._folder):
            self._load(index_manifest.read(self._folder))
            # Not _check_store: the new store would lack the passages that are not yet in the index.
            self.check_store(store)
            if self.deleted.all():
                raise errors.IndexFolderError(f'{self.path}: every passage is deleted, so nothing would be left; add some first')
            if not building.needs_compaction(self._manifest, self.deleted):
                return False
            with hosts.together():
                if hosts.is_first():
                    building.compact(self._folder, self._stored, self.deleted, store)
                    traces.remove(self._folder, index_manifest.read(self._folder))
            self._load(index_manifest.read(self._folder))
            return True

    def __len__(self) -> int:
        """Number of rows, deleted ones included."""
        return self._manifest.rows

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self._manifest.dim

    @property
    def dtype(self) -> str:
        """Type the embeddings are stored in, one of DTYPES."""
        return self._manifest.dtype

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that built the index."""
        return self._manifest.model_fingerprint

    @property
    def rows_digest(self) -> str:
        """16 hexadecimal digits that change with any embedding; deletions leave them."""
        # Searchers of the host are saved under it. They drop deleted rows themselves, so a deletion must not make them invalid.
        return self.digest_of(len(self))

    def digest_of(self, rows: int) -> str:
        """Returns the `rows_digest` that the index had with its first `rows` rows alone; '' if no shard ends there."""
        current = self._manifest
        entries = [dataclasses.astuple(entry) for entry in current.shards if entry.first_row < rows]
        if rows != sum(entry.rows for entry in current.shards[:len(entries)]):
            return ''
        return hashlib.sha256(json.dumps([current.dtype, current.dim, rows, entries]).encode()).hexdigest()[:16]

    @property
    def store_path(self) -> pathlib.Path | str:
        """Folder of its passages."""
        return index_manifest.store_path(self._folder, self._manifest)

    def rows_of_model(self, embedder: PassageEmbedder, store: PassageStore) -> np.ndarray:
        """Returns [rows] bool: True where a row is not deleted and has the embedding that this model would give it."""
        different = verification.differences(self._manifest, embedder, store)
        by_model = [np.full(entry.rows, entry.name not in different) for entry in self._manifest.shards]
        return np.concatenate([np.zeros(0, bool), *by_model]) & ~self.deleted

    def generations(self) -> list[tuple[int, int, int]]:
        """Returns (first row, number of rows, training step of the retriever that embedded them) of each run of rows, in row order."""
        # Shards are in row order, so neighbours of one generation make one run.
        runs = itertools.groupby(self._manifest.shards, lambda entry: entry.generation)
        parts = [(generation, list(entries)) for generation, entries in runs]
        return [(entries[0].first_row, sum(entry.rows for entry in entries), generation) for generation, entries in parts]

    def info(self) -> dict[str, Any]:
        """Returns the description that `atlas-jax index info` prints; `age` counts the steps that rows are behind the newest ones."""
        current, generations = self._manifest, self.generations()
        newest = max((generation for _, _, generation in generations), default=0)
        return {
            'path': str(self.path), 'rows': current.rows, 'deleted': current.deleted, 'dim': current.dim, 'dtype': current.dtype,
            'revision': current.revision, 'shards': len(current.shards), 'bytes': sum(shard.size_bytes for shard in self._stored.shards),
            'model_fingerprint': current.model_fingerprint,
            'embedded_by': [dataclasses.asdict(record) for record in current.models.values()],
            'store': str(self.store_path), 'store_fingerprint': current.store_fingerprint,
            'generations': [{'first_row': first, 'rows': rows, 'generation': generation, 'age': newest - generation}
                            for first, rows, generation in generations],
        }

    def check(self, store: PassageStore, embedder: PassageEmbedder, force: bool = False) -> None:
        """Raises IndexFolderError if the index was built by another model (unless `force`) or from another store, or lacks passages."""
        self.check_model(embedder, store, force)
        self.check_store(store)

    def check_store(self, store: PassageStore) -> None:
        """Raises IndexFolderError if the index was made from another store, or lacks passages of it."""
        self._check_store(store)
        # A row without an embedding would read as zeros, and a zero vector may well be the best of a bad lot.
        if len(store) != len(self):
            raise errors.IndexFolderError(f'{self.path}: holds {len(self)} passages, the store {store.path} has {len(store)}; '
                                          'run `atlas-jax index add`')

    def check_model(self, embedder: PassageEmbedder, store: PassageStore, force: bool = False) -> None:
        """Raises IndexFolderError if the model would embed any row otherwise (unless `force`), or to another size; names what differs.

        A limit that cuts passages elsewhere is said and not refused: rows keep the limit they were built with, whatever the model's is.
        """
        if embedder.dim != self.dim:
            raise errors.IndexFolderError(f'{self.path}: has embeddings of {self.dim} numbers, this model makes {embedder.dim}; '
                                          'build it again with `atlas-jax index build`')
        # An index without rows has no shard, and nothing of it is found.
        difference = next(iter(verification.differences(self._manifest, embedder, store, limits=False).values()), None)
        if difference is None:
            self._say_limit(embedder, store)
        elif not force:
            raise errors.IndexFolderError(
                f'{self.path}: built by another model, which differs in {difference}; '
                'build it again with `atlas-jax index build` from the same model and formats, or use it as it is with --force')

    def _say_limit(self, embedder: PassageEmbedder, store: PassageStore) -> None:
        """Prints, once for each limit, where the index cuts passages elsewhere than the model does."""
        limit = embedder.record.max_tokens
        if limit in self._said_limits:
            return
        self._said_limits.add(limit)
        found = next(iter(verification.differences(self._manifest, embedder, store).values()), None)
        if found is not None and hosts.is_first():
            print(f'{self.path}: differs in {found}: its passages stay cut as they are; whatever is embedded anew has the limit of the '
                  'model', file=sys.stderr, flush=True)

    def device_arrays(self, mesh: Mesh, rows: int = 0) -> types.IndexArrays:
        """Puts the index on the devices of `mesh`, rows sharded over all of them; each process reads its own devices' rows only.

        Args:
          mesh: the devices.
          rows: at least so many; those past the end are empty.

        Returns:
          embeddings [rows, dim] in the stored type, valid [rows] bool, scales [rows] float32 of int8. The row count is rounded up to a
          multiple of the device count, at least one row a device.

        Raises:
          IndexFolderError: a file is missing, cut or damaged, or a later version has replaced this one.
        """
        # Rows are split evenly over the devices, and a search needs at least one row on each.
        rows = max(1, -(-max(len(self), rows) // mesh.size)) * mesh.size
        valid = np.zeros(rows, bool)  # rows of the padding are never found
        valid[:len(self)] = ~self.deleted
        # Scales are read together with the embeddings and kept, by first row, until jax asks for them.
        scales: dict[int, np.ndarray] = {}

        def embeddings_at(where: tuple[slice, ...] | None) -> np.ndarray:
            start, stop = _bounds(where, rows)
            with self._replaced_is_said():
                numbers, of_rows = self._stored.read(start, stop)
            if of_rows is not None:
                scales[start] = of_rows
            return numbers

        def valid_at(where: tuple[slice, ...] | None) -> np.ndarray:
            start, stop = _bounds(where, rows)
            return valid[start:stop]

        def scales_at(where: tuple[slice, ...] | None) -> np.ndarray:
            return scales[_bounds(where, rows)[0]]

        by_row, whole_rows = partitioning.sharding(mesh, 'passages'), partitioning.sharding(mesh, 'passages', None)
        return types.IndexArrays(
            embeddings=jax.make_array_from_callback((rows, self.dim), whole_rows, embeddings_at, dtype=self._stored.dtype),
            valid=jax.make_array_from_callback((rows,), by_row, valid_at),
            scales=None if self.dtype != 'int8' else jax.make_array_from_callback((rows,), by_row, scales_at, dtype=np.float32))

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Reads the embeddings of the given rows, [n] int, as [n, dim] float32.

        Raises:
          IndexFolderError: a row is out of range, a file is missing, cut or damaged, or a later version has replaced this one.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            bad = rows[(rows < 0) | (rows >= len(self))][0]
            raise errors.IndexFolderError(f'{self.path}: there is no row {bad}; the rows are 0 to {len(self) - 1}')
        with self._replaced_is_said():
            return shards.decode(*self._stored.take(rows))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads the embeddings of the rows start to stop, [stop - start, dim] float32; raises as `embeddings`."""
        with self._replaced_is_said():
            return shards.decode(*self._stored.read(start, stop))

    def row_files(self) -> row_reader.RowReader:
        """Returns a reader of rows by their places in the index's files, many at a time."""
        return row_reader.RowReader(self._stored)

    @contextlib.contextmanager
    def _replaced_is_said(self) -> Iterator[None]:
        """Raises IndexFolderError with the reason, for a shard that is missing because a later version has removed it."""
        try:
            yield
        except errors.IndexFolderError as error:
            newer = index_manifest.read(self._folder)
            # `add` and `delete` keep all shards. So if they are still named, the file is damaged.
            if newer.shards[:len(self._manifest.shards)] == self._manifest.shards:
                raise
            raise errors.IndexFolderError(f'{self.path}: was changed since it was opened; open it again') from error

    def _load(self, current: index_manifest.Manifest) -> None:
        self._manifest, self._stored = current, shards.StoredEmbeddings(self._folder, current)
        self.deleted = index_manifest.read_tombstones(self._folder, current)

    def _commit(self, current: index_manifest.Manifest, deleted: np.ndarray) -> None:
        """Makes `current` with these deleted rows the folder's version; an unfinished build in the folder stays."""
        with hosts.together():
            # One process writes every file: it then removes what its manifest does not name, also what another one was just writing.
            if hosts.is_first():
                name, sha256 = index_manifest.write_tombstones(self._folder, deleted, current.revision)
                current = dataclasses.replace(current, tombstones=name, tombstones_sha256=sha256)
                index_manifest.write(self._folder, current)
                traces.remove(self._folder, current)
        self._load(index_manifest.read(self._folder))

    def _check_store(self, store: PassageStore) -> None:
        """Raises IndexFolderError unless the index was made from this store, to which passages may have been appended since."""
        current = self._manifest
        if store.fingerprint_of(current.rows) != current.store_fingerprint:
            raise errors.IndexFolderError(f'{self.path}: made from another passage store (index {current.store_fingerprint}, '
                                          f'{store.path} {store.fingerprint}); give its own store, or build the index again')


def _bounds(where: tuple[slice, ...] | None, rows: int) -> tuple[int, int]:
    """Returns the first row and the row behind the last of a device's part of `rows` rows; None is all of them."""
    start, stop, _ = (slice(None) if where is None else where[0]).indices(rows)
    return start, stop


@contextlib.contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    """Holds the writer's lock, in process 0 for all processes, and removes what the writer before left if it was killed."""
    with contextlib.ExitStack() as stack:
        # `together`: if process 0 does not get the lock, the others fail too and do not wait for it.
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(lock.writing(folder, 'index', errors.IndexFolderError))
                # A damaged index has no traces: nobody knows what its manifest named.
                if (current := index_manifest.read_if_whole(folder)) is not None:
                    traces.remove(folder, current)
        yield


def _embed_and_commit(folder: Folder, job: building.Job, kept: tuple[index_manifest.ShardEntry, ...], deleted: np.ndarray,
                      store: PassageStore, embedder: building.RowEmbedder, progress: bool) -> index_manifest.Manifest:
    """Embeds the job's rows and commits the version that has them behind the `kept` shards."""
    entries = building.embed_shards(folder, job, store, embedder, progress)
    with hosts.together():
        if hosts.is_first():
            before = index_manifest.read_if_whole(folder)
            revision = 1 + (before.revision if before else 0)
            name, sha256 = index_manifest.write_tombstones(folder, deleted, revision)
            current = index_manifest.Manifest(
                revision=revision, dtype=job.dtype, dim=job.dim, rows=job.stop_row, deleted=int(deleted.sum()),
                model_fingerprint=before.model_fingerprint if before is not None and kept else job.model_fingerprint,
                store=index_manifest.link_to(folder, store.path), store_fingerprint=job.store_fingerprint, tombstones=name,
                tombstones_sha256=sha256, shards=kept + entries, models=before.models if before is not None and kept else {})
            current = current.with_model(embedder.record)
            index_manifest.write(folder, current)
            # First of all: while it is there, the next build would try to go on.
            folder.remove(index_manifest.BUILDING_FILE)
            traces.remove(folder, current)
    return index_manifest.read(folder)


def _check_folder(folder: Folder) -> None:
    """Raises IndexFolderError if the folder holds something else than an index."""
    if folder.local is not None and folder.local.exists() and not folder.local.is_dir():
        raise errors.IndexFolderError(f'{folder}: is a file; give the name of a new folder')
    names = folder.children()
    # A writer that was killed early leaves its lock alone, or the description of its build.
    if names and not names & {index_manifest.FILE, index_manifest.BUILDING_FILE, lock.FILE}:
        raise errors.IndexFolderError(f'{folder}: not empty and not an index; give the name of a new folder')
