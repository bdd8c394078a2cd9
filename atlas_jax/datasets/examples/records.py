"""Records of published files: fields taken with errors that name file, line and field."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from atlas_jax import errors
from atlas_jax.datasets import piece_files
from atlas_jax.datasets.source import Bad, Piece, Row
from atlas_jax.io import json_array, jsonl, untrusted

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Record:
    """One object of a published file.

    Attributes:
      path: the file.
      fields: what the publisher wrote.
      line: from 1, in JSON lines or csv.
      place: where it stands in a file that is one JSON value, such as Data[3]; else ''.
    """

    path: pathlib.Path
    fields: Mapping[str, Any]
    line: int | None = None
    place: str = ''

    def wrong(self, field: str, problem: str, remedy: str = '') -> errors.InputFileError:
        """Returns the error that says what is wrong with a field."""
        place = '.'.join(part for part in (self.place, field) if part)
        return errors.InputFileError(self.path, problem, line=self.line, field=place or None, remedy=remedy)

    def text(self, name: str, default: str | None = None) -> str:
        """Returns a text without blanks around it; the default, if there is one, where it is missing, null or blank.

        Raises InputFileError: missing, blank, no text, or one that is no Unicode.
        """
        value = self.fields.get(name)
        if default is not None and (value is None or value == ''):
            return default
        if name not in self.fields:
            raise self.wrong(name, 'missing', f'fields found: {", ".join(sorted(self.fields))[:200]}')
        if not is_text(value) or not (value.strip() or default is not None):
            raise self.wrong(name, f'expected a text that is not blank, found {untrusted.shown(value)}')
        return value.strip()

    def identity(self, name: str) -> str:
        """Returns an id, text or number, as text. Raises InputFileError: missing, blank, or something else."""
        value = self.fields.get(name)
        return str(value) if is_whole(value) else self.text(name)

    def answers(self, name: str) -> list[str]:
        """Returns the different answers of a list of texts, in their order. Raises InputFileError: no list of texts, or no answer in it."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(map(is_text, value)):
            raise self.wrong(name, f'expected a list of texts, found {untrusted.shown(value)}')
        if not (answers := different(value)):
            raise self.wrong(name, 'no answer that is not blank')
        return answers

    def objects(self, name: str) -> list['Record']:
        """Returns a list of objects, each with its own place; an absent or null one is empty. Raises InputFileError: something else."""
        value = self.fields.get(name) or []
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            raise self.wrong(name, f'expected a list of objects, found {untrusted.shown(value)}')
        place = f'{self.place}.{name}' if self.place else name
        return [dataclasses.replace(self, fields=part, place=f'{place}[{number}]') for number, part in enumerate(value)]


def is_text(value: object) -> TypeGuard[str]:
    """Returns whether a value of JSON is text that can be written; half of a surrogate pair cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_whole(value: object) -> TypeGuard[int]:
    """Returns whether a value of JSON is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def different(texts: Iterable[str]) -> list[str]:
    """Returns the texts that are not blank, without blanks around them, each once, in their order."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def read(path: pathlib.Path, form: str) -> Iterator[Record | errors.InputFileError]:
    """Yields the records of a file, and in place of one that cannot be read its error.

    Args:
      path: compressed or not.
      form: 'lines' of JSON, 'array' of objects, or the member of an object that is one, such as Data.

    Raises InputFileError: the file is missing, truncated or damaged, so that nothing behind can be read.
    """
    if form == 'lines':
        for line, fields in jsonl.read_each(path):
            yield fields if isinstance(fields, errors.InputFileError) else Record(path, fields, line=line)
        return
    member = '' if form == 'array' else form
    for number, fields in json_array.elements(path, member):
        place = f'{member}[{number}]'
        if isinstance(fields, dict):
            yield Record(path, fields, place=place)
        else:
            yield errors.InputFileError(path, f'expected an object, found {untrusted.shown(fields)}', field=place)


def convert(files: Sequence[tuple[pathlib.Path, str]], output: str, examples_of: Callable[[Record], Iterable[Example]],
            counted: str = '') -> Iterator[Row | Bad]:
    """Yields the examples of the files of one output; an id that an earlier one has makes an example bad.

    Args:
      files: (path, form) as for `read`.
      output: the file that the examples go to.
      examples_of: makes the examples of a record, none where it is left out. Raises InputFileError.
      counted: the reason why records are left out, for the line that counts them on stderr; '' counts none.
    """
    seen: set[int] = set()  # hashes: two million ids take 150 MB
    for path, form in files:
        total = left_out = 0
        for record in read(path, form):
            total += 1
            try:
                if isinstance(record, errors.InputFileError):
                    raise record
                examples = list(examples_of(record))
                for example in examples:
                    if 'id' in example and (key := piece_files.hash_of(example['id'])) in seen:
                        raise record.wrong('id', f'"{example["id"]}" was the id of an earlier example', 'give each file once')
                    elif 'id' in example:
                        seen.add(key)
            except errors.InputFileError as error:
                yield Bad(error)
                continue
            left_out += not examples
            yield from (Row(output, example) for example in examples)
        if counted and left_out:
            tell(path, f'{left_out:,} of {total:,} {counted}')


def pieces(files: Iterable[tuple[str, pathlib.Path, str]], examples_of: Callable[[Record], Iterable[Example]],
           counted: str = '') -> list[Piece]:
    """Returns one piece for each output: (output, path, form) of the files, the rest as for `convert`."""
    outputs: dict[str, list[tuple[pathlib.Path, str]]] = {}
    for output, path, form in files:
        outputs.setdefault(output, []).append((path, form))
    return [Piece(f'{number:04}', tuple(path for path, _ in parts), functools.partial(convert, parts, output, examples_of, counted))
            for number, (output, parts) in enumerate(outputs.items())]


def tell(path: pathlib.Path, text: str) -> None:
    """Says on stderr what was counted in a file."""
    print(f'{path.name}: {text}', file=sys.stderr, flush=True)
