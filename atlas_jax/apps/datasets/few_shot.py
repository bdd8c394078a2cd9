"""Few-shot choice: selects a few rows of example files by a seed or a list, and writes them with
their own list.

    FILE.ids    JSON lines {"id": the row's id or null, "row": its number through all files, from 0,
                "asked": its question, claim or text}
"""

import dataclasses
import hashlib
import heapq
import json
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import rows
from atlas_jax.apps.datasets.rows import FileRow
from atlas_jax.io import compressed, file_list, jsonl, untrusted

_OURS = {'id', 'row', 'asked'}
_NAMED = 5  # entries that a message names
_MAX_LIST_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One entry of a list: its place in the list, and how its row is found."""

    place: str
    docid: str | None = None
    row: int | None = None
    asked: str | None = None

    @property
    def key(self) -> tuple[str, Any]:
        """The kind and value by which the row is found."""
        # The number counts only if there is nothing better: files may be given in another order.
        if self.docid is not None:
            return 'docid', self.docid
        return ('row', self.row) if self.asked is None else ('asked', rows.normalised(self.asked))

    def best_of(self, lines: Sequence[FileRow]) -> FileRow:
        """Returns the entry's row among several with its key: the one with its row number, or the
        first if the files have changed.
        """
        # Normalised texts are equal for formulas that differ only in signs.
        same = [line for line in lines if self.asked in (None, line.asked)] or lines
        return next((line for line in same if line.row == self.row), same[0])

    @property
    def shown(self) -> str:
        """The entry as a message names it."""
        kind, value = self.key
        name = {'docid': 'id ', 'row': 'row '}.get(kind, '')
        return f'{name}{untrusted.shown(value)} ({self.place})'


def by_seed(paths: file_list.Paths, count: int, seed: int, per: str = '',
            label: str = '') -> list[FileRow]:
    """Draws `count` distinct rows, or `count` for each value of the field `per`. Reads the files
    once and holds only the drawn rows.

    A row's rank is a hash of the seed and its content. The order and number of the files do not
    matter, and the first n rows of a larger choice are the choice of n.

    Raises InputFileError: a row lacks the field, or there are fewer than `count` rows.
    """
    # For each value: the rows drawn so far by rank, and a heap with the worst rank on top.
    drawn: dict[str, dict[int, FileRow]] = defaultdict(dict)
    heaps: dict[str, list[int]] = defaultdict(list)
    for line in rows.read(paths, label):
        value = _value(line, per) if per else ''
        rank, chosen, heap = _rank(line, seed), drawn[value], heaps[value]
        # A repeated row counts once. If it was dropped before, it is dropped again.
        if rank in chosen:
            continue
        chosen[rank] = line
        heapq.heappush(heap, -rank)
        if len(heap) > count:
            del chosen[-heapq.heappop(heap)]
    for value, chosen in sorted(drawn.items()):
        if len(chosen) < count:
            which = f' with "{per}" {json.dumps(value, ensure_ascii=False)}' if per else ''
            raise errors.InputFileError(
                file_list.summary(paths),
                f'{len(chosen)} different rows{which}, {count} were asked for',
                remedy='give a smaller --n, or more files')
    # Classes are mixed, so that the first batch has some of each.
    together = {rank: line for chosen in drawn.values() for rank, line in chosen.items()}
    return [together[rank] for rank in sorted(together)]


def by_list(paths: file_list.Paths, ids_file: pathlib.Path, name: str = '',
            label: str = '') -> list[FileRow]:
    """Returns the rows that a list names, in its order. Reads the files once and holds only the
    named rows.

    A list is one of: a FILE.ids (see above); the examples themselves, such as the original's
    *.64-shot.jsonl, which are found by their questions; or JSON with row numbers from 0 or ids,
    such as FiD's dataindex, plain or under a name as in {"0": [17, 4]}.

    Args:
      paths: Files, folders and patterns with the examples.
      ids_file: The list.
      name: The list to use in a file that has several.
      label: The label of the progress bar; '' shows none.

    Raises InputFileError: the file is not a list, an entry is repeated, invalid or has no row, or
    two rows have an id that is named.
    """
    entries = _entries(ids_file, name)
    numbers: dict[tuple[str, Any], int] = {}
    for number, entry in enumerate(entries):
        # The files may have a text as often as it is listed; an id or a number names one row.
        if entry.key[0] != 'asked' and (first := numbers.setdefault(entry.key, number)) != number:
            raise errors.InputFileError(ids_file,
                                        f'{entry.shown} is listed before ({entries[first].place})',
                                        remedy='name each row once')
    fitting = _fitting(paths, {entry.key for entry in entries}, label)
    chosen, missing = [], []
    for entry in entries:
        found = fitting[entry.key]
        if not found:
            missing.append(entry)
            continue
        chosen.append(entry.best_of(found))
        found.remove(chosen[-1])
    if missing:
        more = f' and {len(missing) - _NAMED} more' if len(missing) > _NAMED else ''
        named = ', '.join(entry.shown for entry in missing[:_NAMED])
        raise errors.InputFileError(
            ids_file, f'{len(missing)} of {len(entries)} entries are not in '
            f'{file_list.summary(paths)}: {named}{more}',
            remedy='give the files that the list was made of')
    _check_texts(ids_file, entries, chosen)
    return chosen


def _fitting(paths: file_list.Paths, keys: set[tuple[str, Any]],
             label: str) -> dict[tuple[str, Any], list[FileRow]]:
    """Returns the rows of each key, in the order of the files.

    Raises InputFileError: two rows have an id that is named.
    """
    by_text = any(kind == 'asked' for kind, _ in keys)
    found: dict[tuple[str, Any], list[FileRow]] = defaultdict(list)
    for line in rows.read(paths, label):
        own: list[tuple[str, Any]] = [('docid', line.docid), ('row', line.row)]
        own += [('asked', rows.normalised(line.asked))] if by_text else []
        for key in keys.intersection(own):
            if key[0] == 'docid' and found[key]:
                raise errors.InputFileError(
                    line.file,
                    f'"{line.docid}" was the id of an earlier row ({found[key][0].place})',
                    line=line.line, field='id',
                    remedy='give each row its own, or choose among one file')
            found[key].append(line)
    return found


def check_output(paths: file_list.Paths, path: pathlib.Path, split: str = '',
                 ids_file: pathlib.Path | None = None) -> None:
    """Raises InputFileError: the examples or their list would replace a file that is read, or
    `path` is not a name for a file of examples.
    """
    if path.is_dir() and not split:
        raise errors.InputFileError(path, 'a folder',
                                    remedy='give a file to write, or --split FIELD')
    if not split and path.suffix != '.jsonl':
        raise errors.InputFileError(path, 'not the name of a JSON-lines file',
                                    remedy='let it end in .jsonl')
    read = {
        file.resolve() for file in [*file_list.files_of(paths), *([ids_file] if ids_file else [])]}
    for file in () if split else (path, ids_file_of(path)):
        if file.resolve() in read:
            raise errors.InputFileError(file, 'is read, and would be written over',
                                        remedy='give another --to')


def write(lines: Sequence[FileRow], paths: file_list.Paths, path: pathlib.Path,
          split: str = '') -> dict[pathlib.Path, int]:
    """Writes the rows and, beside them, their list (FILE.ids). With `split`, writes a file for each
    value of that field into the folder `path`.

    Returns the number of rows by file.

    Raises InputFileError: a file would replace one of `paths`, from which the rows were read; a row
    lacks the field; or its value cannot name a file.
    """
    outputs: dict[pathlib.Path, list[FileRow]] = defaultdict(list)
    for line in lines:
        outputs[_file_of(line, path, split) if split else path].append(line)
    for file in outputs:
        check_output(paths, file)
    for file, chosen in outputs.items():
        jsonl.write(file, (line.fields for line in chosen))
        # Not .jsonl: training on a folder reads all its .jsonl files.
        jsonl.write(ids_file_of(file),
                    ({'id': line.docid, 'row': line.row, 'asked': line.asked} for line in chosen))
    return {file: len(chosen) for file, chosen in outputs.items()}


def ids_file_of(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the list of a file of chosen examples: few.ids for few.jsonl."""
    return path.with_suffix('.ids')


