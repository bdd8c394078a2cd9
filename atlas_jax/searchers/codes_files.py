"""The codes of an index on disk, in its folder `codes`: written whole or not at all, and read by any number of devices.

    manifest.json                    names everything below; written last
    code-000001.npz                  the fitted code: mean, basis, steps
    000000000000-000001.codes        words and factors of consecutive rows; named by first row and revision

Files have SHA-256 in the manifest and are compared when they are read. Deletions are not in them: the index's own list is taken.
"""

import dataclasses
import hashlib
import io
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from atlas_jax import errors, types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import lock, manifest, npz, schema
from atlas_jax.io.folder import Folder
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers.config import METRICS

FOLDER = 'codes'
PART_ROWS = 32_768  # rows of a file; a multiple of those of a word
COMMAND = 'atlas-jax index compress'
_WORD_BYTES = 4
_RECALL = schema.Text(r'[01]\.\d{4}', 'a share with four digits')
_PART = schema.Record({'name': schema.Text(r'\d{12,}-\d{6,}\.codes', 'the name of a part'), 'rows': schema.Integer(1),
                       'sha256': schema.SHA256})
_VERSIONS = {1: schema.Record({
    'revision': schema.Integer(1, 10**9), 'rows': schema.Integer(1, 2**40), 'rows_digest': schema.LINE, 'model_fingerprint': schema.LINE,
    'metric': schema.Text('|'.join(METRICS), 'a metric'), 'weight': schema.Text('|'.join(code_lib.WEIGHTS), 'a weight'),
    'dim': schema.Integer(1, 2**24), 'planes': schema.Array(schema.Integer(1, 2**24), 1), 'code_sha256': schema.SHA256,
    'fitted_revision': schema.Integer(1, 10**9), 'fitted_rows': schema.Integer(1), 'recall_at_20': _RECALL,
    'rescore': schema.Integer(1), 'queries': schema.Integer(1), 'parts': schema.Array(_PART, 1)})}
KIND = manifest.Kind('codes', 'atlas_jax codes', _VERSIONS, f'{COMMAND} INDEX', errors.IndexFolderError)


@dataclasses.dataclass(frozen=True)
class Part:
    """A file with the codes of `rows` consecutive rows."""

    name: str
    rows: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Description:
    """One version of the codes of an index.

    revision           number of the version, from 1
    rows               rows with codes, deleted ones included
    rows_digest        EmbeddingIndex.digest_of of these rows
    model_fingerprint  of the model that built the index
    metric             that the codes are for
    weight             how bits were shared (code.fit)
    dim, planes        of the code
    code_sha256        of its file, which has the number fitted_revision
    fitted_rows        rows that the index had when the code was fitted and its recall measured
    recall_at_20       share of the true 20 among `rescore` candidates, of `queries` queries
    parts              in row order; all but the last have PART_ROWS rows
    """

    revision: int
    rows: int
    rows_digest: str
    model_fingerprint: str
    metric: str
    weight: str
    dim: int
    planes: tuple[int, ...]
    code_sha256: str
    fitted_revision: int
    fitted_rows: int
    recall_at_20: str
    rescore: int
    queries: int
    parts: tuple[Part, ...]

    @property
    def bits(self) -> int:
        """Bits of a row."""
        return sum(self.planes)

    @property
    def code_file(self) -> str:
        """Name of the code's file."""
        return code_file(self.fitted_revision)


def code_file(revision: int) -> str:
    """Returns the name of the file of the code that was fitted for a revision."""
    return f'code-{revision:06d}.npz'


def part_name(first_row: int, revision: int) -> str:
    """Returns the name of a part."""
    return f'{first_row:012d}-{revision:06d}.codes'


def folder_of(index_path: str | os.PathLike) -> Folder:
    """Returns the folder of an index's codes."""
    return Folder(index_path) / FOLDER


def read(index_path: str | os.PathLike) -> Description | None:
    """Reads the description of an index's codes; None if it has none.

    Raises IndexFolderError: it is damaged or of another version. StorageError.
    """
    folder = folder_of(index_path)
    if not manifest.exists(folder):
        return None
    body = manifest.read(folder, KIND, '')
    del body['version']
    found = Description(**body | {'planes': tuple(body['planes']), 'parts': tuple(Part(**part) for part in body['parts'])})
    rows = [part.rows for part in found.parts]
    # Rows are found by counting parts, and columns by counting planes.
    if sum(rows) != found.rows or any(count != PART_ROWS for count in rows[:-1]) or rows[-1] > PART_ROWS:
        raise manifest.damaged(folder, KIND, 'its parts do not cover its rows')
    if list(found.planes) != sorted(found.planes, reverse=True) or found.planes[0] > found.dim or len(found.planes) > code_lib.MOST_BITS:
        raise manifest.damaged(folder, KIND, f'planes {list(found.planes)[:8]} of {found.dim} numbers')
    return found


