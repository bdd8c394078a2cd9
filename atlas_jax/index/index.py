"""The index: embeddings of a store's passages on disk, changed by atomic commits and read by any number of devices."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax import errors, partitioning, types
from atlas_jax.index import building, lock, manifest, shards, store_rows, tombstones

DTYPES = ('float32',)


class Index:
    """One version of an index folder; `add` and `delete` move this object to the version they commit.

    path     the folder
    deleted  [rows] bool, rows that searches must not find
    """

    def __init__(self, path: str | os.PathLike):
        """See `open`."""
        self.path = pathlib.Path(path)
        current = manifest.read(self.path)
        try:
            self._load(current)
        except errors.IndexFolderError:
            newer = manifest.read(self.path)
            if newer == current:
                raise
            self._load(newer)  # a writer committed it in between and removed what was older

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'Index':
        """Opens an index folder without reading embeddings.

        Raises IndexFolderError: no index there, or a file is missing, cut or damaged.
        """
        return cls(path)

    @classmethod
    def build(cls, store: store_rows.Store, embedder: building.Embedder, path: str | os.PathLike, dtype: str = 'float32',
              progress: bool = True) -> 'Index':
        """Embeds every passage of the store; passages that a later one of the same docid supersedes are deleted.

        An index already in the folder stays readable until the new one is complete and then gives way to it, deletions included. A build
        that was killed goes on where it stopped when the same build is run again.

        Args:
          store: the passages.
          embedder: the passage encoder.
          path: the folder; made where missing.
          dtype: of the stored embeddings, one of DTYPES.
          progress: whether to show a bar.

        Raises:
          ConfigError: an unknown dtype. StoreError: the store was tokenised for another model.
          IndexFolderError: another process is writing, the folder holds something else, or an embedding is not finite.
          DiskFullError.
        """
        path = pathlib.Path(path)
        if dtype not in DTYPES:
            raise errors.ConfigError(f'index dtype "{dtype}" is unknown; choose one of: {", ".join(DTYPES)}')
        _check_folder(path)
        with lock.writing(path):
            generation = manifest.read(path).generation + 1 if manifest.exists(path) else 1
            job = building.make_job(store, embedder, 0, dtype, generation)
            _embed_and_commit(path, job, (), store_rows.superseded(store), store, embedder, progress)
            return cls(path)

    def add(self, store: store_rows.Store, embedder: building.Embedder, progress: bool = True) -> int:
        """Embeds the passages that were appended to the store since; older passages of the same docid are deleted.

        Returns:
          How many passages were added.

        Raises:
          As `build`; and IndexFolderError when the index was made from another store or by another model.
        """
        with lock.writing(self.path):
            self._load(manifest.read(self.path))
            self._check_model(embedder)
            self._check_store(store)
            first = len(self)
            if len(store) == first:
                return 0
            job = building.make_job(store, embedder, first, self._manifest.dtype, self._manifest.generation + 1)
            deleted = np.concatenate([self.deleted, np.zeros(len(store) - first, bool)]) | store_rows.superseded(store)
            self._load(_embed_and_commit(self.path, job, self._manifest.shards, deleted, store, embedder, progress))
            return len(store) - first

    def delete(self, docids: Sequence[str], store: store_rows.Store) -> int:
        """Deletes passages by docid. Their rows stay on disk and are found no more.

        Returns:
          How many rows were deleted by this call; those deleted before do not count.

        Raises:
          StoreError: the store has no such docid. IndexFolderError: another store, a passage not yet in the index, or another writer.
          DiskFullError.
        """
        with lock.writing(self.path):
            self._load(manifest.read(self.path))
            self._check_store(store)
            rows = np.unique(store.rows_of(docids))
            if len(rows) and rows[-1] >= len(self):
                raise errors.IndexFolderError(f'{self.path}: passage "{store.docid(int(rows[-1]))}" is in the store but not yet in '
                                              'the index; run `atlas-jax index add` first')
            fresh = rows[~self.deleted[rows]]
            if len(fresh):
                deleted = self.deleted.copy()
                deleted[fresh] = True
                current = self._manifest
                name, sha256 = tombstones.write(self.path, deleted, current.generation + 1)
                current = dataclasses.replace(current, generation=current.generation + 1, deleted=int(deleted.sum()), tombstones=name,
                                              tombstones_sha256=sha256)
                manifest.write(self.path, current)
                building.remove_other_tombstones(self.path, current)
                self._load(current)
            return len(fresh)

    def __len__(self) -> int:
        """Rows, deleted ones included."""
        return self._manifest.rows

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self._manifest.dim

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that embedded the rows."""
        return self._manifest.model_fingerprint

    def info(self) -> dict[str, Any]:
        """What `atlas-jax index info` prints: rows, deleted, dim, dtype, generation, shards, bytes, fingerprints."""
        current = self._manifest
        return {
            'path': str(self.path), 'rows': current.rows, 'deleted': current.deleted, 'dim': current.dim, 'dtype': current.dtype,
            'generation': current.generation, 'shards': len(current.shards), 'bytes': sum(shard.size_bytes for shard in self._shards),
            'model_fingerprint': current.model_fingerprint, 'store_fingerprint': current.store_fingerprint,
        }

    def verify(self) -> list[shards.Problem]:
        """Reads every file of the index and names what differs from what was written, and the rows it hits; empty when all is well.

        Damage that keeps an index from opening at all is reported by `open`.
        """
        return [problem for shard in self._shards for problem in shard.verify()]

    def check(self, store: store_rows.Store, embedder: building.Embedder) -> None:
        """Raises IndexFolderError when the index was built by another model or from another store, or lacks passages of the store."""
        self._check_model(embedder)
        self._check_store(store)
        if len(store) != len(self):
            raise errors.IndexFolderError(f'{self.path}: holds {len(self)} passages, the store {store.path} has {len(store)}; '
                                          'run `atlas-jax index add`')

    def device_arrays(self, mesh: Mesh) -> types.IndexArrays:
        """The index on the devices of `mesh`, rows sharded over all of them; each process reads its own devices' rows only.

        Returns:
          embeddings [rows, dim] float32 and valid [rows] bool; rows rounded up to a multiple of the device count, at least one a device.

        Raises:
          IndexFolderError: a file is missing, cut or damaged.
        """
        rows = max(1, -(-len(self) // mesh.size)) * mesh.size

        def part(where: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = where[0].indices(rows)
            values = np.zeros((stop - start, self.dim), self._manifest.dtype)
            with self._replaced_is_said():
                self._read_into(values, start)
            return values

        valid = np.zeros(rows, bool)
        valid[:len(self)] = ~self.deleted
        by_row = partitioning.sharding(mesh, 'passages', None)
        return types.IndexArrays(
            embeddings=jax.make_array_from_callback((rows, self.dim), by_row, part),
            valid=jax.make_array_from_callback((rows,), partitioning.sharding(mesh, 'passages'), lambda where: valid[where]))

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of the given rows, [n] int to [n, dim] float32.

        Raises IndexFolderError: a row out of range, or a file missing, cut or damaged.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            bad = rows[(rows < 0) | (rows >= len(self))][0]
            raise errors.IndexFolderError(f'{self.path}: row {bad} asked for; the rows are 0 to {len(self) - 1}')
        values = np.zeros((len(rows), self.dim), np.float32)
        owners = np.searchsorted(self._first_rows, rows, side='right') - 1
        with self._replaced_is_said():
            for owner in np.unique(owners):
                chosen = owners == owner
                values[chosen] = self._shards[owner].take(rows[chosen] - self._first_rows[owner])
        return values

    @contextlib.contextmanager
    def _replaced_is_said(self) -> Iterator[None]:
        """Tells a shard that a later build has removed from a damaged one."""
        try:
            yield
        except errors.IndexFolderError as error:
            newer = manifest.read(self.path)
            if newer.shards[:len(self._shards)] == self._manifest.shards:
                raise
            raise errors.IndexFolderError(f'{self.path}: was built anew since it was opened; open it again') from error

    def _read_into(self, values: np.ndarray, start: int) -> None:
        """Fills `values` with the rows from `start` on, as far as there are rows."""
        stop = min(start + len(values), len(self))
        for shard in self._shards:
            first = max(start, shard.entry.first_row)
            last = min(stop, shard.entry.first_row + shard.layout.rows)
            if first < last:
                values[first - start:last - start] = shard.read(first - shard.entry.first_row, last - shard.entry.first_row)

    def _load(self, current: manifest.Manifest) -> None:
        self._manifest = current
        self._shards = [shards.Shard(self.path, entry) for entry in current.shards]
        self._first_rows = np.array([entry.first_row for entry in current.shards], np.int64)
        self.deleted = tombstones.read(self.path, current.tombstones, current.tombstones_sha256, current.rows)

    def _check_model(self, embedder: building.Embedder) -> None:
        if embedder.fingerprint != self._manifest.model_fingerprint:
            raise errors.IndexFolderError(
                f'{self.path}: built by another model (index {self._manifest.model_fingerprint}, this model {embedder.fingerprint}); '
                'build it anew with `atlas-jax index build`, or use it all the same with --force')

    def _check_store(self, store: store_rows.Store) -> None:
        """The store is the one the index was made from, or that one grown."""
        current = self._manifest
        grown = len(store) > current.rows and store_rows.rows_fingerprint(store, current.rows) == current.rows_fingerprint
        if store.fingerprint != current.store_fingerprint and not grown:
            raise errors.IndexFolderError(f'{self.path}: made from another passage store (index {current.store_fingerprint}, '
                                          f'{store.path} {store.fingerprint}); give its own store, or build the index anew')


def _embed_and_commit(path: pathlib.Path, job: building.Job, kept: tuple[manifest.ShardEntry, ...], deleted: np.ndarray,
                      store: store_rows.Store, embedder: building.Embedder, progress: bool) -> manifest.Manifest:
    """Embeds the job's rows and commits the version that has them behind the `kept` shards."""
    entries = building.run(path, job, store.retriever_table(max_tokens=embedder.max_tokens), embedder, progress)
    name, sha256 = tombstones.write(path, deleted, job.generation)
    current = manifest.Manifest(
        generation=job.generation, dtype=job.dtype, dim=job.dim, rows=job.stop_row, deleted=int(deleted.sum()),
        model_fingerprint=job.model_fingerprint, store_fingerprint=job.store_fingerprint,
        rows_fingerprint=store_rows.rows_fingerprint(store, job.stop_row), tombstones=name, tombstones_sha256=sha256, shards=kept + entries)
    manifest.write(path, current)
    building.clean(path, current)
    return current


def _check_folder(path: pathlib.Path) -> None:
    """Refuses to build into a folder that holds something else."""
    if path.exists() and not path.is_dir():
        raise errors.IndexFolderError(f'{path}: is a file; give the name of a new folder')
    ours = path.is_dir() and any((path / name).exists() for name in (manifest.FILE, building.FILE, 'lock'))
    if path.is_dir() and not ours and any(path.iterdir()):
        raise errors.IndexFolderError(f'{path}: not empty and not an index; give the name of a new folder')
