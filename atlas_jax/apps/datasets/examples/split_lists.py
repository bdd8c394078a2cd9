"""Published lists of the examples of a split: positions in the publisher's file, or ids.

FiD publishes such lists for Natural Questions and TriviaQA (NQ.train.idx.json and so on). Its train
and dev splits are taken from the publisher's training file, its test split from the development
file.
"""

import collections
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples import releases
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError
from atlas_jax.io import compressed, untrusted

# The split that a list is for, and the publisher's split that it selects from.
_CUT_FROM = {'train': 'train', 'dev': 'train', 'test': 'dev'}
_ExamplesOf = Callable[[PublishedRecord], Iterable[dict[str, Any]]]


def pieces(lists: Sequence[pathlib.Path], published: Sequence[tuple[str, pathlib.Path, str]],
           examples_of: _ExamplesOf) -> list[Piece]:
    """Returns one piece for each list, with the listed examples in the order of the list.

    Args:
      lists: The lists.
      published: (output, path, form) of the publisher's files.
      examples_of: Returns the examples of a record. Raises InputFileError.

    Raises InputFileError: a list is given twice, or without the file it selects from.
    """
    releases.check_distinct(lists)
    made = []
    for number, path in enumerate(lists):
        split = releases.split_of(path)
        cut_from = [
            (file, form) for output, file, form in published if output == _CUT_FROM.get(split)]
        if len(cut_from) != 1:
            needed = (f'the publisher\'s {_CUT_FROM[split]} file'
                      if split in _CUT_FROM else 'a name with train, dev or test in it')
            raise errors.InputFileError(path, f'a list of the examples of a split needs {needed} '
                                              f'beside it, found {len(cut_from)}',
                                        remedy='give lists and files together')
        made.append(
            Piece(f'{number:04}', (path, cut_from[0][0]),
                  functools.partial(_chosen, path, *cut_from[0], split, examples_of)))
    return made


def is_list(path: pathlib.Path) -> bool:
    """Returns whether a file is an array of numbers or texts. Its name is not considered, since
    files get renamed.
    """
    try:
        with compressed.reading(path) as file:
            start = file.read(4096).lstrip(b'\xef\xbb\xbf \t\r\n')
    except errors.InputFileError:
        return False  # the check of the publisher's files reports it
    return start[:1] == b'[' and start[1:].lstrip()[:1] not in (b'{', b'[', b'')


def _entries(path: pathlib.Path) -> list[int] | list[str]:
    """Returns the entries of a list.

    Raises InputFileError: there is something else than whole numbers or texts, or a repeated entry.
    """
    remedy = 'it must hold either positions, from 0, or ids'
    try:
        with compressed.reading(path) as file:
            data = file.read(untrusted.MAX_FILE_BYTES + 1)
        if len(data) > untrusted.MAX_FILE_BYTES:
            raise ValueError(f'more than {untrusted.MAX_FILE_BYTES:,} bytes')
        found = untrusted.parse_json(data)
    except ValueError as error:
        raise errors.InputFileError(path, f'not a list of a split ({error})',
                                    remedy=remedy) from error
    for kind in (int, str):
        if isinstance(found, list) and all(type(entry) is kind for entry in found):
            if len(set(found)) != len(found):
                twice = collections.Counter(found).most_common(1)[0][0]
                raise errors.InputFileError(path, f'{untrusted.shown(twice)} is listed twice',
                                            remedy=remedy)
            return found
    raise errors.InputFileError(path, 'not a list of a split', remedy=remedy)


def _chosen(path: pathlib.Path, file: pathlib.Path, form: str, split: str,
            examples_of: _ExamplesOf) -> Iterator[RowOrError]:
    """Yields the listed examples in the order of the list."""
    entries = _entries(path)
    by_position = bool(entries) and isinstance(entries[0], int)
    places: dict[object, int] = {entry: place for place, entry in enumerate(entries)}
    chosen: dict[int, dict[str, Any]] = {}
    count = 0
    for record in records.read(file, form):
        key = count if by_position else record.fields.get('QuestionId') if isinstance(
            record, PublishedRecord) else None
        count += 1
        # A bad record counts only if the list names it.
        if not isinstance(key, int | str) or (place := places.pop(key, None)) is None:
            continue
        examples = records.attempt(record, lambda record: list(examples_of(record)))
        if isinstance(examples, errors.InputFileError):
            yield examples
        elif examples:
            chosen[place] = examples[-1]
    yield from (OutputRow(split, chosen[place]) for place in sorted(chosen))
    for entry in places:
        yield errors.InputFileError(path, f'{untrusted.shown(entry)} is not in {file.name}, '
                                          f'which has {count:,} examples',
                                    remedy='give the release that the list was made for')