def write(index_path: str | os.PathLike, description: Description) -> None:
    """Commits a version and removes the files of others. Raises DiskFullError, StorageError."""
    folder = folder_of(index_path)
    manifest.write(folder, KIND, dataclasses.asdict(description))
    remove_unnamed(folder, description)


def remove_unnamed(folder: Folder, description: Description | None) -> None:
    """Removes the files of versions that are no more, and of writers that were killed."""
    named = {manifest.FILE, lock.FILE} | ({description.code_file, *(part.name for part in description.parts)} if description else set())
    for name in folder.children() - named:
        folder.remove(name)


def write_code(folder: Folder, code: code_lib.Code, revision: int) -> str:
    """Writes a fitted code; returns its SHA-256. Raises DiskFullError, StorageError."""
    content = io.BytesIO()
    np.savez(content, mean=code.mean, basis=code.basis, steps=code.steps)
    folder.write(code_file(revision), content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def write_part(folder: Folder, first_row: int, revision: int, words: np.ndarray, factors: np.ndarray) -> Part:
    """Writes words [n, bits] uint32 and factors [rows] float32 of consecutive rows. Raises DiskFullError, StorageError."""
    name, content = part_name(first_row, revision), words.astype('<u4').tobytes() + factors.astype('<f4').tobytes()
    folder.write(name, content)
    return Part(name, len(factors), hashlib.sha256(content).hexdigest())


def required(index: EmbeddingIndex, metric: str) -> Description:
    """Returns the description of the codes that a search of this index may use.

    Raises ConfigError: there are none. IndexFolderError: they are older than the index, of other embeddings, another model or metric.
    """
    found, place = read(index.path), folder_of(index.path)
    if found is None:
        raise errors.ConfigError(f'{index.path}: has no codes; make them with `{COMMAND} {index.path}`')
    if found.model_fingerprint != index.model_fingerprint:
        raise errors.IndexFolderError(f'{place}: of another model (codes {found.model_fingerprint}, index {index.model_fingerprint}); '
                                      f'make them again with `{COMMAND} {index.path}`')
    if index.digest_of(found.rows) != found.rows_digest:
        raise errors.IndexFolderError(f'{place}: made of other embeddings than the index has now; make them again with '
                                      f'`{COMMAND} {index.path}`')
    if found.rows < len(index):
        raise errors.IndexFolderError(f'{place}: older than the index ({found.rows} of {len(index)} passages have codes); add the others '
                                      f'with `{COMMAND} {index.path}`')
    if found.metric != metric:
        raise errors.IndexFolderError(f'{place}: made for the metric {found.metric}, SearchConfig.metric is {metric}; make them again with '
                                      f'`{COMMAND} {index.path} --metric {metric}`')
    return found


class SavedCodes:
    """The codes of one version, read from their files."""

    def __init__(self, index_path: str | os.PathLike, description: Description):
        """Reads the fitted code.

        Raises IndexFolderError: it is missing or damaged. StorageError.
        """
        self.description, self._folder = description, folder_of(index_path)
        name = description.code_file
        if what := self._problem(name, description.code_sha256):
            raise self._damaged(name, what)
        try:
            arrays = npz.read(self._folder.mapped(name, description.code_sha256))
            self.code = code_lib.Code(arrays['mean'], arrays['basis'], arrays['steps'], description.planes)
        except (ValueError, KeyError, OSError) as error:
            raise self._damaged(name, str(error)) from error
        dim, width = description.dim, description.planes[0]
        if any(array.shape != shape or array.dtype != np.float32 for array, shape in (
                (self.code.mean, (dim,)), (self.code.basis, (dim, width)), (self.code.steps, (width,)))):
            raise self._damaged(name, f'not the arrays of a code of {dim} numbers')

    def problems(self) -> list[tuple[str, str, int, int]]:
        """Reads all parts; returns (path, damage, first row, row behind the last) of those that are damaged."""
        found, first = [], 0
        for part in self.description.parts:
            if what := self._problem(part.name, part.sha256):
                found.append((f'{self._folder}/{part.name}', what, first, first + part.rows))
            first += part.rows
        return found

    def part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a part: words [n, bits] uint32, factors [rows] float32. Raises IndexFolderError: missing or damaged."""
        part, bits = self.description.parts[number], self.description.bits
        words = -(-part.rows // code_lib.ROWS_OF_A_WORD) * bits
        try:
            # Its size first: what is allocated is bounded by what the manifest says of the rows.
            if (size := self._folder.size(part.name, _WORD_BYTES * (words + part.rows))) != _WORD_BYTES * (words + part.rows):
                raise self._damaged(part.name, f'{size} bytes long instead of {_WORD_BYTES * (words + part.rows)}')
            content = self._folder.read(part.name)
        except OSError as error:
            raise self._damaged(part.name, str(error.strerror)) from error
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise self._damaged(part.name, 'contents differ from those written')
        return (np.frombuffer(content, '<u4', words).reshape(-1, bits), np.frombuffer(content, '<f4', offset=_WORD_BYTES * words))

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads the codes of the rows start to stop, packed so that the first word begins with row `start`.

        Returns words [ceil((stop - start) / 32), bits] uint32, and factors [stop - start] float32; rows past the last have factor 0.
        Raises IndexFolderError: as `part`.
        """
        size, bits = code_lib.ROWS_OF_A_WORD, self.description.bits
        factors, groups = np.zeros(stop - start, np.float32), -(-(stop - start) // size)
        shift = start % size
        # One word more: a row that does not begin a word takes the rest from the next one.
        words, first_word = np.zeros((groups + 1, bits), np.uint32), start // size
        for number in range(start // PART_ROWS, -(-min(stop, self.description.rows) // PART_ROWS)):
            part_words, part_factors = self.part(number)
            first = number * PART_ROWS
            low, high = max(start, first), min(stop, first + len(part_factors))
            factors[low - start:high - start] = part_factors[low - first:high - first]
            low, high = max(first_word, first // size), min(first_word + groups + 1, first // size + len(part_words))
            words[low - first_word:high - first_word] = part_words[low - first // size:high - first // size]
        if shift:
            words[:-1] = (words[:-1] >> np.uint32(shift)) | (words[1:] << np.uint32(size - shift))
        return words[:-1], factors

    def device_arrays(self, mesh: Mesh, rows: int, deleted: np.ndarray) -> types.Codes:
        """Puts the codes on the devices of `mesh`; each process reads its own devices' rows only.

        Args:
          mesh: the devices.
          rows: of the index as it is padded there; a multiple of the device count.
          deleted: [rows with codes] bool, rows that searches must not find.

        Raises IndexFolderError: as `part`.
        """
        groups, local_rows, bits = codes_lib.device_groups(rows, mesh), rows // mesh.size, self.description.bits
        read: dict[int, np.ndarray] = {}  # factors by device, until jax asks for them

        def words_at(where: tuple[slice, ...]) -> np.ndarray:
            device = where[0].indices(groups * mesh.size)[0] // groups
            first, stop = device * local_rows, min((device + 1) * local_rows, self.description.rows)
            words, factors = self.rows(first, max(first, stop))
            read[device] = np.where(deleted[first:stop], 0, factors) if stop > first else factors
            return np.pad(words, ((0, groups - len(words)), (0, 0)))

        def factors_at(where: tuple[slice, ...]) -> np.ndarray:
            device = where[1].indices(2 * groups * mesh.size)[0] // (2 * groups)
            factors = np.pad(read[device], (0, code_lib.ROWS_OF_A_WORD * groups - len(read[device])))
            return np.ascontiguousarray(factors.reshape(-1, codes_lib.BLOCK).T)

        words, factors, turn = (NamedSharding(mesh, spec) for spec in codes_lib.layout(mesh))
        return types.Codes(
            words=jax.make_array_from_callback((groups * mesh.size, bits), words, lambda where: words_at(types.required(where))),
            factors=jax.make_array_from_callback((codes_lib.BLOCK, 2 * groups * mesh.size), factors,
                                                 lambda where: factors_at(types.required(where))),
            turn=jax.device_put(self.code.turn, turn), planes=self.description.planes, rows=rows)

    def _problem(self, name: str, sha256: str) -> str:
        try:
            return self._folder.differs(name, sha256)
        except errors.StorageError as error:
            return str(error)

    def _damaged(self, name: str, what: str) -> errors.IndexFolderError:
        return errors.IndexFolderError(f'{self._folder}/{name}: damaged ({what}); restore it, or delete the folder and make it again with '
                                       f'`{COMMAND}`')


def open_for(index: EmbeddingIndex, metric: str) -> SavedCodes:
    """Opens the codes that a search of this index may use. Raises ConfigError, IndexFolderError: as `required` and `SavedCodes`."""
    return SavedCodes(index.path, required(index, metric))


def problems(index_path: str | os.PathLike) -> list[tuple[str, str, int, int]]:
    """Reads every byte of an index's codes; returns (path, damage, first row, row behind the last) of each damage."""
    try:
        description = read(index_path)
        return [] if description is None else SavedCodes(index_path, description).problems()
    except errors.IndexFolderError as error:
        path, _, what = str(error).partition(': ')
        return [(path, what.split(';')[0], 0, 0)]


def figures(description: Description) -> dict[str, Any]:
    """Returns what `atlas-jax index compress` prints, as JSON values."""
    return {'rows': description.rows, 'bytes_a_row': description.bits / 8, 'factor_bytes_a_row': 4, 'weight': description.weight,
            'metric': description.metric, 'components_by_bit': list(description.planes), 'recall_at_20': float(description.recall_at_20),
            'rescored': description.rescore, 'queries': description.queries, 'fitted_rows': description.fitted_rows}
