"""Folders that are always one whole version, the old one or the new one, whenever a writer dies.

A version is a manifest and the files that it names. The manifest is a JSON file with its own
checksum. It is replaced atomically, after everything that it names is on the disk, and nothing that
it names is ever changed in place. Other files of ours are leftovers: of an older version, or of a
writer that was killed.

A kind of folder (store, index, codes, saved searcher, ...) is declared as a FolderKind: its
manifest as a dataclass, its name in messages, and its leftovers. Reading, committing, damage and
locking are the same for all of them.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from atlas_jax import errors
from atlas_jax.io import checksum, lock, schema, untrusted
from atlas_jax.io.folder import Folder

M = TypeVar('M')
FILE = 'manifest.json'
TEMPORARY = re.compile(r'\..+\.tmp\d+')  # names that io/atomic.py gives

# A format version that is no longer written: its fields, and the translation of its body.
Older = tuple[schema.ObjectOf, Callable[[Folder, dict[str, Any]], dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Damage:
    """A file or folder that is not as it was written.

    path                 the file: a path, or gs://...
    what                 the damage, in a few words
    first_row, stop_row  the rows first_row to stop_row - 1 are affected; none if the two are equal
    docids               names of the first of these rows
    is_damage            False where the files are whole but do not fit what they are used with
    """

    path: Any
    what: str
    first_row: int = 0
    stop_row: int = 0
    docids: tuple[str, ...] = ()
    is_damage: bool = True

    def __str__(self) -> str:
        if self.first_row == self.stop_row:
            return f'{self.path}: {self.what}'
        more = ', …' if self.stop_row - self.first_row > len(self.docids) else ''
        names = f': {", ".join(self.docids)}{more}' if self.docids else ''
        return f'{self.path}: {self.what} (rows {self.first_row} to {self.stop_row - 1}{names})'


@dataclasses.dataclass(frozen=True)
class FolderKind(Generic[M]):
    """A kind of folder with a manifest.

    noun           name in messages, with its article: a passage store
    manifest       dataclass of the manifest, or a schema; then manifests are dicts
    error          the error that a wrong folder raises
    command        command that writes such a folder
    format         name of the kind in the manifest; '' if the manifest has none
    version        format version that is written
    older          older format versions that are still read
    unfinished     file that stands in the folder until the first commit
    ours           pattern of the names of this kind's own files and folders
    leftovers      returns the files and folders of ours that a version does not need
    contradiction  returns why the fields of a manifest contradict each other; '' if they do not
    remedy         end of messages about damage; '' advises to build again with the command
    file           name of the manifest
    checksum       name of the field with the manifest's own checksum
    """

    noun: str
    manifest: Any
    error: type[errors.UserError]
    command: str
    format: str = ''
    version: int = 1
    older: Mapping[int, Older] = dataclasses.field(default_factory=dict)
    unfinished: str = lock.FILE
    ours: str = ''
    leftovers: Callable[[Folder, Any], list[str]] = lambda folder, current: []
    contradiction: Callable[[M], str] = lambda manifest: ''
    remedy: str = ''
    file: str = FILE
    checksum: str = 'manifest_sha256'

    @property
    def short_noun(self) -> str:
        """The last word of the noun: store, for a passage store."""
        return self.noun.split()[-1]

    def exists(self, folder: Folder) -> bool:
        """Returns whether the folder has a manifest, intact or damaged. Raises StorageError."""
        return folder.exists(self.file)

    def read(self, folder: Folder) -> M:
        """Returns the manifest.

        Raises:
          UserError: `error`: no manifest, another kind of folder, another format version, or a
            damaged manifest.
          StorageError: it cannot be read, so nobody knows whether it is damaged.
        """
        found = self.read_if_there(folder)
        if found is None:
            raise self.error(self._why_missing(folder))
        return found

    def read_if_there(self, folder: Folder) -> M | None:
        """Returns the manifest; None if there is none. Raises the other errors of `read`."""
        content = self.content(folder)
        return None if content is None else self.parse(folder, content[0])

    def read_if_whole(self, folder: Folder) -> M | None:
        """Returns the manifest; None if it is missing, damaged or of another kind or version.

        Raises StorageError.
        """
        try:
            return self.read_if_there(folder)
        except self.error:
            return None

    def content(self, folder: Folder) -> tuple[Any] | None:
        """Returns the JSON value of the manifest's file in a tuple; None if there is no file.

        Raises UserError: `error`, it is not JSON. StorageError.
        """
        try:
            return (untrusted.parse_json(folder.read(self.file)),)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:  # OSError: a folder; ValueError: not UTF-8 or JSON
            raise self.damaged(folder, str(error)) from error

    def parse(self, folder: Folder, body: Any) -> M:
        """Returns the manifest that a JSON value of its file stands for. Raises as `read`."""
        place = f'{folder}/{self.file}'
        if self.format and (not isinstance(body, dict) or body.get('format') != self.format):
            raise self.error(f'{place}: not the manifest of {self.noun}; give the folder that '
                             f'`{self.command}` wrote')
        if not isinstance(body, dict):
            raise self.damaged(folder, 'not a JSON object')
        version = body.get('version', self.version)
        # type: true equals 1, and a list is no key.
        if type(version) is not int or version not in {self.version, *self.older}:
            raise self.error(f'{place}: {self.short_noun} format {str(version)[:40]}, this version '
                             f'of atlas_jax reads {self.version}; install the version that wrote '
                             f'it, or {self._again}')
        try:
            if body.get(self.checksum) != checksum.json_sha256(self._fields(body)):
                raise ValueError('its checksum does not match')
            fields = self._fields(body, 'format', 'version')
            # Whoever makes a manifest can make its checksum too.
            if version in self.older:
                shape, translated = self.older[version]
                shape.check(fields)
                fields = translated(folder, fields)
            elif isinstance(self.manifest, type):
                schema.object_of(self.manifest).check(fields)
            else:
                self.manifest.check(fields, '')
            found = schema.build(self.manifest, fields)
            if why := self.contradiction(found):
                raise ValueError(why)
        # RecursionError: brackets nested too deep for the checksum.
        except (ValueError, RecursionError) as error:
            raise self.damaged(folder, str(error)) from error
        return found

    def write(self, folder: Folder, manifest: M) -> None:
        """Commits a version: from here on the folder is this one.

        Raises:
          UserError: the lock's error, another writer has taken over the lock.
          DiskFullError, StorageError: the folder stays the version before.
        """
        lock.confirm(folder)  # a lease in a bucket may have ended meanwhile
        fields: Any = manifest
        if isinstance(self.manifest, type):
            fields = dataclasses.asdict(fields)
        name = {'format': self.format} if self.format else {}
        body = {**name, 'version': self.version, **fields}
        # The checksum tells a cut or edited manifest, which may still be valid JSON.
        folder.write_json(self.file, {**body, self.checksum: checksum.json_sha256(body)})

    def writing(self, folder: Folder) -> contextlib.AbstractContextManager[None]:
        """Holds the folder's writer lock inside the block; see lock.writing."""
        return lock.writing(folder, self.short_noun, self.error)

    def remove_leftovers(self, folder: Folder, current: M | None) -> None:
        """Removes what the version `current` does not need; the caller holds the lock.

        Raises OSError, StorageError.
        """
        for name in self.leftovers(folder, current):
            folder.remove(name)

    def require_free(self, folder: Folder) -> None:
        """Raises `error` if a new version would be written over something else."""
        if folder.local is not None and folder.local.exists() and not folder.local.is_dir():
            raise self.error(f'{folder}: a file, not a folder; choose another folder')
        names = folder.children()
        # A first build that was killed leaves its lock or its files, and no manifest.
        free = not names or names <= {lock.FILE} or any(
            re.fullmatch(self.ours, name) for name in names)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            free = untrusted.parse_json(folder.read(self.file)).get('format') == self.format
        if not free:
            raise self.error(f'{folder}: the folder holds something else ({min(names)}); '
                             'choose an empty or a new one')

    def damaged(self, folder: Folder, why: str) -> errors.UserError:
        """Returns the error of a damaged manifest, to be raised."""
        return self.error(f'{folder}/{self.file}: damaged ({why}); {self._again}')

    @property
    def _again(self) -> str:
        return self.remedy or f'build it again with `{self.command}`'

    def _fields(self, body: dict[str, Any], *but: str) -> dict[str, Any]:
        return {name: each for name, each in body.items() if name not in (*but, self.checksum)}

    def _why_missing(self, folder: Folder) -> str:
        # From the most to the least specific: the remedies differ.
        names = folder.children()
        # A writer that was killed at once leaves its lock, perhaps with a temporary file.
        if folder.exists(self.unfinished) or names and all(
                name == lock.FILE or name.startswith('.') for name in names):
            return (f'{folder}: {self.noun} that was not finished; run the same '
                    f'`{self.command}` again')
        local = folder.local
        if not names and (local is None or local.is_dir() or not local.exists()):
            is_empty = local is not None and local.exists()
            what = 'the folder is empty' if is_empty else 'no such folder'
            return f'{folder}: {what}; build {self.noun} there with `{self.command}`'
        return (f'{folder}: not {self.noun} ({self.file} is missing); give the folder that '
                f'`{self.command}` wrote')


