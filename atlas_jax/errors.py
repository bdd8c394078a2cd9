"""Errors a user can cause: one line that says where something is wrong, what, and what to do."""

import functools
import os
from typing import Any


# Everything a user can mend is one of these; whatever else is raised is a fault of ours and shows its traceback.
class UserError(Exception):
    """A mistake that the user can correct; the command line prints its one line and exits with `exit_code`."""

    exit_code = 2


class InputFileError(UserError):
    """Something is wrong in an input file; the message starts with the file and, if known, the line and field."""

    def __init__(self, path: str | os.PathLike, problem: str, *, line: int | None = None, field: str | None = None, remedy: str = ''):
        """Makes the message "path:line, field "name": problem; remedy" of the parts that are given."""
        place = f'{path}' if line is None else f'{path}:{line}'
        if field is not None:
            place += f', field "{field}"'
        super().__init__(f'{place}: {problem}' + (f'; {remedy}' if remedy else ''))
        self.path, self.line, self.field = path, line, field
        # What makes the same error again: in another process, or in a later run that reads it from a file.
        self.parts: dict[str, Any] = {'path': str(path), 'problem': problem, 'line': line, 'field': field, 'remedy': remedy}

    def __reduce__(self) -> tuple:
        return functools.partial(InputFileError, **self.parts), ()


class ModelFolderError(UserError):
    """A folder does not hold the model it should, or one of its parameters is missing, extra or mis-shaped."""


class FormatError(UserError):
    """A prompt format names an unknown field or cannot be cut into token segments."""


class StoreError(UserError):
    """A passage store is missing, damaged, locked or was made for other tokenizers."""


class IndexFolderError(UserError):
    """An index is missing, damaged, locked, or belongs to another model or store."""


class ConfigError(UserError):
    """A configuration value is unknown, missing, or contradicts another one."""


class DownloadError(UserError):
    """A package could not be downloaded, or its hash is not the pinned one."""


class StorageError(UserError):
    """A bucket cannot be reached, read or written."""


class DiskFullError(UserError):
    """The disk is full; nothing that existed before was lost."""


class FolderExistsError(UserError):
    """A folder that was to be new exists, or another process is writing it."""


class DivergedError(UserError):
    """Loss, gradients or parameters became NaN or infinite; the message says which checkpoint is left."""


class PreemptedError(UserError):
    """The run was asked to stop and has saved its state; the same command continues it."""

    exit_code = 75  # EX_TEMPFAIL; tpu_scripts/keep_running.sh tests for it


class DifferenceError(UserError):
    """Two sides of a comparison differ by more than is allowed."""

    exit_code = 1
