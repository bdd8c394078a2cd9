"""Large files of lines. Plain ones are cut into pieces at line borders; compressed ones are not."""

import codecs
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.io import compressed, jsonl

_PIECE_BYTES = 256 << 20
PassagesOf = Callable[..., Iterable[OutputRow]]


def line_source(name: str, what: str, suffixes: tuple[str, ...], required: Sequence[str],
                passages_of: PassagesOf, options: Mapping[str, Any] | None = None, *,
                is_cuttable: bool = True) -> Source:
    """Returns a source of passages in JSON lines.

    Args:
      name, options: See Source.
      what: The files, as --help and messages name them.
      suffixes: How the names of the files in a given folder end.
      required: The fields that a line must have.
      passages_of: `passages_of(record, **options)` returns the passages of a line. The record's
        line is counted from the start of its piece. Raises InputFileError.
      is_cuttable: Allows a file to be cut into pieces.
    """
    pieces_of = functools.partial(_line_pieces, what, suffixes, required, passages_of, is_cuttable)
    return Source(name, 'passages', '', what, pieces_of, options or {})


def _line_pieces(what: str, suffixes: tuple[str, ...], required: Sequence[str],
                 passages_of: PassagesOf, is_cuttable: bool, files: Sequence[pathlib.Path],
                 options: Mapping[str, Any]) -> list[Piece]:
    found = expand(files, suffixes, what)
    require_fields(found, required, what)
    # In the order of the command line: max_passages takes the first ones, as the original does.
    return pieces(found, convert_lines, is_cuttable=is_cuttable, required=required,
                  passages_of=functools.partial(passages_of, **options))


def convert_lines(file: pathlib.Path, start: int, stop: int | None, required: Sequence[str],
                  passages_of: PassagesOf) -> Iterator[RowOrError]:
    """Yields the passages of the JSON lines from byte `start` to before `stop`.

    Raises InputFileError: the same errors as `lines`.
    """
    for record in json_lines(file, start, stop, required):
        passages = records.attempt(record, lambda record: list(passages_of(record)))
        if isinstance(passages, errors.InputFileError):
            yield in_whole_file(passages, file, start)
        else:
            yield from passages


def expand(files: Sequence[pathlib.Path], suffixes: tuple[str, ...],
           what: str) -> list[pathlib.Path]:
    """Returns the files. A folder gives its files that end in one of the suffixes, compressed or
    not.

    Raises InputFileError: there are no files, a file is missing, or a folder has no such files.
    """
    found: list[pathlib.Path] = []
    if not files:
        raise errors.InputFileError('--from', 'no files', remedy=f'give {what}')
    for file in files:
        if not file.exists():
            raise errors.InputFileError(file, 'no such file or folder', remedy=f'give {what}')
        if not file.is_dir():
            found.append(file)
            continue
        inside = sorted(path for path in file.iterdir()
                        if compressed.plain_name(path).name.lower().endswith(suffixes)
                        and not path.name.startswith('.'))
        if not inside:
            raise errors.InputFileError(file, 'no files in this folder that end in '
                                              f'{", ".join(suffixes)}', remedy=f'give {what}')
        found += inside
    return found


def pieces(files: Sequence[pathlib.Path], read: Callable[..., Iterator[RowOrError]], *,
           is_cuttable: bool = True, **arguments: Any) -> list[Piece]:
    """Returns the pieces of files of lines, in order. Each calls `read(file, start, stop,
    **arguments)`, where `start` is its first byte and `stop` the byte behind its last, or None.
    """
    found = []
    for order, file in enumerate(files):
        bounds: list[tuple[int, int | None]] = [(0, None)]
        if is_cuttable and not is_compressed(file):
            starts = range(0, max(1, file.stat().st_size), _PIECE_BYTES)
            bounds = [(start, start + _PIECE_BYTES) for start in starts]
        found += [
            Piece(f'{order:04}-{start}', (file, ),
                  functools.partial(read, file, start, stop, **arguments))
            for start, stop in bounds]
    return found


def is_compressed(file: pathlib.Path) -> bool:
    """Returns whether a file is compressed. Raises InputFileError: see compressed.reading."""
    with compressed.reading(file) as stream:
        return not isinstance(getattr(stream, 'raw', None), compressed.PlainFile)


def lines(file: pathlib.Path, start: int = 0,
          stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields (number counted from `start`, line) of the lines that begin in the bytes from `start`
    to before `stop`, without blank ones.

    Raises InputFileError: see compressed.reading; or a line is over 64 MiB.
    """
    # The byte before `start` tells whether a line begins there.
    with compressed.reading(file, max(0, start - 1)) as stream:
        place = max(0, start - 1)
        if start:
            place += len(stream.readline())
        number = 0
        while (stop is None or place < stop) and (line := stream.readline(jsonl.MAX_LINE + 1)):
            if len(line) > jsonl.MAX_LINE:
                raise errors.InputFileError(file, f'a line of more than {jsonl.MAX_LINE:,} bytes',
                                            remedy='give the file that its publisher wrote')
            number, place = number + 1, place + len(line)
            if number == 1 and not start:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


def in_whole_file(error: errors.InputFileError, file: pathlib.Path,
                  start: int) -> errors.InputFileError:
    """Returns an error whose line was counted from byte `start`, with its line in the whole file.
    """
    if not start or error.line is None:
        return error
    # Counted only now: most pieces have no errors.
    count, left = 0, start
    with compressed.reading(file, 0, start) as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            count, left = count + block.count(b'\n'), left - len(block)
    # A line that began before `start` belongs to the piece before, and is not counted in this one.
    with compressed.reading(file, start - 1, start) as stream:
        count += stream.read(1) != b'\n'
    return errors.InputFileError(**error.parts | {'line': count + error.line})


def json_lines(file: pathlib.Path, start: int = 0, stop: int | None = None,
               required: Sequence[str] = ()
               ) -> Iterator[PublishedRecord | errors.InputFileError]:
    """Yields each line's object as a record, or its error; lines are counted from `start`.

    Raises InputFileError: the same errors as `lines`.
    """
    for number, line in lines(file, start, stop):
        try:
            yield PublishedRecord(file, jsonl.parse_line(file, number, line, required), number)
        except errors.InputFileError as error:
            yield error


def require_fields(files: Iterable[pathlib.Path], required: Sequence[str], what: str) -> None:
    """Checks that each file's first line has these fields, before long work begins.

    Raises InputFileError: it has not; the message asks for `what`.
    """
    for file in files:
        first = next(lines(file), None)
        if first is None:
            raise errors.InputFileError(file, 'the file is empty', remedy=f'give {what}')
        try:
            jsonl.parse_line(file, *first, required)
        except errors.InputFileError as error:
            found = f' ({error.parts["remedy"]})' if error.field else ''
            raise errors.InputFileError(**error.parts | {'remedy': f'give {what}{found}'}
                                        ) from error


def require_header(file: pathlib.Path, header: Sequence[str], what: str) -> None:
    """Raises InputFileError: a file's first line is not this tab-separated header."""
    first = next((line for _, line in lines(file)), b'')
    if (text_of(first) or '').split('\t') != list(header):
        raise errors.InputFileError(file, f'the first line is not {", ".join(header)}, with tabs '
                                          'between them', line=1, remedy=f'give {what}')


def text_of(line: bytes) -> str | None:
    """Returns a line as text without its line break; None if it is not UTF-8."""
    try:
        return line.decode().rstrip('\r\n')
    except UnicodeDecodeError:
        return None
