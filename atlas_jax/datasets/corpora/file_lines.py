"""Large files of lines cut into pieces: plain ones at line borders, compressed ones not at all."""

import codecs
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.datasets.source import Bad, Piece, Row
from atlas_jax.io import compressed, jsonl

_PIECE_BYTES = 256 << 20
# (file, first byte, byte behind the last, or None) and the source's options, to rows.
Reader = Callable[..., Iterator[Row | Bad]]


def expand(files: Sequence[pathlib.Path], suffixes: Iterable[str], what: str) -> list[pathlib.Path]:
    """Returns the files, and in place of a folder those in it that end in one of the suffixes, compressed or not.

    Raises InputFileError: no files, a file that is not there, or a folder without such files.
    """
    suffixes, found = tuple(suffixes), []
    if not files:
        raise errors.InputFileError('--from', 'no files', remedy=f'give {what}')
    for file in files:
        if not file.exists():
            raise errors.InputFileError(file, 'no such file or folder', remedy=f'give {what}')
        if not file.is_dir():
            found.append(file)
            continue
        inside = sorted(path for path in file.iterdir() if compressed.plain_name(path).name.lower().endswith(suffixes)
                        and not path.name.startswith('.'))
        if not inside:
            raise errors.InputFileError(file, f'no files in this folder that end in {", ".join(suffixes)}', remedy=f'give {what}')
        found += inside
    return found


def pieces(files: Sequence[pathlib.Path], read: Reader, *, cuttable: bool = True, **arguments: Any) -> list[Piece]:
    """Returns the pieces of files of lines, in order: `read(file, start, stop, **arguments)` for each."""
    found = []
    for order, file in enumerate(files):
        bounds: list[tuple[int, int | None]] = [(0, None)]
        if cuttable and not is_compressed(file):
            starts = range(0, max(1, file.stat().st_size), _PIECE_BYTES)
            bounds = [(start, start + _PIECE_BYTES) for start in starts]
        found += [Piece(f'{order:04}-{start}', (file,), functools.partial(read, file, start, stop, **arguments)) for start, stop in bounds]
    return found


def is_compressed(file: pathlib.Path) -> bool:
    """Returns whether a file is compressed. Raises InputFileError: see compressed.reading."""
    with compressed.reading(file) as stream:
        return not isinstance(getattr(stream, 'raw', None), compressed.PlainFile)


def lines(file: pathlib.Path, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Yields (number counted from `start`, line) of the lines that begin from byte `start` to before `stop`; blank ones are left out.

    Raises InputFileError: see compressed.reading; a line over 64 MiB.
    """
    # The byte before `start` tells whether a line begins there.
    with compressed.reading(file, max(0, start - 1)) as stream:
        place = max(0, start - 1)
        if start:
            place += len(stream.readline())
        number = 0
        while (stop is None or place < stop) and (line := stream.readline(jsonl.MAX_LINE + 1)):
            if len(line) > jsonl.MAX_LINE:
                raise errors.InputFileError(file, f'a line of more than {jsonl.MAX_LINE:,} bytes', remedy='give the file that its '
                                            'publisher wrote')
            number, place = number + 1, place + len(line)
            if number == 1 and not start:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


def line_number(file: pathlib.Path, start: int, number: int) -> int:
    """Returns the number in the whole file of a line counted from `start`: read only where a message needs it."""
    if not start:
        return number
    count, left = 0, start
    with compressed.reading(file, 0, start) as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            count, left = count + block.count(b'\n'), left - len(block)
    # The line that `start` lies in is the piece before's, unless it begins there.
    with compressed.reading(file, start - 1, start) as stream:
        return count + number + (stream.read(1) != b'\n')


def bad(file: pathlib.Path, start: int, number: int, problem: str, field: str | None = None, remedy: str = '') -> Bad:
    """Returns what is bad in a line that was counted from `start`."""
    return Bad(errors.InputFileError(file, problem, line=line_number(file, start, number), field=field, remedy=remedy))


def json_rows(file: pathlib.Path, start: int, stop: int | None, required: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """Yields (number counted from `start`, the line's object, or what is bad about it). Raises InputFileError: as `lines`."""
    for number, line in lines(file, start, stop):
        row: dict[str, Any] | Bad
        try:
            row = jsonl.parse_line(file, number, line, required)
        except errors.InputFileError as error:
            row = Bad(errors.InputFileError(**error.parts | {'line': line_number(file, start, number)}))
        yield number, row


def require_fields(files: Iterable[pathlib.Path], required: Sequence[str], what: str) -> None:
    """Raises InputFileError: the first line of a file is no object with these fields, so that it is not `what`."""
    # Before long work: a file of another release or kind is told at once.
    for file in files:
        first = next(lines(file, 0, None), None)
        if first is None:
            raise errors.InputFileError(file, 'the file is empty', remedy=f'give {what}')
        try:
            jsonl.parse_line(file, *first, required)
        except errors.InputFileError as error:
            raise errors.InputFileError(**error.parts | {'remedy': f'give {what}' + (f' ({error.parts["remedy"]})' if error.field else '')
                                                         }) from error


def text_of(line: bytes) -> str | None:
    """Returns a line as text without its line break; None if it is not UTF-8."""
    try:
        return line.decode().rstrip('\r\n')
    except UnicodeDecodeError:
        return None
