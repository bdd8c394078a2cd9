"""A folder's manifest: a JSON file with a checksum of its own, written last, so that a folder is always the old version or the new one."""

import dataclasses
import hashlib
import json
from typing import Any

from atlas_jax import errors
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder

FILE = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a folder holds.

    noun      what it is called, with its article
    format    what the manifest calls it
    versions  of the format, those that are read; the last is written
    command   what writes such a folder
    error     what a wrong folder raises
    """

    noun: str
    format: str
    versions: tuple[int, ...]
    command: str
    error: type[errors.UserError]


def exists(folder: Folder) -> bool:
    """Whether the folder holds something finished, or what was that."""
    return folder.exists(FILE)


def write(folder: Folder, kind: Kind, body: dict[str, Any]) -> None:
    """Commits `body`: from here on the folder is this version.

    Raises DiskFullError, StorageError; `kind.error` where another writer has taken over the lock. It is then still the version before.
    """
    lock.confirm(folder)
    body = {'format': kind.format, 'version': kind.versions[-1], **body}
    folder.write_json(FILE, {**body, 'manifest_sha256': digest(body)})


def read(folder: Folder, kind: Kind, unfinished: str) -> dict[str, Any]:
    """The manifest's body with its `version`.

    Raises `kind.error`: no manifest (where there is a file `unfinished`, because the work on it was not finished), one of something else or
    of another version, or a damaged one.
    """
    try:
        body = json.loads(folder.read(FILE).decode())
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise kind.error(_why_missing(folder, kind, unfinished)) from problem
    except (OSError, ValueError) as problem:
        raise damaged(folder, kind, str(problem)) from problem
    if not isinstance(body, dict) or body.get('format') != kind.format:
        raise kind.error(f'{folder}/{FILE}: not the manifest of {kind.noun}; give the folder that `{kind.command}` wrote')
    if body.get('version') not in kind.versions:
        raise kind.error(f'{folder}: {kind.noun.split()[-1]} format {body.get("version")}, this version of atlas_jax reads '
                         f'{kind.versions[-1]}; install the version that wrote it, or build it anew')
    if body.pop('manifest_sha256', None) != digest(body):
        raise damaged(folder, kind, 'its checksum does not match')
    del body['format']
    return body


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def damaged(folder: Folder, kind: Kind, why: str) -> errors.UserError:
    """The error of a damaged manifest."""
    return kind.error(f'{folder}/{FILE}: damaged ({why}); build it anew with `{kind.command}`')


def _why_missing(folder: Folder, kind: Kind, unfinished: str) -> str:
    if folder.exists(unfinished):
        return f'{folder}: {kind.noun} that was not finished; run the same `{kind.command}` again'
    if not folder.children() and (folder.local is None or not folder.local.exists()):
        return f'{folder}: no such folder; build {kind.noun} there with `{kind.command}`'
    return f'{folder}: not {kind.noun} ({FILE} is missing); give the folder that `{kind.command}` wrote'
