"""One piece of a published data set, converted into files of its own, with a record that tells a later run that it is finished."""

import array
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import IO, Any

from atlas_jax import errors
from atlas_jax.datasets.source import Bad, Piece, Row
from atlas_jax.io import atomic, checksum, untrusted

FOLDER = 'pieces'
_REPORT_ROWS = 256


class Stopped(Exception):
    """Ends a piece that nobody waits for any more."""


@dataclasses.dataclass
class Record:
    """A converted piece.

    Attributes:
      inputs: [name, bytes, time of change] of each file that was read.
      limit: rows after which reading stopped, or None.
      outputs: {output: [rows, bytes, SHA-256]}.
      bad: the parts of an InputFileError for each bad part of the input, in order.
    """

    inputs: list[list[Any]]
    limit: int | None
    outputs: dict[str, list[Any]]
    bad: list[dict[str, Any]]

    @property
    def rows(self) -> int:
        """The rows of all outputs."""
        return sum(rows for rows, _, _ in self.outputs.values())


def inputs_of(files: Sequence[pathlib.Path]) -> list[list[Any]]:
    """Returns [name, bytes, time of change in microseconds] of each file. Raises InputFileError: one is missing."""
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise errors.InputFileError(file, 'no such file', remedy='give the path of a file') from error
        # Microseconds: JSON keeps whole numbers up to 2**53.
        found.append([file.name, status.st_size, status.st_mtime_ns // 1000])
    return found


def output_file(folder: pathlib.Path, number: int, output: str, is_final: bool) -> pathlib.Path:
    """Returns the file of a piece's rows: parts of passages are final as they are, those of examples are joined at the end."""
    return untrusted.inside(folder, f'{output}-{number:05}.jsonl' if is_final else f'{FOLDER}/{number:05}.{output}.jsonl')


def ids_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the file of eight bytes for each docid of a piece."""
    return untrusted.inside(folder, f'{FOLDER}/{number:05}.ids')


def hash_of(docid: str) -> int:
    """Returns eight bytes of a docid's hash as a number: millions are compared in little memory."""
    return int.from_bytes(hashlib.blake2b(docid.encode(), digest_size=8).digest(), 'little')


def convert(piece: Piece, folder: pathlib.Path, number: int, is_passages: bool, limit: int | None, max_bad: int,
            told: Callable[[], None]) -> Record:
    """Reads a piece and writes its files, then its record; the record of a piece with too many bad parts is not written.

    Args:
      piece: what to read.
      folder: of the whole conversion.
      number: the piece's place among all.
      is_passages: the rows are passages with an `id`.
      limit: rows after which reading stops.
      max_bad: bad parts that are listed; reading ends with one more.
      told: called now and then; what it raises ends the piece, and nothing is left of it.

    Raises InputFileError: the input cannot be read on. DiskFullError.
    """
    before = inputs_of(piece.files)
    files: dict[str, _Output] = {}
    bad: list[dict[str, Any]] = []
    hashes, rows = array.array('Q'), 0
    with contextlib.ExitStack() as stack:
        for item in piece.read() if limit != 0 else ():
            found = item if isinstance(item, Bad) else _line(piece, item)
            if isinstance(found, Bad):
                bad.append(found.error.parts)
                if len(bad) > max_bad:
                    break
                continue
            output, docid, line = found
            if output not in files:
                files[output] = _Output(stack.enter_context(atomic.writing(output_file(folder, number, output, is_passages), 'wb')))
            files[output].write(line)
            if is_passages:
                hashes.append(hash_of(docid))
            rows += 1
            if rows % _REPORT_ROWS == 0:
                told()
            if rows == limit:
                break
    outputs = {output: [file.rows, file.bytes, file.digest.hexdigest()] for output, file in sorted(files.items())}
    record = Record(before, limit, outputs, bad)
    if len(bad) <= max_bad:
        if is_passages:
            with atomic.writing(ids_file(folder, number), 'wb') as file:
                file.write(hashes.tobytes())
        atomic.write_json(_record_file(folder, number), {'key': piece.key, **dataclasses.asdict(record)})
    return record


class _Output:
    """A file of rows with its count and checksum."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.rows, self.bytes, self.digest = 0, 0, hashlib.sha256()

    def write(self, line: bytes) -> None:
        """Appends a line."""
        self._file.write(line)
        self.digest.update(line)
        self.rows += 1
        self.bytes += len(line)


def _line(piece: Piece, row: Row) -> tuple[str, str, bytes] | Bad:
    """Returns (output, docid or '', the row as JSON), or what is bad about it."""
    docid = row.fields.get('id', '')
    try:
        return row.output, docid, json.dumps(dict(row.fields), ensure_ascii=False).encode() + b'\n'
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair; UTF-8 cannot
        return Bad(errors.InputFileError(piece.files[0], f'half a surrogate pair in {str(docid or "a row")[:80]!r} (character '
                                         f'{error.start})', remedy='write the character in full'))


def finished(piece: Piece, folder: pathlib.Path, number: int, is_passages: bool, limit: int | None) -> Record | None:
    """Returns the record of an earlier run if its inputs are as they were, its files whole, and more or fewer rows are not asked for."""
    try:
        written = untrusted.read_json(_record_file(folder, number))
        key = written.pop('key')
        record = Record(**written)
        # Fewer rows than both limits: the input ended before either.
        same_limit = record.limit == limit or record.rows < min(part for part in (record.limit, limit) if part is not None)
        if key != piece.key or record.inputs != inputs_of(piece.files) or not same_limit:
            return None
        for output, (_, size, sha256) in record.outputs.items():
            file = output_file(folder, number, output, is_passages)
            if file.stat().st_size != size or checksum.sha256_file(file) != sha256:
                return None
        if is_passages and ids_file(folder, number).stat().st_size != 8 * record.rows:
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # no record, or one that nobody of ours wrote: the piece is converted anew
    return record


def _record_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    return untrusted.inside(folder, f'{FOLDER}/{number:05}.json')
