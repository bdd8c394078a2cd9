"""The index: the embeddings of a store's passages on disk. Writers change it by atomic commits, and
any number of devices read it.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import building, index_manifest, row_reader, shards, verification
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts, notes

DTYPES = tuple(shards.DTYPES)


class EmbeddingIndex:
    """One version of an index folder. A method that changes the folder moves this object to the
    version it commits.

    With several processes all of them call `build`, `add`, `delete` and `compact` together. They
    must see the same folder.

    path     the folder: a pathlib.Path, or the text gs://…
    deleted  [rows] bool, True for rows that searches must not find
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
            self._load(newer)  # a writer committed it meanwhile and removed the older files

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'EmbeddingIndex':
        """Opens an index folder without reading embeddings.

        Raises:
          IndexFolderError: no index there, or a file is missing, cut or damaged.
        """
        return cls(path)

    @classmethod
    def build(cls, store: PassageStore, embedder: building.RowEmbedder, path: str | os.PathLike,
              dtype: str = 'float32', progress: bool = True,
              generation: int = 0) -> 'EmbeddingIndex':
        """Embeds every passage of the store, and deletes passages that a later one with the same
        docid supersedes.

        An index in the folder stays readable until the new one is complete. The new one then
        replaces it, deletions included. A killed build continues when the same build runs again.

        Args:
          store: the passages.
          embedder: the passage encoder.
          path: the folder; created if missing.
          dtype: type of the stored embeddings, one of DTYPES.
          progress: shows a bar.
          generation: training step of the retriever.

        Raises:
          ConfigError: an unknown dtype.
          StoreError: the store was tokenised for another model.
          IndexFolderError: another process is writing, the folder holds something else, or an
            embedding is not finite.
          DiskFullError, StorageError: finished chunks stay, and the same call continues after them.
        """
        if dtype not in DTYPES:
            raise errors.ConfigError(f'index dtype "{dtype}" is unknown; choose one of: '
                                     f'{", ".join(DTYPES)}')
        folder = Folder(path)
        index_manifest.KIND.require_free(folder)
        with _writing(folder):
            before = index_manifest.read_if_whole(folder)
            # A build may replace a damaged index, whose revision is unknown: it begins at 1.
            job = building.make_job(store, embedder, 0, dtype,
                                    1 + (before.revision if before else 0), generation)
            _embed_and_commit(folder, job, (), store.superseded(), store, embedder, progress)
            return cls(path)

    def add(self, store: PassageStore, embedder: PassageEmbedder, progress: bool = True,
            force: bool = False, generation: int = 0) -> int:
        """Embeds the passages that were appended to the store since the last build or add, and
        deletes older passages with the same docids.

        `force` accepts a model that did not embed the other passages. Returns the number of
        passages added.

        Raises:
          IndexFolderError: the same errors as `build`, or the index was made from another store or
            by another model.
          StoreError, DiskFullError, StorageError: the same errors as `build`.
        """
        with _writing(self._folder):
            self._load(index_manifest.read(self._folder))
            self.check_model(embedder, store, force)
            self._check_store(store)
            # Another process may have added rows since this object was opened.
            first = len(self)
            if len(store) == first:
                return 0
            # superseded() covers old rows too.
            job = building.make_job(store, embedder, first, self._manifest.dtype,
                                    self._manifest.revision + 1, generation)
            deleted = np.concatenate([self.deleted,
                                      np.zeros(len(store) - first, bool)]) | store.superseded()
            # The new manifest names the old shards; nothing is copied.
            self._load(
                _embed_and_commit(self._folder, job, self._manifest.shards, deleted, store,
                                  embedder, progress))
            return len(store) - first

    def delete(self, docids: Sequence[str], store: PassageStore) -> int:
        """Deletes passages by docid. Searches no longer find them; their rows stay on disk until
        `compact`.

        Returns the number of rows that this call deleted.

        Raises:
          StoreError: the store has no such docid.
          IndexFolderError: another store, a passage not yet in the index, or another writer.
          DiskFullError, StorageError: nothing was deleted.
        """
        with _writing(self._folder):
            self._load(index_manifest.read(self._folder))
            self._check_store(store)
            rows = np.unique(store.rows_of(docids))  # a docid may be given twice
            if len(rows) and rows[-1] >= len(self):
                raise errors.IndexFolderError(f'{self.path}: passage '
                                              f'"{store.docid(int(rows[-1]))}" is in the store '
                                              'but not yet in '
                                              'the index; run `atlas-jax index add` first')
            # Without a fresh row there is nothing to commit.
            fresh = rows[~self.deleted[rows]]
            if len(fresh):
                # A copy, because searchers of this process may be reading the old array.
                deleted = self.deleted.copy()
                deleted[fresh] = True
                revision = self._manifest.revision + 1
                name, sha256 = index_manifest.write_tombstones(self._folder, deleted, revision)
                self._commit(
                    dataclasses.replace(self._manifest, revision=revision,
                                        deleted=int(deleted.sum()), tombstones=name,
                                        tombstones_sha256=sha256))
            return len(fresh)

    def compact(self, store: PassageStore) -> bool:
        """Rewrites the index and its passages without the deleted rows, and joins small shards; see
        building.py.

        Row numbers change; docids stay. Afterwards `store_path` names the new passages. Returns
        False if there was nothing to do.

        Raises:
          IndexFolderError: another store, one with passages that are not yet in the index, no
            passage left, or another writer.
          DiskFullError, StorageError: the index stays as it was.
        """
        with _writing(self._folder):
            self._load(index_manifest.read(self._folder))
            # Stricter than _check_store: the new store would lack passages that are not in the
            # index.
            self.check_store(store)
            if self.deleted.all():
                raise errors.IndexFolderError(f'{self.path}: every passage is deleted, so nothing '
                                              'would be left; add some first')
            if not building.needs_compaction(self._manifest, self.deleted):
                return False
            with hosts.together():
                if hosts.is_first():
                    building.compact(self._folder, self._stored, self.deleted, store)
                    index_manifest.remove_leftovers(self._folder, index_manifest.read(self._folder))
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
        """16 hexadecimal digits that change with any embedding. Deletions do not change them."""
        # Saved host searchers belong to it. They drop deleted rows themselves, so a deletion must
        # not make them invalid.
        return self.digest_of(len(self))

    def digest_of(self, rows: int) -> str:
        """Returns the `rows_digest` of the first `rows` rows; '' if no shard ends there."""
        current = self._manifest
        entries = [dataclasses.astuple(entry) for entry in current.shards if entry.first_row < rows]
        if rows != sum(entry.rows for entry in current.shards[:len(entries)]):
            return ''
        return hashlib.sha256(json.dumps([current.dtype, current.dim, rows,
                                          entries]).encode()).hexdigest()[:16]

    @property
    def store_path(self) -> pathlib.Path | str:
        """Folder of the passages."""
        return index_manifest.store_path(self._folder, self._manifest)

    def rows_of_model(self, embedder: PassageEmbedder, store: PassageStore) -> np.ndarray:
        """Returns [rows] bool: True for rows that are not deleted and have the embedding that this
        model would give them.
        """
        different = verification.differences(self._manifest, embedder, store)
        by_model = [
            np.full(entry.rows, entry.name not in different) for entry in self._manifest.shards]
        return np.concatenate([np.zeros(0, bool), *by_model]) & ~self.deleted

    def generations(self) -> list[tuple[int, int, int]]:
        """Returns (first row, number of rows, training step of the retriever that embedded them)
        for each run of rows, in row order.
        """
        runs = itertools.groupby(self._manifest.shards, lambda entry: entry.generation)
        parts = [(generation, list(entries)) for generation, entries in runs]
        return [(entries[0].first_row, sum(entry.rows
                                           for entry in entries), generation)
                for generation, entries in parts]

    def info(self) -> dict[str, Any]:
        """Returns the description that `atlas-jax index info` prints. `age` is the number of
        training steps between rows and the newest rows.
        """
        current, generations = self._manifest, self.generations()
        newest = max((generation for _, _, generation in generations), default=0)
        return {
            'path': str(self.path),
            'rows': current.rows,
            'deleted': current.deleted,
            'dim': current.dim,
            'dtype': current.dtype,
            'revision': current.revision,
            'shards': len(current.shards),
            'bytes': sum(shard.size_bytes for shard in self._stored.shards),
            'model_fingerprint': current.model_fingerprint,
            'embedded_by': [dataclasses.asdict(record) for record in current.models.values()],
            'store': str(self.store_path),
            'store_fingerprint': current.store_fingerprint,
            'generations': [{
                'first_row': first, 'rows': rows, 'generation': generation,
                'age': newest - generation} for first, rows, generation in generations], }

    def check(self, store: PassageStore, embedder: PassageEmbedder, force: bool = False) -> None:
        """Raises IndexFolderError if another model built the index (unless `force`), or if it was
        made from another store or lacks passages.
        """
        self.check_model(embedder, store, force)
        self.check_store(store)

    def check_store(self, store: PassageStore) -> None:
        """Raises IndexFolderError if the index was made from another store or lacks passages."""
        self._check_store(store)
        # A missing row would read as zeros, which can score higher than other rows.
        if len(store) != len(self):
            raise errors.IndexFolderError(f'{self.path}: holds {len(self)} passages, the store '
                                          f'{store.path} has {len(store)}; '
                                          'run `atlas-jax index add`')

    def check_model(self, embedder: PassageEmbedder, store: PassageStore,
                    force: bool = False) -> None:
        """Raises IndexFolderError, which names the difference, if the model would embed a row
        differently (unless `force`) or in another size.

        If only the limit that cuts passages differs, it prints a note: rows keep the limit that
        they were built with.
        """
        if embedder.dim != self.dim:
            raise errors.IndexFolderError(f'{self.path}: has embeddings of {self.dim} numbers, '
                                          f'this model makes {embedder.dim}; '
                                          'build it again with `atlas-jax index build`')
        difference = next(
            iter(verification.differences(self._manifest, embedder, store, limits=False).values()),
            None)
        if difference is None:
            self._say_limit(embedder, store)
        elif not force:
            raise errors.IndexFolderError(
                f'{self.path}: built by another model, which differs in {difference}; '
                'build it again with `atlas-jax index build` from the same model and formats, or '
                'use it as it is with --force')

    def _say_limit(self, embedder: PassageEmbedder, store: PassageStore) -> None:
        """Prints a note, once for each limit, if the index cuts passages elsewhere than the model.
        """
        limit = embedder.record.max_tokens
        if limit in self._said_limits:
            return
        self._said_limits.add(limit)
        found = next(iter(verification.differences(self._manifest, embedder, store).values()), None)
        if found is not None:
            notes.say(f'{self.path}: differs in {found}: its passages stay cut as they are; '
                      'passages that are embedded from now on have the limit of the model')

    def device_arrays(self, mesh: Mesh, rows: int = 0) -> types.IndexArrays:
        """Puts the index on the devices of `mesh`, rows sharded over all of them. Each process
        reads only its own devices' rows.

        Args:
          mesh: the devices.
          rows: least number of rows; rows past the end are empty.

        Returns:
          embeddings [rows, dim] in the stored type, valid [rows] bool and, for int8, scales [rows]
          float32. The number of rows is rounded up to a multiple of the device count, with at least
          one row per device.

        Raises:
          IndexFolderError: a file is missing, cut or damaged, or a later version has replaced this
            one.
        """
        # Devices get equal shares, and a search needs at least one row on each.
        rows = max(1, -(-max(len(self), rows) // mesh.size)) * mesh.size
        valid = np.zeros(rows, bool)  # padding rows are never found
        valid[:len(self)] = ~self.deleted
        # Scales are read with the embeddings and kept by first row until jax needs them.
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

        by_row, whole_rows = partitioning.sharding(mesh, 'passages'), partitioning.sharding(
            mesh, 'passages', None)
        return types.IndexArrays(
            embeddings=jax.make_array_from_callback((rows, self.dim), whole_rows, embeddings_at,
                                                    dtype=self._stored.dtype),
            valid=jax.make_array_from_callback((rows, ), by_row, valid_at),
            scales=None if self.dtype != 'int8' else jax.make_array_from_callback(
                (rows, ), by_row, scales_at, dtype=np.float32))

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Reads the embeddings of the given rows, [n] int, as [n, dim] float32.

        Raises:
          IndexFolderError: a row is out of range, a file is missing, cut or damaged, or a later
            version has replaced this one.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            bad = rows[(rows < 0) | (rows >= len(self))][0]
            raise errors.IndexFolderError(f'{self.path}: there is no row {bad}; the rows are 0 to '
                                          f'{len(self) - 1}')
        with self._replaced_is_said():
            return shards.decode(*self._stored.take(rows))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads the embeddings of the rows start to stop, [stop - start, dim] float32. Raises the
        same errors as `embeddings`.
        """
        with self._replaced_is_said():
            return shards.decode(*self._stored.read(start, stop))

    def row_files(self) -> row_reader.RowReader:
        """Returns a reader of single rows, many at a time."""
        return row_reader.RowReader(self._stored)

    @contextlib.contextmanager
    def _replaced_is_said(self) -> Iterator[None]:
        """Explains in the IndexFolderError inside the block if a shard is missing because a later
        version has removed it.
        """
        try:
            yield
        except errors.IndexFolderError as error:
            newer = index_manifest.read(self._folder)
            # `add` and `delete` keep all shards. If they are still named, the file is damaged.
            if newer.shards[:len(self._manifest.shards)] == self._manifest.shards:
                raise
            raise errors.IndexFolderError(f'{self.path}: was changed since it was opened; open it '
                                          'again') from error

    def _load(self, current: index_manifest.Manifest) -> None:
        self._manifest, self._stored = current, shards.StoredEmbeddings(self._folder, current)
        self.deleted = index_manifest.read_tombstones(self._folder, current)

    def _commit(self, current: index_manifest.Manifest) -> None:
        """Commits `current`. An unfinished build in the folder stays."""
        with hosts.together():
            if hosts.is_first():
                index_manifest.write(self._folder, current)
                index_manifest.remove_leftovers(self._folder, current)
        self._load(current)

    def _check_store(self, store: PassageStore) -> None:
        """Raises IndexFolderError unless the index was made from this store. Passages may have been
        appended since.
        """
        current = self._manifest
        if store.fingerprint_of(current.rows) != current.store_fingerprint:
            raise errors.IndexFolderError(f'{self.path}: made from another passage store (index '
                                          f'{current.store_fingerprint}, '
                                          f'{store.path} {store.fingerprint}); give its own '
                                          'store, or build the index again')


def _bounds(where: tuple[slice, ...] | None, rows: int) -> tuple[int, int]:
    """Returns the first row and the row after the last of a device's share of `rows` rows; None
    means all rows.
    """
    start, stop, _ = (slice(None) if where is None else where[0]).indices(rows)
    return start, stop


@contextlib.contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    """Holds the writer lock, in process 0 for all processes, and removes the leftovers of a killed
    writer.
    """
    with contextlib.ExitStack() as stack:
        # If process 0 does not get the lock, the others fail too instead of waiting.
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(index_manifest.KIND.writing(folder))
                # If the manifest is damaged, nobody knows which files are leftovers.
                if (current := index_manifest.read_if_whole(folder)) is not None:
                    index_manifest.remove_leftovers(folder, current)
        yield


def _embed_and_commit(
        folder: Folder, job: index_manifest.Job, kept: tuple[index_manifest.ShardEntry, ...],
        deleted: np.ndarray, store: PassageStore, embedder: building.RowEmbedder,
        progress: bool) -> index_manifest.Manifest:
    """Embeds the job's rows and commits a version that has them after the `kept` shards."""
    entries = building.embed_shards(folder, job, store, embedder, progress)
    with hosts.together():
        if hosts.is_first():
            before = index_manifest.read_if_whole(folder)
            revision = 1 + (before.revision if before else 0)
            name, sha256 = index_manifest.write_tombstones(folder, deleted, revision)
            grown = before if kept else None
            current = index_manifest.Manifest(
                revision=revision, dtype=job.dtype, dim=job.dim, rows=job.stop_row,
                deleted=int(deleted.sum()),
                model_fingerprint=grown.model_fingerprint if grown else job.model_fingerprint,
                store=index_manifest.link_to(folder, store.path),
                store_fingerprint=job.store_fingerprint, tombstones=name, tombstones_sha256=sha256,
                shards=kept + entries, models=grown.models if grown else {})
            current = current.with_model(embedder.record)
            index_manifest.write(folder, current)
            # Removed first: while the record is there, the next build would try to continue.
            folder.remove(index_manifest.BUILDING_FILE)
            index_manifest.remove_leftovers(folder, current)
    return index_manifest.read(folder)