def _rank(line: FileRow, seed: int) -> int:
    content = json.dumps(line.fields, sort_keys=True,
                         ensure_ascii=False).encode(errors='surrogatepass')
    return int.from_bytes(hashlib.blake2b(content, digest_size=16, key=str(seed).encode()).digest())


def _value(line: FileRow, field: str) -> str:
    value = line.fields.get(field)
    if not isinstance(value, str | int | bool):
        problem = 'missing' if value is None else (
            f'expected a text or a number, found {type(value).__name__}')
        raise errors.InputFileError(line.file, problem, line=line.line, field=field,
                                    remedy=f'fields found: {", ".join(sorted(line.fields))[:200]}')
    return value if isinstance(value, str) else json.dumps(value)


def _file_of(line: FileRow, folder: pathlib.Path, field: str) -> pathlib.Path:
    value = _value(line, field)
    try:
        file = untrusted.inside(folder, f'{value}.jsonl', links=False)
        if file.parent != folder:
            raise ValueError(f'the name {value[:80]!r} has a slash')
    except ValueError as error:
        raise errors.InputFileError(line.file, f'cannot name a file: {error}', line=line.line,
                                    field=field, remedy='give another field to --split') from error
    return file


def _check_texts(ids_file: pathlib.Path, entries: Sequence[_Entry],
                 chosen: Sequence[FileRow]) -> None:
    """Raises InputFileError: a row's text has changed since the list was written."""
    for entry, line in zip(entries, chosen, strict=True):
        if entry.asked is not None and rows.normalised(entry.asked) != rows.normalised(line.asked):
            raise errors.InputFileError(
                ids_file, f'{entry.shown} reads {untrusted.shown(line.asked)} in {line.place}, and '
                f'{untrusted.shown(entry.asked)} in the list',
                remedy='give the files that the list was made of, in their order')


