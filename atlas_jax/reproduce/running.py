"""Runs the steps of a plan, and keeps a record so that the same command goes on where it was stopped.

    OUT/reproduce.json    {"settings": what the results depend on, "done": {step: [its command, [[path, bytes, time of change], ...]]}}
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic, lock, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.io.manifest import FILE as MANIFEST
from atlas_jax.reproduce.plan import Plan, Step

RECORD = 'reproduce.json'
_MOST_SHOWN, _MOST_CHARACTERS = 3, 100  # differences in a message, and letters of each
Command = Callable[[Sequence[str]], None]


class Runner:
    """Runs what is not done of a plan."""

    def __init__(self, plan: Plan, command: Command):
        """Reads the record of an earlier run.

        Args:
          plan: the steps.
          command: runs the arguments of one `atlas-jax` command; raises UserError.

        Raises:
          FolderExistsError: the folder holds a run with other settings, or something else.
          InputFileError: a file that the run depends on is missing.
        """
        self._plan, self._command = plan, command
        self._out = plan.settings.out
        self._settings = settings_of(plan)
        self._done: dict[str, Any] = self._read()

    def is_done(self, step: Step) -> bool:
        """Returns whether an earlier run has done this very step, and nobody has touched its results."""
        return self._done.get(step.name) == [list(step.command), _states(step.writes)]

    def run(self, say: Callable[[str], None]) -> None:
        """Runs every step that is not done, in order. Raises UserError: as its command, or another process runs in the same folder."""
        with lock.writing(Folder(self._out), 'reproduction', errors.FolderExistsError):
            self._write()
            # Once the data is there, its subjects are known: steps are asked for again after each.
            number, again = 0, False
            while number < len(steps := self._plan.steps):
                step, number = steps[number], number + 1
                if not again and self.is_done(step):
                    say(f'[{number}/{len(steps)}] {step.name}: done before')
                    continue
                # What follows was made from what is made anew here.
                again = True
                say(f'[{number}/{len(steps)}] {step.name}: {step.shown}')
                self._done.pop(step.name, None)
                self._write()
                self._command(step.command)
                self._done[step.name] = [list(step.command), _states(step.writes)]
                self._write()

    def _write(self) -> None:
        atomic.write_json(self._out / RECORD, {'settings': self._settings, 'done': self._done})

    def _read(self) -> dict[str, Any]:
        file = self._out / RECORD
        if not file.exists():
            if self._out.is_dir() and (others := sorted(path.name for path in self._out.iterdir() if path.name != lock.FILE)):
                raise errors.FolderExistsError(f'{self._out}: holds "{others[0]}", which no reproduction made; give another --out')
            return {}
        try:
            record = untrusted.read_json(file)
            settings, done = record['settings'], record['done']
            if not isinstance(settings, dict) or not isinstance(done, dict):
                raise ValueError('expected objects')
        except (ValueError, LookupError, TypeError) as error:
            raise errors.FolderExistsError(f'{file}: damaged ({error}); remove it to do all steps again') from error
        if differing := [name for name in self._settings | settings if settings.get(name) != self._settings.get(name)]:
            shown = '; '.join(_difference(name, settings.get(name), self._settings.get(name)) for name in differing[:_MOST_SHOWN])
            more = f'; and {len(differing) - _MOST_SHOWN} more' if len(differing) > _MOST_SHOWN else ''
            raise errors.FolderExistsError(f'{self._out}: begun with other settings: {shown}{more}; give them as they were, or '
                                           'another --out')
        return done


def settings_of(plan: Plan) -> dict[str, Any]:
    """Returns what the results of a plan depend on, by the options' names, as JSON values."""
    settings = plan.settings
    found: dict[str, Any] = {'run': settings.run, 'from': _states([file for files in plan.found.values() for file in files])}
    # By contents, not by paths: folders may be moved between two calls.
    for name, path in settings.model.items():
        found[name.removesuffix('_DIR').lower()] = None if path is None else _states_of_model(path)
    # The manifest changes with every change of an index, and of a bucket's nothing is read here.
    found |= {f'index {name}'.strip(): [] if '://' in path else _states([pathlib.Path(path) / MANIFEST])
              for name, path in settings.indexes.items()}
    found |= {'ids': _states([pathlib.Path(settings.ids)]) if settings.ids else None, 'seed': settings.seed, 'size': settings.size,
              'split': settings.split, 'questions': settings.questions, 'batch_size': settings.batch_size, 'gin': list(settings.bindings)}
    return found


def _difference(name: str, before: Any, now: Any) -> str:
    """Returns what is different of a setting: of files their names, of all others both values."""
    lists = [value for value in (before, now) if isinstance(value, list) and all(isinstance(part, list) and part for part in value)]
    if len(lists) == 2 and (before or now):
        changed = [part[0] for part in now if part not in before] or [part[0] for part in before if part not in now]
        return f'{name}: {untrusted.shown(changed[0] if changed else None)} is another file or has changed'
    was, is_now = (json.dumps(value, ensure_ascii=False)[:_MOST_CHARACTERS] for value in (before, now))
    return f'{name} was {was}, now {is_now}'


def _states_of_model(path: str) -> list[list[Any]]:
    """Returns the states of a model's files, two folders deep: weights and descriptions of every kind of checkpoint lie there."""
    place = pathlib.Path(path)
    if '://' in path or place.is_file():
        return [[path]] if '://' in path else _states([place])
    return _states(sorted(file for pattern in ('*', '*/*') for file in place.glob(pattern) if file.is_file() and file.name != lock.FILE))


def _states(paths: Sequence[pathlib.Path]) -> list[list[Any]]:
    return list(_each_state(paths))


def _each_state(paths: Sequence[pathlib.Path]) -> Iterator[list[Any]]:
    """Yields [name, bytes, time of change in microseconds] of each file, and the names in each folder; of a missing one its name."""
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            yield [path.name]
            continue
        # Checkpoints are folders named by their steps; JSON keeps whole numbers up to 2**53, so no nanoseconds.
        yield [path.name, sorted(os.listdir(path))] if path.is_dir() else [path.name, status.st_size, status.st_mtime_ns // 1000]
