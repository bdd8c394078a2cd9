"""Published lists of the examples of a split: positions in the publisher's file, or ids.

FiD publishes them for Natural Questions and TriviaQA (NQ.train.idx.json and so on): train and dev are cut from the publisher's training
file, and test is its development file.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from atlas_jax import errors
from atlas_jax.datasets.examples import records, releases
from atlas_jax.datasets.source import Bad, Piece, Row
from atlas_jax.io import compressed, untrusted

# The split that a list names, and the file that it is cut from.
_CUT_FROM = {'train': 'train', 'dev': 'train', 'test': 'dev'}
Entries = list[int] | list[str]


def pieces(files: Sequence[pathlib.Path], command: str, examples_of: Callable[[records.Record], Iterable[records.Example]],
           counted: str = '') -> list[Piece]:
    """Returns pieces as `records.pieces`; with lists among the files one for each list, in its order.

    Raises InputFileError: a wrong release, or a list without the file that it is cut from.
    """
    lists = [path for path in files if _is_list(path)]
    published = releases.check([path for path in files if path not in lists], command)
    if not lists:
        return records.pieces(published, examples_of, counted)
    releases.distinct(lists)
    made = []
    for number, path in enumerate(lists):
        split = releases.split_of(path)
        cut_from = [(file, form) for output, file, form in published if output == _CUT_FROM.get(split)]
        if len(cut_from) != 1:
            needed = f'the publisher\'s {_CUT_FROM[split]} file' if split in _CUT_FROM else 'a name with train, dev or test in it'
            raise errors.InputFileError(path, f'a list of the examples of a split needs {needed} beside it, found {len(cut_from)}',
                                        remedy='give lists and files together')
        made.append(Piece(f'{number:04}', (path, cut_from[0][0]), functools.partial(_chosen, path, *cut_from[0], split, examples_of)))
    return made


def _is_list(path: pathlib.Path) -> bool:
    # Such a file is an array of numbers or texts; the name is not asked, for people rename files.
    try:
        with compressed.reading(path) as file:
            start = file.read(4096).lstrip(b'\xef\xbb\xbf \t\r\n')
    except errors.InputFileError:
        return False  # what is wrong with it is told with what is expected of it
    return start[:1] == b'[' and start[1:].lstrip()[:1] not in (b'{', b'[', b'')


def _entries(path: pathlib.Path) -> Entries:
    """Returns the list. Raises InputFileError: it holds something else than whole numbers or texts, or one twice."""
    remedy = 'it must hold either positions, from 0, or ids'
    try:
        with compressed.reading(path) as file:
            data = file.read(untrusted.MAX_FILE_BYTES + 1)
        if len(data) > untrusted.MAX_FILE_BYTES:
            raise ValueError(f'more than {untrusted.MAX_FILE_BYTES:,} bytes')
        found = untrusted.parse_json(data)
    except ValueError as error:
        raise errors.InputFileError(path, f'no list of a split ({error})', remedy=remedy) from error
    for kind in (int, str):
        if isinstance(found, list) and all(type(entry) is kind for entry in found):
            if len(set(found)) != len(found):
                twice = next(entry for number, entry in enumerate(found) if entry in set(found[:number]))
                raise errors.InputFileError(path, f'{untrusted.shown(twice)} stands twice in it', remedy=remedy)
            return found
    raise errors.InputFileError(path, 'no list of a split', remedy=remedy)


def _chosen(path: pathlib.Path, file: pathlib.Path, form: str, split: str,
            examples_of: Callable[[records.Record], Iterable[records.Example]]) -> Iterator[Row | Bad]:
    """Yields the listed examples in the order of the list."""
    entries = _entries(path)
    by_position = bool(entries) and isinstance(entries[0], int)
    places: dict[object, int] = {entry: place for place, entry in enumerate(entries)}
    chosen: dict[int, records.Example] = {}
    count = 0
    for record in records.read(file, form):
        key = count if by_position else record.fields.get('QuestionId') if isinstance(record, records.Record) else None
        count += 1
        # A bad record that no list asks for is nobody's trouble.
        if not isinstance(key, int | str) or (place := places.pop(key, None)) is None:
            continue
        try:
            if isinstance(record, errors.InputFileError):
                raise record
            for example in examples_of(record):
                chosen[place] = example
        except errors.InputFileError as error:
            yield Bad(error)
    yield from (Row(split, chosen[place]) for place in sorted(chosen))
    for entry in places:
        yield Bad(errors.InputFileError(path, f'{untrusted.shown(entry)} is not in {file.name}, which has {count:,} examples',
                                        remedy='give the release that the list was made for'))
