"""Published data sets: the files that each comes in, how they are cut into pieces, and what stands in each piece."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class Row:
    """One passage or example, and the file that it belongs to, such as `train`; the fields are those of our JSON lines."""

    output: str
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A part of the input that cannot be read: an error, or counted and listed, as the caller of the conversion wants it."""

    error: errors.InputFileError


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of the input that one process converts alone, into files of its own.

    Attributes:
      key: its place in the order of all pieces, part of a file name.
      files: what it reads; their sizes and times of change decide whether a finished piece is still good.
      read: yields its rows in order; a function of a module with arguments (functools.partial), since it goes to another process.
    """

    key: str
    files: tuple[pathlib.Path, ...]
    read: Callable[[], Iterator[Row | Bad]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A published data set, as `atlas-jax data NAME` offers it.

    Attributes:
      name: on the command line.
      makes: 'passages' or 'examples'.
      task: the task that reads the examples; '' for passages.
      files: what --from takes, for --help and docs.
      pieces: cuts files into pieces. Raises InputFileError: a file is missing, or is not what its publisher writes.
      options: what else the command line may set for it, by name, with its default.
    """

    name: str
    makes: str
    task: str
    files: str
    pieces: Callable[[Sequence[pathlib.Path], Mapping[str, Any]], Sequence[Piece]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
