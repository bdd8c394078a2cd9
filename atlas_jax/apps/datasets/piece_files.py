"""The files of one converted piece, and the record that tells a later run it is finished."""

import array
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import IO, Any

from atlas_jax import errors
from atlas_jax.apps.datasets.source import OutputRow, Piece
from atlas_jax.io import atomic, checksum, file_states, untrusted

FOLDER = 'pieces'


@dataclasses.dataclass
class ConvertedPiece:
    """The record of a converted piece.

    Attributes:
      inputs: [name, bytes, modification time] of each file that was read.
      limit: Number of rows after which reading stopped, or None.
      outputs: {output: [rows, bytes, SHA-256]}.
      bad: The parts of an InputFileError for each bad part of the input, in order.
    """

    inputs: list[list[Any]]
    limit: int | None
    outputs: dict[str, list[Any]]
    bad: list[dict[str, Any]]

    @property
    def rows(self) -> int:
        """The number of rows in all outputs."""
        return sum(rows for rows, _, _ in self.outputs.values())


class OutputFile:
    """Writes lines to a file, and counts and hashes them."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._rows, self._bytes, self._digest = 0, 0, hashlib.sha256()

    def write(self, line: bytes) -> None:
        """Appends a line."""
        self._file.write(line)
        self._digest.update(line)
        self._rows += 1
        self._bytes += len(line)

    def record(self) -> list[Any]:
        """Returns [rows, bytes, SHA-256]."""
        return [self._rows, self._bytes, self._digest.hexdigest()]


def inputs_of(files: Sequence[pathlib.Path]) -> list[list[Any]]:
    """Returns [name, bytes, modification time in microseconds] of each file.

    Raises InputFileError: a file is missing.
    """
    found = []
    for file in files:
        found.append(file_states.state_of(file, file.name))
        if len(found[-1]) == 1:
            raise errors.InputFileError(file, 'no such file', remedy='give the path of a file')
    return found


def output_file(folder: pathlib.Path, number: int, output: str, is_final: bool) -> pathlib.Path:
    """Returns the path of a piece's rows. Files of passages are final; files of examples are joined
    at the end, and are in a separate folder until then.
    """
    return untrusted.inside(
        folder,
        f'{output}-{number:05}.jsonl' if is_final else f'{FOLDER}/{number:05}.{output}.jsonl')


def ids_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the file that holds eight bytes for each docid of a piece."""
    return untrusted.inside(folder, f'{FOLDER}/{number:05}.ids')


def hash_of(docid: str) -> int:
    """Returns a hash of eight bytes as a number: millions of ids are compared in little memory."""
    return int.from_bytes(hashlib.blake2b(docid.encode(), digest_size=8).digest(), 'little')


def check_bad(bad: Sequence[dict[str, Any]], left: int, skip_bad: int) -> None:
    """Checks the number of bad parts of the input.

    Args:
      bad: The parts of an InputFileError for each bad part.
      left: The number of bad parts that may be left out here.
      skip_bad: The number that may be left out in the whole conversion, for the message.

    Raises InputFileError: there are more than `left`.
    """
    if len(bad) > left:
        more = (f'more than the {skip_bad} that --skip_bad allows'
                if skip_bad else '--skip_bad N leaves out up to N such parts')
        remedy = '; '.join(part for part in (bad[left]['remedy'], more) if part)
        raise errors.InputFileError(**bad[left] | {'remedy': remedy})


def convert(piece: Piece, folder: pathlib.Path, number: int, is_passages: bool, limit: int | None,
            max_bad: int) -> ConvertedPiece:
    """Reads a piece and writes its files, then its record. A piece with too many bad parts gets no
    record.

    Args:
      piece: The piece to read. If its `read` raises, none of its files remain.
      folder: The folder of the whole conversion.
      number: The piece's position among all pieces.
      is_passages: The rows are passages, which have an `id`.
      limit: Number of rows after which reading stops.
      max_bad: Number of bad parts that may be listed; reading stops at the next one.

    Raises InputFileError: the rest of the input cannot be read. DiskFullError.
    """
    inputs = inputs_of(piece.files)
    files: dict[str, OutputFile] = {}
    bad: list[dict[str, Any]] = []
    hashes, rows = array.array('Q'), 0
    with contextlib.ExitStack() as stack:
        for item in piece.read() if limit != 0 else ():
            line = item if isinstance(item, errors.InputFileError) else _line(piece, item)
            if isinstance(line, errors.InputFileError):
                bad.append(line.parts)
                if len(bad) > max_bad:
                    break
                continue
            assert isinstance(item, OutputRow)
            if item.output not in files:
                path = output_file(folder, number, item.output, is_passages)
                files[item.output] = OutputFile(stack.enter_context(atomic.writing(path, 'wb')))
            files[item.output].write(line)
            if is_passages:
                hashes.append(hash_of(item.fields['id']))
            rows += 1
            if rows == limit:
                break
    outputs = {output: file.record() for output, file in sorted(files.items())}
    record = ConvertedPiece(inputs, limit, outputs, bad)
    if len(bad) <= max_bad:
        if is_passages:
            with atomic.writing(ids_file(folder, number), 'wb') as target:
                target.write(hashes.tobytes())
        atomic.write_json(_record_file(folder, number),
                          {'key': piece.key, **dataclasses.asdict(record)})
    return record


def _line(piece: Piece, row: OutputRow) -> bytes | errors.InputFileError:
    """Returns the row as a line of JSON, or its error."""
    try:
        return json.dumps(dict(row.fields), ensure_ascii=False).encode() + b'\n'
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair; UTF-8 cannot
        shown = str(row.fields.get('id') or 'a row')[:80]
        return errors.InputFileError(piece.files[0],
                                     f'half a surrogate pair in {shown!r} (character '
                                     f'{error.start})', remedy='write the character in full')


def finished(piece: Piece, folder: pathlib.Path, number: int, is_passages: bool,
             limit: int | None) -> ConvertedPiece | None:
    """Returns an earlier run's record if its inputs are unchanged, its files are intact, and its
    limit gives the same rows; otherwise None.
    """
    try:
        written = untrusted.read_json(_record_file(folder, number))
        key = written.pop('key')
        record = ConvertedPiece(**written)
        # With fewer rows than both limits, the input ended before either.
        same_limit = record.limit == limit or record.rows < min(
            part for part in (record.limit, limit) if part is not None)
        if key != piece.key or record.inputs != inputs_of(piece.files) or not same_limit:
            return None
        for output, (_, size, sha256) in record.outputs.items():
            file = output_file(folder, number, output, is_passages)
            if file.stat().st_size != size or checksum.sha256_file(file) != sha256:
                return None
        if is_passages and ids_file(folder, number).stat().st_size != 8 * record.rows:
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # no record, or a damaged one: the piece is converted again
    return record


def _record_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    return untrusted.inside(folder, f'{FOLDER}/{number:05}.json')
