"""The index that the original saves, `embeddings.N.pt` and `passages.N.pt`, read shard by shard
without unpickling.
"""

import pathlib
import re
from collections.abc import Iterator

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import torch_file
from atlas_jax.corpus.passages import Passage
from atlas_jax.io import untrusted

_NAME = re.compile(r'(embeddings|passages)\.(\d{1,6})\.pt')


class SavedIndex:
    """A folder that the original's `--save_index_path` named. Rows are numbered over all shards.

    Attributes:
      path: the folder.
      rows, dim: number and width of all embeddings.

    Raises ModelFolderError: the folder or a shard is missing, or a shard is not a matrix
    [dim, rows] with the others' dim.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        found: dict[str, set[int]] = {'embeddings': set(), 'passages': set()}
        for name in names:
            if match := _NAME.fullmatch(name):
                found[match[1]].add(int(match[2]))
        count = len(found['embeddings'])
        if not count:
            raise errors.ModelFolderError(f'{path}: no embeddings.N.pt in this folder; give the '
                                          'folder of an index that Atlas saved')
        expected = set(range(max(found['embeddings'] | found['passages']) + 1))
        for kind, numbers in found.items():
            if missing := sorted(expected - numbers):
                raise errors.ModelFolderError(f'{path}: no {kind}.{missing[0]}.pt; copy all '
                                              'shards of the index')
        shapes = [self._tensor(number)[1] for number in range(count)]
        self.dim = shapes[0][0]
        for number, shape in enumerate(shapes):
            if shape[0] != self.dim:
                raise errors.ModelFolderError(f'{self._embeddings_file(number)}: {shape[0]} '
                                              'numbers a passage, other shards have '
                                              f'{self.dim}; copy all shards of one index')
        self._firsts = np.cumsum([0, *(shape[1] for shape in shapes)])
        self.rows = int(self._firsts[-1])
        self._read: tuple[int, np.ndarray] | None = None

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Returns [n, dim] float32 of the given rows [n]. Keeps the shard read last.

        Raises ModelFolderError: a file is damaged.
        """
        found = np.empty((len(rows), self.dim), np.float32)
        shards = np.searchsorted(self._firsts, rows, side='right') - 1
        for number in np.unique(shards):
            is_here = shards == number
            # A column belongs to a passage.
            found[is_here] = self._shard(int(number))[:, rows[is_here] - self._firsts[number]].T
        return found

    def passages(self, row_ids: bool = False) -> Iterator[Passage]:
        """Yields the passages of all rows.

        Args:
          row_ids: uses row numbers as docids, for files whose ids repeat.

        Raises ModelFolderError: a file is damaged, holds objects other than dicts of text, or has a
        wrong number of them.
        """
        row = 0
        for number in range(len(self._firsts) - 1):
            file, found = self._passages_file(number), self._list(number)
            expected = int(self._firsts[number + 1] - self._firsts[number])
            if len(found) != expected:
                raise errors.ModelFolderError(f'{file}: {len(found)} passages, '
                                              f'embeddings.{number}.pt has {expected}; copy both '
                                              'files of one index')
            for place, written in enumerate(found):
                yield self._passage(file, place, written, str(row) if row_ids else None)
                row += 1

    def _passage(self, file: pathlib.Path, place: int, written: object,
                 docid: str | None) -> Passage:
        if not isinstance(written, dict):
            raise errors.ModelFolderError(f'{file}: passage {place} is no dict; give an index '
                                          'that Atlas saved')
        fields = {
            name: '' if (value := written.get(name)) is None else value
            for name in ('id', 'title', 'section', 'text')}
        if type(fields['id']) is int:
            fields['id'] = str(fields['id'])
        if wrong := [name for name, value in fields.items() if not isinstance(value, str)]:
            raise errors.ModelFolderError(f'{file}: passage {place}, field "{wrong[0]}": '
                                          f'{untrusted.shown(fields[wrong[0]])} is no text')
        docid = fields['id'] if docid is None else docid
        if not docid:
            raise errors.ModelFolderError(f'{file}: passage {place} has no id; name passages by '
                                          'their rows with --row_ids')
        return Passage(docid, fields['title'].strip(), fields['section'].strip(),
                       fields['text'].strip() or fields['title'].strip())

    def _list(self, number: int) -> list:
        """Returns the list in a passages file, a plain pickle or a file of torch.save."""
        file = self._passages_file(number)
        found = torch_file.read_object(file)
        if not isinstance(found, list):
            raise errors.ModelFolderError(f'{file}: expected a list of passages, found '
                                          f'{type(found).__name__}; give an index that Atlas '
                                          'saved')
        return found

    def _shard(self, number: int) -> np.ndarray:
        """Returns [dim, rows] of a shard, in its saved dtype."""
        if self._read is None or self._read[0] != number:
            self._read = None  # two shards would double the memory
            self._read = number, self._tensor(number)[0].read('', None)
        return self._read[1]

    def _tensor(self, number: int) -> tuple[torch_file.TorchFile, tuple[int, ...]]:
        file = torch_file.TorchFile(self._embeddings_file(number))
        if file.names() != {''} or len(file.shape('')) != 2:
            raise errors.ModelFolderError(f'{file.path}: expected one matrix [numbers, passages]; '
                                          'give an index that Atlas saved')
        return file, file.shape('')

    def _embeddings_file(self, number: int) -> pathlib.Path:
        return untrusted.inside(self.path, f'embeddings.{number}.pt')

    def _passages_file(self, number: int) -> pathlib.Path:
        return untrusted.inside(self.path, f'passages.{number}.pt')
