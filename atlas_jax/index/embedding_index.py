"""The index: embeddings of a store's passages on disk, changed by atomic commits and read by any number of devices."""

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
from atlas_jax.index import building, compaction, manifest, quantize, shards, store_rows, tombstones
from atlas_jax.index.rows import Rows
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts

DTYPES = tuple(quantize.DTYPES)


class EmbeddingIndex:
    """One version of an index folder; whatever changes the folder moves this object to the version it commits.

    Under jax.distributed all processes call `build`, `add`, `delete` and `compact` together; they must see the same folder.

    path     the folder: a pathlib.Path, or the text gs://…
    deleted  [rows] bool, rows that searches must not find
    """

    def __init__(self, path: str | os.PathLike):
        """See `open`."""
        self._folder = Folder(path)
        self.path = self._folder.path
        current = manifest.read(self._folder)
        try:
            self._load(current)
        except errors.IndexFolderError:
            newer = manifest.read(self._folder)
            if newer == current:
                raise
            self._load(newer)  # a writer committed it in between and removed what was older

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'EmbeddingIndex':
        """Opens an index folder without reading embeddings.

        Raises IndexFolderError: no index there, or a file is missing, cut or damaged.
        """
        return cls(path)

    @classmethod
    def build(cls, store: store_rows.Store, embedder: building.Embedder, path: str | os.PathLike, dtype: str = 'float32',
              progress: bool = True, generation: int = 0) -> 'EmbeddingIndex':
        """Embeds every passage of the store; passages that a later one of the same docid supersedes are deleted.

        An index already in the folder stays readable until the new one is complete and then gives way to it, deletions included. A build
        that was killed goes on where it stopped when the same build is run again.

        Args:
          store: the passages.
          embedder: the passage encoder.
          path: the folder; made where missing.
          dtype: of the stored embeddings, one of DTYPES.
          progress: whether to show a bar.
          generation: step of the retriever.

        Raises:
          ConfigError: an unknown dtype. StoreError: the store was tokenised for another model.
          IndexFolderError: another process is writing, the folder holds something else, or an embedding is not finite.
          DiskFullError, StorageError.
        """
        if dtype not in DTYPES:
            raise errors.ConfigError(f'index dtype "{dtype}" is unknown; choose one of: {", ".join(DTYPES)}')
        folder = Folder(path)
        _check_folder(folder)
        with _writing(folder):
            before = manifest.read_whole(folder)
            job = building.make_job(store, embedder, 0, dtype, 1 + (before.revision if before else 0), generation)
            _embed_and_commit(folder, job, (), store.superseded(), store, embedder, progress)
            return cls(path)

    def add(self, store: store_rows.Store, embedder: building.Embedder, progress: bool = True, force: bool = False,
            generation: int = 0) -> int:
        """Embeds the passages that were appended to the store since; older passages of the same docid are deleted.

        `force` takes a model that did not embed the others. Returns how many passages were added.

        Raises:
          As `build`; and IndexFolderError when the index was made from another store or by another model.
        """
        with _writing(self._folder):
            self._load(manifest.read(self._folder))
            self.check_model(embedder, force)
            self._check_store(store)
            first = len(self)
            if len(store) == first:
                return 0
            job = building.make_job(store, embedder, first, self._manifest.dtype, self._manifest.revision + 1, generation)
            deleted = np.concatenate([self.deleted, np.zeros(len(store) - first, bool)]) | store.superseded()
            self._load(_embed_and_commit(self._folder, job, self._manifest.shards, deleted, store, embedder, progress))
            return len(store) - first

    def delete(self, docids: Sequence[str], store: store_rows.Store) -> int:
        """Deletes passages by docid. Their rows stay on disk until `compact`, and are found no more.

        Returns:
          How many rows were deleted by this call; those deleted before do not count.

        Raises:
          StoreError: the store has no such docid. IndexFolderError: another store, a passage not yet in the index, or another writer.
          DiskFullError, StorageError.
        """
        with _writing(self._folder):
            self._load(manifest.read(self._folder))
            self._check_store(store)
            rows = np.unique(store.rows_of(docids))
            if len(rows) and rows[-1] >= len(self):
                raise errors.IndexFolderError(f'{self.path}: passage "{store.docid(int(rows[-1]))}" is in the store but not yet in '
                                              'the index; run `atlas-jax index add` first')
            fresh = rows[~self.deleted[rows]]
            if len(fresh):
                deleted = self.deleted.copy()
                deleted[fresh] = True
                revision = self._manifest.revision + 1
                name, sha256 = tombstones.write(self._folder, deleted, revision)
                self._commit(dataclasses.replace(self._manifest, revision=revision, deleted=int(deleted.sum()), tombstones=name,
                                                 tombstones_sha256=sha256))
            return len(fresh)

    def rewrite_rows(self, start: int, embeddings: np.ndarray, generation: int, model_fingerprint: str | None = None) -> None:
        """Replaces the embeddings of the rows from `start` on, in one commit; all other rows stay where they are.

        One process calls it, with all the rows. What was there before takes room until no row of its shard is left.

        Args:
          start: the first row.
          embeddings: [n, dim] float32; stored in the index's own type.
          generation: step of the retriever that embedded them.
          model_fingerprint: of that retriever; None keeps the index's.

        Raises:
          IndexFolderError: rows that the index does not have, another dim, numbers that are not finite, or another writer.
          DiskFullError, StorageError; the rows then are what they were.
        """
        with lock.writing(self._folder, 'index', errors.IndexFolderError):
            self._load(manifest.read(self._folder))
            current, stop = self._manifest, start + len(embeddings)
            if not (0 <= start and stop <= len(self) and embeddings.shape[1:] == (self.dim,)):
                raise errors.IndexFolderError(f'{self.path}: cannot take embeddings {embeddings.shape} at row {start}; it has '
                                              f'{len(self)} rows of {self.dim} numbers')
            building.check_finite(embeddings, start, self._folder)
            revision, entries = current.revision + 1, []
            for first in range(start, stop, building.SHARD_ROWS):
                name, part = building.shard_name(first, 'rewrite', revision), embeddings[first - start:first - start + building.SHARD_ROWS]
                layout = shards.Layout(len(part), self.dim, current.dtype, min(building.CHUNK_ROWS, len(part)))
                (self._folder / shards.FOLDER).remove(name)
                writer = shards.ShardWriter(self._folder / shards.FOLDER, name, layout)
                while (done := writer.next_row) < len(part):
                    writer.write(*quantize.encode(part[done:done + layout.chunk_rows], current.dtype))
                entries.append(shards.entry_of(self._folder, name, first, len(part), generation,
                                               model_fingerprint or current.model_fingerprint))
            kept = _outside(current.shards, start, stop)
            merged = tuple(sorted([*kept, *entries], key=lambda entry: entry.first_row))
            self._commit(dataclasses.replace(current, revision=revision, shards=merged))

    def compact(self, store: store_rows.Store) -> bool:
        """Rewrites the index and its passages without the deleted rows, and joins small shards; see compaction.py.

        Rows are numbered anew; docids stay. Afterwards the passages are those at `store_path`. Returns whether there was anything to do.

        Raises:
          IndexFolderError: another store, one with passages that are not yet in the index, no passage left, or another writer.
          DiskFullError, StorageError; the index then is what it was.
        """
        with _writing(self._folder):
            self._load(manifest.read(self._folder))
            self.check_store(store)
            if self.deleted.all():
                raise errors.IndexFolderError(f'{self.path}: every passage is deleted, so nothing would be left; add some first')
            if not compaction.is_due(self._rows, self.deleted):
                return False
            with hosts.together():
                if hosts.is_first():
                    compaction.run(self._folder, self._rows, self.deleted, store)
            self._load(manifest.read(self._folder))
            return True

    def __len__(self) -> int:
        """Rows, deleted ones included."""
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
        """Fingerprint of the model that the index was built with."""
        return self._manifest.model_fingerprint

    @property
    def rows_digest(self) -> str:
        """16 hexadecimal digits that change with any embedding; deletions leave them."""
        current = self._manifest
        rows = [current.dtype, current.dim, current.rows, [dataclasses.astuple(entry) for entry in current.shards]]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    @property
    def store_path(self) -> pathlib.Path | str:
        """Where its passages are."""
        return manifest.store_path(self._folder, self._manifest)

    def generations(self) -> list[tuple[int, int, int]]:
        """(first row, number of rows, step of the retriever that embedded them), in row order."""
        runs = itertools.groupby(self._manifest.shards, lambda entry: entry.generation)
        parts = [(generation, list(entries)) for generation, entries in runs]
        return [(entries[0].first_row, sum(entry.rows for entry in entries), generation) for generation, entries in parts]

    def info(self) -> dict[str, Any]:
        """What `atlas-jax index info` prints; the age of rows is in steps, behind the newest ones."""
        current, generations = self._manifest, self.generations()
        newest = max((generation for _, _, generation in generations), default=0)
        return {
            'path': str(self.path), 'rows': current.rows, 'deleted': current.deleted, 'dim': current.dim, 'dtype': current.dtype,
            'revision': current.revision, 'shards': len(current.shards), 'bytes': sum(shard.size_bytes for shard in self._rows.shards),
            'model_fingerprint': current.model_fingerprint, 'store': str(self.store_path), 'store_fingerprint': current.store_fingerprint,
            'generations': [{'first_row': first, 'rows': rows, 'generation': generation, 'age': newest - generation}
                            for first, rows, generation in generations],
        }

    def check(self, store: store_rows.Store, embedder: building.Embedder, force: bool = False) -> None:
        """Raises IndexFolderError when the index was built by another model (unless `force`) or from another store, or lacks passages."""
        self.check_model(embedder, force)
        self.check_store(store)

    def check_store(self, store: store_rows.Store) -> None:
        """Raises IndexFolderError when the index was made from another store, or lacks passages of it."""
        self._check_store(store)
        if len(store) != len(self):
            raise errors.IndexFolderError(f'{self.path}: holds {len(self)} passages, the store {store.path} has {len(store)}; '
                                          'run `atlas-jax index add`')

    def check_model(self, embedder: building.Embedder, force: bool = False) -> None:
        """Raises IndexFolderError when another model embedded any row (unless `force`), or one of another size."""
        if embedder.dim != self.dim:
            raise errors.IndexFolderError(f'{self.path}: has embeddings of {self.dim} numbers, this model makes {embedder.dim}; '
                                          'build it anew with `atlas-jax index build`')
        known = [entry.model_fingerprint for entry in self._manifest.shards] or [self.model_fingerprint]
        other = next((fingerprint for fingerprint in known if fingerprint != embedder.fingerprint), None)
        if other is not None and not force:
            raise errors.IndexFolderError(
                f'{self.path}: built by another model (index {other}, this model {embedder.fingerprint}); '
                'build it anew with `atlas-jax index build`, or use it all the same with --force')

    def device_arrays(self, mesh: Mesh) -> types.IndexArrays:
        """The index on the devices of `mesh`, rows sharded over all of them; each process reads its own devices' rows only.

        Returns:
          embeddings [rows, dim] in the stored type, valid [rows] bool, scales [rows] float32 of int8; rows rounded up to a multiple of the
          device count, at least one a device.

        Raises:
          IndexFolderError: a file is missing, cut or damaged.
        """
        rows = max(1, -(-len(self) // mesh.size)) * mesh.size
        scales: dict[int, np.ndarray | None] = {}  # by first row; read with the embeddings

        def part(where: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = where[0].indices(rows)
            with self._replaced_is_said():
                values, scales[start] = self._rows.read(start, stop)
            return values

        valid = np.zeros(rows, bool)
        valid[:len(self)] = ~self.deleted
        by_row, whole_rows = partitioning.sharding(mesh, 'passages'), partitioning.sharding(mesh, 'passages', None)
        embeddings = jax.make_array_from_callback((rows, self.dim), whole_rows, part, dtype=self._rows.dtype)
        return types.IndexArrays(
            embeddings=embeddings, valid=jax.make_array_from_callback((rows,), by_row, lambda where: valid[where]),
            scales=None if self.dtype != 'int8' else jax.make_array_from_callback(
                (rows,), by_row, lambda where: scales[where[0].indices(rows)[0]], dtype=np.float32))

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of the given rows, [n] int to [n, dim] float32.

        Raises IndexFolderError: a row out of range, or a file missing, cut or damaged.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            bad = rows[(rows < 0) | (rows >= len(self))][0]
            raise errors.IndexFolderError(f'{self.path}: row {bad} asked for; the rows are 0 to {len(self) - 1}')
        with self._replaced_is_said():
            return quantize.decode(*self._rows.take(rows))

    @contextlib.contextmanager
    def _replaced_is_said(self) -> Iterator[None]:
        """Tells a shard that a later version has removed from a damaged one."""
        try:
            yield
        except errors.IndexFolderError as error:
            newer = manifest.read(self._folder)
            if newer.shards[:len(self._manifest.shards)] == self._manifest.shards:
                raise
            raise errors.IndexFolderError(f'{self.path}: was changed since it was opened; open it again') from error

    def _load(self, current: manifest.Manifest) -> None:
        self._manifest, self._rows = current, Rows(self._folder, current)
        self.deleted = tombstones.read(self._folder, current.tombstones, current.tombstones_sha256, current.rows)

    def _commit(self, current: manifest.Manifest) -> None:
        """Makes `current` the folder's version, in which an unfinished build may lie."""
        with hosts.together():
            if hosts.is_first():
                manifest.write(self._folder, current)
                building.remove_replaced(self._folder, self._manifest, current)
        self._load(current)

    def _check_store(self, store: store_rows.Store) -> None:
        """The store is the one the index was made from, or that one grown."""
        current = self._manifest
        if store.fingerprint_of(current.rows) != current.store_fingerprint:
            raise errors.IndexFolderError(f'{self.path}: made from another passage store (index {current.store_fingerprint}, '
                                          f'{store.path} {store.fingerprint}); give its own store, or build the index anew')


def _outside(entries: Sequence[manifest.ShardEntry], start: int, stop: int) -> Iterator[manifest.ShardEntry]:
    """What is left of the entries without the rows start to stop."""
    for entry in entries:
        end = entry.first_row + entry.rows
        if entry.first_row < start:
            yield dataclasses.replace(entry, rows=min(end, start) - entry.first_row)
        if end > stop:
            first = max(entry.first_row, stop)
            yield dataclasses.replace(entry, first_row=first, rows=end - first, offset=entry.offset + first - entry.first_row)


@contextlib.contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    """The writer's lock, held by process 0 for all."""
    with contextlib.ExitStack() as stack:
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(lock.writing(folder, 'index', errors.IndexFolderError))
        yield


def _embed_and_commit(folder: Folder, job: building.Job, kept: tuple[manifest.ShardEntry, ...], deleted: np.ndarray,
                      store: store_rows.Store, embedder: building.Embedder, progress: bool) -> manifest.Manifest:
    """Embeds the job's rows and commits the version that has them behind the `kept` shards."""
    entries = building.run(folder, job, store, embedder, progress)
    with hosts.together():
        if hosts.is_first():
            before = manifest.read_whole(folder)
            revision = 1 + (before.revision if before else 0)
            name, sha256 = tombstones.write(folder, deleted, revision)
            current = manifest.Manifest(
                revision=revision, dtype=job.dtype, dim=job.dim, rows=job.stop_row, deleted=int(deleted.sum()),
                model_fingerprint=before.model_fingerprint if kept else job.model_fingerprint,
                store=manifest.link_to(folder, store.path), store_fingerprint=job.store_fingerprint, tombstones=name,
                tombstones_sha256=sha256, shards=kept + entries)
            manifest.write(folder, current)
            building.clean(folder, current)
    return manifest.read(folder)


def _check_folder(folder: Folder) -> None:
    """Refuses to build into a folder that holds something else."""
    if folder.local is not None and folder.local.exists() and not folder.local.is_dir():
        raise errors.IndexFolderError(f'{folder}: is a file; give the name of a new folder')
    names = folder.children()
    if names and not names & {manifest.io_manifest.FILE, manifest.BUILDING_FILE, lock.FILE}:
        raise errors.IndexFolderError(f'{folder}: not empty and not an index; give the name of a new folder')
