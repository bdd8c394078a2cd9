"""The codes of an index on disk, in its folder `codes`.

    manifest.json                    a CodesManifest; names everything below
    code-000001.npz                  the fitted code: mean, basis, steps
    000000000000-000001.codes        words and factors of consecutive rows; named by first row and
                                     revision
    lock                             held while a process writes (io/lock.py)

Every other file is a leftover. Files are compared with their SHA-256 when they are read. Deleted
rows are not marked here: the index's own list counts.
"""

import dataclasses
import hashlib
import io
import os
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from atlas_jax import errors, types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import lock, npz, schema, versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers.config import METRICS

FOLDER = 'codes'
PART_ROWS = 32_768  # rows of a file; a multiple of the rows of a word
COMMAND = 'atlas-jax index compress'
_WORD_BYTES = 4
_Revision = Annotated[int, schema.Integer(1, 10**9)]
_Dim = Annotated[int, schema.Integer(1, 2**24)]


@dataclasses.dataclass(frozen=True)
class CodesPart:
    """A file with the codes of `rows` consecutive rows."""

    name: Annotated[str, schema.Text(r'\d{12,}-\d{6,}\.codes', 'the name of a part')]
    rows: schema.Positive
    sha256: schema.Sha256


@dataclasses.dataclass(frozen=True)
class CodesManifest:
    """One version of the codes of an index.

    revision           number of the version, from 1
    rows               rows with codes, deleted ones included
    rows_digest        EmbeddingIndex.digest_of of these rows
    model_fingerprint  fingerprint of the model that built the index
    metric             metric of the searches that the codes are for
    weight             how the bits were distributed (code.fit)
    dim, planes        fields of the code
    code_sha256        SHA-256 of the code's file, which is numbered by fitted_revision
    fitted_rows        rows of the index when the code was fitted and its recall measured
    recall_at_20       share of the true 20 among `rescore` candidates, over `queries` queries
    parts              parts in row order; all but the last have PART_ROWS rows
    """

    revision: _Revision
    rows: Annotated[int, schema.Integer(1, 2**40)]
    rows_digest: str
    model_fingerprint: str
    metric: Annotated[str, schema.one_of(METRICS, 'a metric')]
    weight: Annotated[str, schema.one_of(code_lib.WEIGHTS, 'a weight')]
    dim: _Dim
    planes: Annotated[tuple[_Dim, ...], schema.Items(1)]
    code_sha256: schema.Sha256
    fitted_revision: _Revision
    fitted_rows: schema.Positive
    recall_at_20: Annotated[str, schema.Text(r'[01]\.\d{4}', 'a share with four digits')]
    rescore: schema.Positive
    queries: schema.Positive
    parts: Annotated[tuple[CodesPart, ...], schema.Items(1)]

    @property
    def bits(self) -> int:
        """Bits of a row."""
        return sum(self.planes)

    @property
    def code_file(self) -> str:
        """File name of the code."""
        return code_file(self.fitted_revision)


def code_file(revision: int) -> str:
    """Returns the file name of the code that was fitted for a revision."""
    return f'code-{revision:06d}.npz'


def part_name(first_row: int, revision: int) -> str:
    """Returns the file name of a part."""
    return f'{first_row:012d}-{revision:06d}.codes'


def _leftovers(folder: Folder, current: CodesManifest | None) -> list[str]:
    named = {versioned_folder.FILE, lock.FILE}
    if current is not None:
        named |= {current.code_file, *(part.name for part in current.parts)}
    return sorted(folder.children() - named)


def _contradiction(current: CodesManifest) -> str:
    rows = [part.rows for part in current.parts]
    # Rows are found by counting parts, and columns by counting planes.
    if sum(rows) != current.rows or any(count != PART_ROWS
                                        for count in rows[:-1]) or rows[-1] > PART_ROWS:
        return 'its parts do not cover its rows'
    planes = list(current.planes)
    if planes != sorted(planes, reverse=True) or planes[0] > current.dim or len(
            planes) > code_lib.MOST_BITS:
        return f'planes {planes[:8]} of {current.dim} numbers'
    return ''


KIND = versioned_folder.FolderKind[CodesManifest](
    'codes', CodesManifest, errors.IndexFolderError, f'{COMMAND} INDEX', 'atlas_jax codes',
    leftovers=_leftovers, contradiction=_contradiction)


def folder_of(index_path: str | os.PathLike) -> Folder:
    """Returns the folder of an index's codes."""
    return Folder(index_path) / FOLDER


def read(index_path: str | os.PathLike) -> CodesManifest | None:
    """Returns the description of an index's codes; None if it has none.

    Raises IndexFolderError: it is damaged or of another version. StorageError.
    """
    return KIND.read_if_there(folder_of(index_path))


