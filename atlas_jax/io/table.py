"""Tables as spreadsheets write them: .csv and .tsv files, read row by row."""

import csv
import io
import os
import pathlib
from collections.abc import Iterator

from atlas_jax import errors
from atlas_jax.io import compressed

SUFFIXES = ('.csv', '.tsv')
_MAX_LINE = 1 << 22  # characters of a line, and of a cell
_MAX_COLUMNS = 1000


def read(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line of its end, cells by column) for each row that is not blank; the first row names the columns, in small letters.

    The file may be compressed. Columns of a .csv file are separated by the one of comma, semicolon and tab that its first line has most of.

    Raises InputFileError: a missing, empty or damaged file, not UTF-8, a column without a name of its own, a row with more cells than
      columns, or a cell of more than 4 million characters.
    """
    path = pathlib.Path(path)
    csv.field_size_limit(_MAX_LINE)  # of the whole process, and far above Python's own
    with compressed.reading(path) as stream:
        text = io.TextIOWrapper(stream, encoding='utf-8-sig', newline='')  # some editors put a byte order mark first
        number, rows = 0, csv.reader([])
        try:
            first = text.readline(_MAX_LINE)
            # With a limit: a small compressed file may be one endless line.
            lines = iter(lambda: text.readline(_MAX_LINE), '')
            rows = csv.reader(_with_first(first, lines), delimiter=_delimiter(path, first), strict=True)
            names = _names(path, next(rows, []))
            for row in rows:
                number = rows.line_num
                if any(cell.strip() for cell in row):
                    yield number, _cells(path, number, names, row)
        except UnicodeDecodeError as error:
            raise errors.InputFileError(path, f'not UTF-8 text ({error.reason})', line=rows.line_num + 1,
                                        remedy='save the file as UTF-8 (in Excel: "CSV UTF-8")') from error
        except csv.Error as error:
            raise errors.InputFileError(path, f'no table ({error})', line=rows.line_num, remedy='save it as CSV again') from error
    if not number:
        raise errors.InputFileError(path, 'no rows below the names of the columns', remedy='give each row a line')


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _delimiter(path: pathlib.Path, first: str) -> str:
    # Spreadsheets of many countries write semicolons, for their decimal mark is the comma.
    return '\t' if compressed.plain_suffix(path) == '.tsv' else max(',;\t', key=first.count)


def _names(path: pathlib.Path, row: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in row]
    wrong = next((name for place, name in enumerate(names) if not name or name in names[:place]), None)
    if not names or wrong is not None or len(names) > _MAX_COLUMNS:
        problem = 'is empty' if not names else 'has more than a thousand columns' if wrong is None else (
            f'names the column "{wrong}" twice' if wrong else 'has a column without a name')
        raise errors.InputFileError(path, f'the first line {problem}', line=1, remedy='it must name each column, such as id,title,text')
    return names


def _cells(path: pathlib.Path, line: int, names: list[str], row: list[str]) -> dict[str, str]:
    # An unquoted comma shifts every cell behind it: the row would be read as something else.
    if len(row) > len(names):
        raise errors.InputFileError(path, f'{len(row)} cells, the first line names {len(names)} columns', line=line,
                                    remedy='put cells with commas in quotes')
    # Spreadsheets leave out empty cells at the end of a row.
    return dict(zip(names, [cell.strip() for cell in row] + [''] * (len(names) - len(row)), strict=True))
