"""Reads .csv and .tsv tables, as spreadsheets write them, row by row."""

import csv
import io
import itertools
import os
import pathlib
from collections.abc import Iterator

from atlas_jax import errors
from atlas_jax.io import compressed

SUFFIXES = ('.csv', '.tsv')
_MAX_LINE = 1 << 22  # characters of a line, and of a cell
_MAX_COLUMNS = 1000


def read(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (last line, cells by column) of each row that is not blank.

    The first row names the columns, which are turned to lower case. The file may be compressed. The
    separator of a .csv file is the most frequent of comma, semicolon and tab in its first line.

    Raises InputFileError: a missing, empty or damaged file, text that is not UTF-8, a column
    without a name or with that of another, a row with more cells than columns, or a cell of more
    than 4 million characters.
    """
    path = pathlib.Path(path)
    csv.field_size_limit(_MAX_LINE)  # holds for the whole process; Python's default is far lower
    with compressed.reading(path) as stream:
        # utf-8-sig, since some editors write a byte order mark.
        text = io.TextIOWrapper(stream, encoding='utf-8-sig', newline='')
        number, rows = 0, csv.reader([])
        try:
            first = text.readline(_MAX_LINE)
            # With a limit, since a small compressed file may be one endless line.
            lines = iter(lambda: text.readline(_MAX_LINE), '')
            rows = csv.reader(itertools.chain([first] if first else [], lines),
                              delimiter=_delimiter(path, first), strict=True)
            names = _names(path, next(rows, []))
            for row in rows:
                number = rows.line_num
                if any(cell.strip() for cell in row):
                    yield number, _cells(path, number, names, row)
        except UnicodeDecodeError as error:
            raise errors.InputFileError(
                path, f'not UTF-8 text ({error.reason})', line=rows.line_num + 1,
                remedy='save the file as UTF-8 (in Excel: "CSV UTF-8")') from error
        except csv.Error as error:
            raise errors.InputFileError(path, f'no table ({error})', line=rows.line_num,
                                        remedy='save it as CSV again') from error
    if not number:
        raise errors.InputFileError(path, 'no rows below the names of the columns',
                                    remedy='give each row a line')


def _delimiter(path: pathlib.Path, first: str) -> str:
    # Where the decimal mark is a comma, spreadsheets separate by semicolons.
    return '\t' if compressed.plain_suffix(path) == '.tsv' else max(',;\t', key=first.count)


def _names(path: pathlib.Path, row: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in row]
    wrong = next((name for place, name in enumerate(names) if not name or name in names[:place]),
                 None)
    if not names or wrong is not None or len(names) > _MAX_COLUMNS:
        problem = ('is empty' if not names else
                   'has more than a thousand columns' if wrong is None else
                   f'names the column "{wrong}" twice' if wrong else 'has a column without a name')
        raise errors.InputFileError(path, f'the first line {problem}', line=1,
                                    remedy='it must name each column, such as id,title,text')
    return names


def _cells(path: pathlib.Path, line: int, names: list[str], row: list[str]) -> dict[str, str]:
    # An unquoted comma would shift every cell after it.
    if len(row) > len(names):
        raise errors.InputFileError(path,
                                    f'{len(row)} cells, the first line names {len(names)} columns',
                                    line=line, remedy='put cells with commas in quotes')
    # Spreadsheets leave out empty cells at the end of a row.
    return dict(itertools.zip_longest(names, (cell.strip() for cell in row), fillvalue=''))
