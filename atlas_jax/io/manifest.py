"""Manifests: a JSON file with its own checksum, written last, so that a folder is always the old version or the new one."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from atlas_jax import errors
from atlas_jax.io import lock, schema, untrusted
from atlas_jax.io.folder import Folder

FILE = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of folder that has a manifest.

    noun      its name in messages, with the article: a passage store
    format    its name in the manifest
    versions  {format version that is read: its fields, besides the format, the version and the checksum}; the last is written
    command   the command that writes such a folder
    error     the error that a wrong folder raises
    """

    noun: str
    format: str
    versions: Mapping[int, schema.Record]
    command: str
    error: type[errors.UserError]


def exists(folder: Folder) -> bool:
    """Returns whether the folder has a manifest, intact or damaged. Raises StorageError."""
    return folder.exists(FILE)


def write(folder: Folder, kind: Kind, body: dict[str, Any]) -> None:
    """Commits `body`: from here on the folder is this version.

    Raises UserError: `kind.error`, as another writer has taken over the lock. DiskFullError, StorageError. The folder then stays the
    version before.
    """
    lock.confirm(folder)  # a lease in a bucket may have ended meanwhile
    body = {'format': kind.format, 'version': max(kind.versions), **body}
    # The checksum tells a cut or edited file, which may be valid JSON still.
    folder.write_json(FILE, {**body, 'manifest_sha256': digest(body)})


def read(folder: Folder, kind: Kind, unfinished: str) -> dict[str, Any]:
    """Returns the manifest's body with its `version`.

    `unfinished` is a file that stands in the folder while it is written: it tells an unfinished folder from any other.

    Raises:
      UserError: `kind.error`: no manifest, another kind of folder, another format version, or a damaged manifest.
      StorageError: it cannot be read, so that nobody knows whether it is damaged.
    """
    try:
        body = untrusted.parse_json(folder.read(FILE))
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise kind.error(_why_missing(folder, kind, unfinished)) from problem
    except (OSError, ValueError) as problem:  # OSError: a folder; ValueError: not UTF-8 or not JSON
        raise damaged(folder, kind, str(problem)) from problem
    if not isinstance(body, dict) or body.get('format') != kind.format:
        raise kind.error(f'{folder}/{FILE}: not the manifest of {kind.noun}; give the folder that `{kind.command}` wrote')
    version = body.get('version')
    if type(version) is not int or version not in kind.versions:  # true is 1, and a list is no key
        # The last word of the noun: "a passage store" gives "store format 2".
        raise kind.error(f'{folder}: {kind.noun.split()[-1]} format {str(version)[:40]}, this version of atlas_jax reads '
                         f'{max(kind.versions)}; install the version that wrote it, or build it again')
    try:
        if body.pop('manifest_sha256', None) != digest(body):
            raise damaged(folder, kind, 'its checksum does not match')
        # Who makes a manifest can make its checksum too.
        kind.versions[version].check({name: value for name, value in body.items() if name not in ('format', 'version')})
    except (ValueError, RecursionError) as problem:  # RecursionError: brackets nested too deep to be written again
        raise damaged(folder, kind, str(problem)) from problem
    del body['format']
    return body


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in hexadecimal. Raises TypeError: no JSON value."""
    # Sorted keys: a dict that was read from JSON has the digest of the one that was written.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def damaged(folder: Folder, kind: Kind, why: str) -> errors.UserError:
    """Returns the error of a damaged manifest, to be raised."""
    return kind.error(f'{folder}/{FILE}: damaged ({why}); build it again with `{kind.command}`')


def _why_missing(folder: Folder, kind: Kind, unfinished: str) -> str:
    # From the most to the least specific: what to do differs.
    names = folder.children()
    # A writer that was killed at once leaves its lock, perhaps with a temporary file.
    if folder.exists(unfinished) or names and all(name == lock.FILE or name.startswith('.') for name in names):
        return f'{folder}: {kind.noun} that was not finished; run the same `{kind.command}` again'
    if not names and (folder.local is None or folder.local.is_dir() or not folder.local.exists()):  # a file is none of these
        what = 'the folder is empty' if folder.local is not None and folder.local.exists() else 'no such folder'
        return f'{folder}: {what}; build {kind.noun} there with `{kind.command}`'
    return f'{folder}: not {kind.noun} ({FILE} is missing); give the folder that `{kind.command}` wrote'
