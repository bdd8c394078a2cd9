"""Errors that a user can cause. Each is one line: place, problem, remedy."""

import functools
import os
from typing import Any


# All errors that a user can fix are UserErrors. Every other exception is a bug and shows its
# traceback.
class UserError(Exception):
    """A mistake that the user can fix. Commands print its one line and exit with `exit_code`."""

    exit_code = 2


class InputFileError(UserError):
    """An input file is wrong. The message starts with the file and, if known, the line and the
    field.
    """

    def __init__(self, path: str | os.PathLike, problem: str, *, line: int | None = None,
                 field: str | None = None, remedy: str = ''):
        """Writes the message `path:line, field "name": problem; remedy` from the given parts."""
        place = f'{path}' if line is None else f'{path}:{line}'
        if field is not None:
            place += f', field "{field}"'
        super().__init__(f'{place}: {problem}' + (f'; {remedy}' if remedy else ''))
        self.path, self.line, self.field = path, line, field
        # These arguments make the same error again, in another process or in a later run that reads
        # them from a file.
        self.parts: dict[str, Any] = {
            'path': str(path), 'problem': problem, 'line': line, 'field': field, 'remedy': remedy}

    def __reduce__(self) -> tuple:
        return functools.partial(InputFileError, **self.parts), ()


class ModelFolderError(UserError):
    """A folder does not hold the expected model, or a parameter is missing, extra or misshaped."""


class FormatError(UserError):
    """A prompt format names an unknown field or cannot be cut into token segments."""


class StoreError(UserError):
    """A passage store is missing, damaged or locked, or was made for other tokenizers."""


class IndexFolderError(UserError):
    """An index is missing, damaged, locked, or belongs to another model or store."""


class ConfigError(UserError):
    """A configuration value is unknown, missing or invalid, or contradicts another one."""


class DownloadError(UserError):
    """A package could not be downloaded, or its hash differs from the pinned hash."""


class StorageError(UserError):
    """A bucket cannot be reached, read or written."""


class DiskFullError(UserError):
    """The disk is full. No existing data was lost."""


class FolderExistsError(UserError):
    """A new folder was needed, but it exists or another process is writing it."""


class DivergedError(UserError):
    """Loss, gradients or parameters became NaN or infinite. The message names the checkpoint that
    remains.
    """


class PreemptedError(UserError):
    """The run was asked to stop and has saved its state; the same command continues it."""

    exit_code = 75  # EX_TEMPFAIL; tpu_scripts/keep_running.sh tests for it


class DifferenceError(UserError):
    """The two sides of a comparison differ by more than the tolerance."""

    exit_code = 1