def write(index_path: str | os.PathLike, description: CodesManifest) -> None:
    """Commits a version and removes the files of others. Raises DiskFullError, StorageError."""
    KIND.write(folder_of(index_path), description)
    KIND.remove_leftovers(folder_of(index_path), description)


def write_code(folder: Folder, code: code_lib.Code, revision: int) -> str:
    """Writes a fitted code; returns its SHA-256. Raises DiskFullError, StorageError."""
    content = io.BytesIO()
    np.savez(content, mean=code.mean, basis=code.basis, steps=code.steps)
    folder.write(code_file(revision), content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def write_part(folder: Folder, first_row: int, revision: int, words: np.ndarray,
               factors: np.ndarray) -> CodesPart:
    """Writes words [n, bits] uint32 and factors [rows] float32 of consecutive rows.

    Raises DiskFullError, StorageError.
    """
    name, content = part_name(
        first_row, revision), words.astype('<u4').tobytes() + factors.astype('<f4').tobytes()
    folder.write(name, content)
    return CodesPart(name, len(factors), hashlib.sha256(content).hexdigest())


def required(index: EmbeddingIndex, metric: str) -> CodesManifest:
    """Returns the description of the codes that a search of this index may use.

    Raises ConfigError: there are no codes. IndexFolderError: they are older than the index, or
    belong to other embeddings, another model or another metric.
    """
    found, place = read(index.path), folder_of(index.path)
    if found is None:
        raise errors.ConfigError(f'{index.path}: has no codes; make them with `{COMMAND} '
                                 f'{index.path}`')
    if found.model_fingerprint != index.model_fingerprint:
        raise errors.IndexFolderError(f'{place}: of another model (codes '
                                      f'{found.model_fingerprint}, index '
                                      f'{index.model_fingerprint}); '
                                      f'make them again with `{COMMAND} {index.path}`')
    if index.digest_of(found.rows) != found.rows_digest:
        raise errors.IndexFolderError(f'{place}: made of other embeddings than the index has now; '
                                      'make them again with '
                                      f'`{COMMAND} {index.path}`')
    if found.rows < len(index):
        raise errors.IndexFolderError(f'{place}: older than the index ({found.rows} of '
                                      f'{len(index)} passages have codes); add the others '
                                      f'with `{COMMAND} {index.path}`')
    if found.metric != metric:
        raise errors.IndexFolderError(f'{place}: made for the metric {found.metric}, '
                                      f'SearchConfig.metric is {metric}; make them again with '
                                      f'`{COMMAND} {index.path} --metric {metric}`')
    return found


class SavedCodes:
    """The codes of one version; reads them from their files."""

    def __init__(self, index_path: str | os.PathLike, description: CodesManifest):
        """Reads the fitted code.

        Raises IndexFolderError: it is missing or damaged. StorageError.
        """
        self.description, self._folder = description, folder_of(index_path)
        name = description.code_file
        if difference := self._folder.differs(name, description.code_sha256):
            raise self._damaged(name, difference)
        try:
            arrays = npz.read(self._folder.mapped(name, description.code_sha256))
            self.code = code_lib.Code(arrays['mean'], arrays['basis'], arrays['steps'],
                                      description.planes)
        except (ValueError, KeyError, OSError) as error:
            raise self._damaged(name, str(error)) from error
        dim, width = description.dim, description.planes[0]
        if any(array.shape != shape or array.dtype != np.float32
               for array, shape in ((self.code.mean, (dim, )), (self.code.basis, (dim, width)),
                                    (self.code.steps, (width, )))):
            raise self._damaged(name, f'not the arrays of a code of {dim} numbers')

    def problems(self) -> list[Damage]:
        """Reads all parts; returns the damage with the rows that it affects."""
        rows, first = {}, 0
        for part in self.description.parts:
            rows[part.name] = first, first + part.rows
            first += part.rows
        files = {part.name: (None, part.sha256) for part in self.description.parts}
        return list(versioned_folder.damaged_files(self._folder, files, contents=True,
                                                   rows=rows.__getitem__))

    def part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a part: words [n, bits] uint32, factors [rows] float32.

        Raises IndexFolderError: missing or damaged.
        """
        part, bits = self.description.parts[number], self.description.bits
        words = -(-part.rows // code_lib.ROWS_OF_A_WORD) * bits
        try:
            # The size is checked first, so that the manifest's rows bound the memory.
            if (size := self._folder.size(
                    part.name,
                    _WORD_BYTES * (words + part.rows))) != _WORD_BYTES * (words + part.rows):
                raise self._damaged(part.name, f'{size} bytes long instead of '
                                               f'{_WORD_BYTES * (words + part.rows)}')
            content = self._folder.read(part.name)
        except OSError as error:
            raise self._damaged(part.name, str(error.strerror)) from error
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise self._damaged(part.name, 'contents differ from those written')
        return (np.frombuffer(content, '<u4', words).reshape(-1, bits),
                np.frombuffer(content, '<f4', offset=_WORD_BYTES * words))

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads the codes of the rows start to stop, packed so that the first word begins with row
        `start`.

        Returns words [ceil((stop - start) / 32), bits] uint32 and factors [stop - start] float32.
        Rows past the last have factor 0. Raises the same errors as `part`.
        """
        size, bits = code_lib.ROWS_OF_A_WORD, self.description.bits
        factors, groups = np.zeros(stop - start, np.float32), -(-(stop - start) // size)
        shift = start % size
        # One word more, because rows may be shifted across the border of two words.
        words, first_word = np.zeros((groups + 1, bits), np.uint32), start // size
        for number in range(start // PART_ROWS, -(-min(stop, self.description.rows) // PART_ROWS)):
            part_words, part_factors = self.part(number)
            first = number * PART_ROWS
            low, high = max(start, first), min(stop, first + len(part_factors))
            factors[low - start:high - start] = part_factors[low - first:high - first]
            low, high = max(first_word, first // size), min(first_word + groups + 1,
                                                            first // size + len(part_words))
            words[low - first_word:high - first_word] = part_words[low - first // size:high -
                                                                   first // size]
        if shift:
            words[:-1] = (words[:-1] >> np.uint32(shift)) | (words[1:] << np.uint32(size - shift))
        return words[:-1], factors

    def device_arrays(self, mesh: Mesh, rows: int, deleted: np.ndarray) -> types.Codes:
        """Puts the codes on the devices of `mesh`. Each process reads only its own devices' rows.

        Args:
          mesh: the devices.
          rows: rows of the padded index; a multiple of the device count.
          deleted: [rows with codes] bool, True for rows that searches must not find.

        Raises the same errors as `part`.
        """
        groups, local_rows, bits = codes_lib.device_groups(
            rows, mesh), rows // mesh.size, self.description.bits
        read: dict[int, np.ndarray] = {}  # factors by device, until jax needs them

        def words_at(where: tuple[slice, ...]) -> np.ndarray:
            device = where[0].indices(groups * mesh.size)[0] // groups
            first, stop = device * local_rows, min((device + 1) * local_rows, self.description.rows)
            words, factors = self.rows(first, max(first, stop))
            read[device] = np.where(deleted[first:stop], 0, factors) if stop > first else factors
            return np.pad(words, ((0, groups - len(words)), (0, 0)))

        def factors_at(where: tuple[slice, ...]) -> np.ndarray:
            device = where[1].indices(2 * groups * mesh.size)[0] // (2 * groups)
            factors = np.pad(read[device],
                             (0, code_lib.ROWS_OF_A_WORD * groups - len(read[device])))
            return np.ascontiguousarray(factors.reshape(-1, codes_lib.BLOCK).T)

        words, factors, turn = (NamedSharding(mesh, spec) for spec in codes_lib.layout(mesh))
        return types.Codes(
            words=jax.make_array_from_callback((groups * mesh.size, bits), words,
                                               lambda where: words_at(types.required(where))),
            factors=jax.make_array_from_callback((codes_lib.BLOCK, 2 * groups * mesh.size), factors,
                                                 lambda where: factors_at(types.required(where))),
            turn=jax.device_put(self.code.turn, turn), planes=self.description.planes, rows=rows)

    def _damaged(self, name: str, what: str) -> errors.IndexFolderError:
        return errors.IndexFolderError(f'{self._folder}/{name}: damaged ({what}); restore it, or '
                                       'delete the folder and make it again with '
                                       f'`{COMMAND}`')


def open_for(index: EmbeddingIndex, metric: str) -> SavedCodes:
    """Opens the codes that a search of this index may use.

    Raises the same errors as `required` and `SavedCodes`.
    """
    return SavedCodes(index.path, required(index, metric))


def problems(index_path: str | os.PathLike) -> list[Damage]:
    """Reads every byte of an index's codes and returns the damage. Raises StorageError."""
    try:
        description = read(index_path)
        return [] if description is None else SavedCodes(index_path, description).problems()
    except errors.IndexFolderError as error:
        return [versioned_folder.as_damage(error)]


def figures(description: CodesManifest) -> dict[str, Any]:
    """Returns what `atlas-jax index compress` prints, as JSON values."""
    return {
        'rows': description.rows, 'bytes_a_row': description.bits / 8, 'factor_bytes_a_row': 4,
        'weight': description.weight, 'metric': description.metric,
        'components_by_bit': list(description.planes),
        'recall_at_20': float(description.recall_at_20), 'rescored': description.rescore,
        'queries': description.queries, 'fitted_rows': description.fitted_rows}