def damaged_files(
        folder: Folder, files: Mapping[str, tuple[int | None, str]], *, contents: bool,
        there: Mapping[str, int | None] | None = None, owner: str = '',
        rows: Callable[[str], tuple[int, int]] = lambda name: (0, 0)) -> Iterator[Damage]:
    """Compares a folder with the list of its files.

    Args:
      folder: the folder.
      files: {file: (bytes, SHA-256)}; the size may be None.
      contents: True reads the files and compares their SHA-256, False only their sizes.
      there: the result of `folder.sizes()`, if the caller has it.
      owner: "store" reports files that are not listed: they do not belong to this store.
      rows: returns the rows [first, stop) that a damaged file affects.

    Yields the damage in the order of `files`. Raises StorageError.
    """
    there = folder.sizes() if there is None else there
    for name, (size, sha256) in files.items():
        if name not in there:
            what = 'missing'
        # A bucket does not tell sizes (None).
        elif size is not None and there[name] not in (size, None):
            what = f'{there[name]} bytes long instead of {size}'
        elif contents and (difference := folder.differs(name, sha256)):
            what = f'damaged ({difference})'
        else:
            continue
        yield Damage(f'{folder}/{name}', what, *rows(name))
    for name in sorted(there.keys() - files.keys()) if owner else ():
        yield Damage(f'{folder}/{name}', f'does not belong to this {owner}', *rows(name))


def as_damage(error: errors.UserError, first_row: int = 0, stop_row: int = 0) -> Damage:
    """Returns the damage that an error "path: what; remedy" tells of, without the remedy."""
    path, _, what = str(error).partition(': ')
    return Damage(path, what.split(';')[0], first_row, stop_row)


def listed(folder: Folder, names: Iterable[str] | None = None) -> dict[str, tuple[int, str]]:
    """Returns {file: (bytes, SHA-256)} of files in a folder on a disk; by default of all files that
    are not hidden. Raises OSError, StorageError.
    """
    names = folder.sizes() if names is None else names
    return {name: (folder.size(name), folder.sha256(name)) for name in names}