def _entries(file: pathlib.Path, name: str) -> list[_Entry]:
    """Reads a list of any kind. Raises InputFileError."""
    with compressed.reading(file) as stream:
        content = stream.read(_MAX_LIST_BYTES + 1)
    if len(content) > _MAX_LIST_BYTES:
        raise errors.InputFileError(file, f'more than {_MAX_LIST_BYTES:,} bytes',
                                    remedy='give a list of ids')
    try:
        value = untrusted.parse_json(content.removeprefix(b'\xef\xbb\xbf').decode())
    except ValueError:
        value = None  # several lines, or broken; jsonl says where
    # An object with one of our fields is a file of one example.
    if isinstance(value, list) or isinstance(value, dict) and not (
            _OURS | set(rows.ASKED)) & value.keys():
        listed = _named_list(file, value, name)
        entries = [_bare_entry(file, number, each) for number, each in enumerate(listed)]
    else:
        entries = [_line_entry(file, number, row) for number, row in jsonl.read(file)]
    if not entries:
        raise errors.InputFileError(file, 'an empty list',
                                    remedy='it needs an id, a row number or an example for each '
                                           'row to choose')
    return entries


def _named_list(file: pathlib.Path, value: Any, name: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if name and name not in value or not value:
        raise errors.InputFileError(
            file, f'no list "{name}"',
            remedy=f'lists found: {", ".join(sorted(value))[:200] or "none"}')
    if name or len(value) == 1:
        value = value[name] if name else next(iter(value.values()))
        return value if isinstance(value, list) else [value]
    # An object of numbers is one list. Several lists could be anything, such as the passages of
    # each question.
    if any(isinstance(each, list | dict) for each in value.values()):
        raise errors.InputFileError(
            file, f'{len(value)} lists',
            remedy=f'choose one by --list: {", ".join(sorted(value))[:200]}')
    return list(value.values())


def _bare_entry(file: pathlib.Path, number: int, value: Any) -> _Entry:
    place = f'entry {number + 1}'
    if isinstance(value, dict):
        return _line_entry(file, number + 1, value, place)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return _Entry(place, row=value)
    if isinstance(value, str) and value:
        return _Entry(place, docid=value)
    raise errors.InputFileError(file, f'{place} is {untrusted.shown(value)}',
                                remedy='entries are row numbers from 0, ids, or examples')


def _line_entry(file: pathlib.Path, number: int, row: dict[str, Any], place: str = '') -> _Entry:
    place = place or f'line {number}'
    if row.keys() != _OURS:
        # Found by the question, not by the id: the original's lists have other ids than the
        # publishers' files.
        return _Entry(place, asked=FileRow(file, number, 0, row).asked)
    docid, position, asked = row['id'], row['row'], row['asked']
    if docid is not None and isinstance(docid, str) and isinstance(asked, str):
        return _Entry(place, docid=docid, asked=asked)
    if docid is not None or not isinstance(position, int) or isinstance(
            position, bool) or position < 0 or not isinstance(asked, str):
        raise errors.InputFileError(file, 'expected "id" as text or null, "row" from 0 and '
                                          '"asked" as text', line=number,
                                    remedy='make the list again')
    return _Entry(place, row=position, asked=asked)
