"""Published data sets: the name and files of each, and the pieces it is converted in."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """One passage or example, as it is written.

    Attributes:
      output: The file it belongs to, such as `train`.
      fields: The fields of its JSON line.
    """

    output: str
    fields: Mapping[str, Any]


# A part of the input that cannot be read gives its error instead of a row. The caller of the
# conversion decides whether such parts end it or are left out and listed.
RowOrError = OutputRow | errors.InputFileError


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of the input that one process converts into separate files.

    Attributes:
      key: The name of the piece, unique within the data set. Keys sort in the order of the input.
      files: The files it reads. A finished piece is reused only while their sizes and modification
        times are unchanged.
      read: Yields its rows in order. It is sent to another process, so it must be a function of a
        module, with arguments bound by functools.partial.
    """

    key: str
    files: tuple[pathlib.Path, ...]
    read: Callable[[], Iterator[RowOrError]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A published data set, as `atlas-jax data NAME` offers it.

    Attributes:
      name: The name on the command line.
      makes: 'passages' or 'examples'.
      task: The task that reads the examples; '' for passages.
      files: The files that --from takes, as --help describes them.
      pieces: Cuts the given files into pieces. Raises InputFileError if a file is missing or is not
        what the publisher writes.
      options: Further options of the command line, by name, with their defaults.
    """

    name: str
    makes: str
    task: str
    files: str
    pieces: Callable[[Sequence[pathlib.Path], Mapping[str, Any]], Sequence[Piece]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
