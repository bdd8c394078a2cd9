"""Runs the steps of a plan, and keeps a record so that the same command can resume.

    OUT/reproduce.json    {"settings": the settings and the states of input files,
                           "done": {step: [its command, the states of the files it wrote]}}
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.reproduce.run_steps import Reproduction, RunStep
from atlas_jax.io import atomic, file_states, lock, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import FILE as MANIFEST

RECORD = 'reproduce.json'
_MOST_SHOWN, _MOST_CHARACTERS = 3, 100  # differences in a message, and characters of each
Command = Callable[[Sequence[str]], None]


class Runner:
    """Runs the steps of a plan that are not done."""

    def __init__(self, plan: Reproduction, command: Command):
        """Reads the record of an earlier run.

        Args:
          plan: The steps.
          command: Runs one `atlas-jax` command, given its arguments; raises UserError.

        Raises:
          FolderExistsError: The folder holds a run with other settings, or something else.
        """
        self._plan, self._command = plan, command
        self._out = plan.settings.out
        self._settings = settings_of(plan)
        self._done: dict[str, Any] = self._read()

    def is_done(self, step: RunStep) -> bool:
        """Returns whether an earlier run has done this step and its files are unchanged."""
        return self._done.get(step.name) == _record(step)

    def run(self, say: Callable[[str], None]) -> None:
        """Runs every step that is not done, in order.

        Raises UserError: the same errors as `command`, or another process runs in the same folder.
        """
        with lock.writing(Folder(self._out), 'reproduction', errors.FolderExistsError):
            self._write()
            # The converted data decides on the subjects, so the steps are read again after each.
            number, has_run = 0, False
            while number < len(steps := self._plan.steps):
                step, number = steps[number], number + 1
                if not has_run and self.is_done(step):
                    say(f'[{number}/{len(steps)}] {step.name}: done before')
                    continue
                # Later steps depend on this one, so they must run again.
                has_run = True
                say(f'[{number}/{len(steps)}] {step.name}: {step.shown}')
                self._done.pop(step.name, None)
                self._write()
                self._command(step.command)
                self._done[step.name] = _record(step)
                self._write()

    def _write(self) -> None:
        atomic.write_json(self._out / RECORD, {'settings': self._settings, 'done': self._done})

    def _read(self) -> dict[str, Any]:
        file = self._out / RECORD
        if not file.exists():
            if self._out.is_dir() and (others := sorted(
                    path.name for path in self._out.iterdir() if path.name != lock.FILE)):
                raise errors.FolderExistsError(f'{self._out}: holds "{others[0]}", which no '
                                               'reproduction made; give another --out')
            return {}
        try:
            record = untrusted.read_json(file)
            settings, done = record['settings'], record['done']
            if not isinstance(settings, dict) or not isinstance(done, dict):
                raise ValueError('expected objects')
        except (ValueError, LookupError, TypeError) as error:
            raise errors.FolderExistsError(f'{file}: damaged ({error}); remove it to do all steps '
                                           'again') from error
        if differing := [
                name for name in self._settings | settings
                if settings.get(name) != self._settings.get(name)]:
            shown = '; '.join(
                _difference(name, settings.get(name), self._settings.get(name))
                for name in differing[:_MOST_SHOWN])
            if len(differing) > _MOST_SHOWN:
                shown += f'; and {len(differing) - _MOST_SHOWN} more'
            raise errors.FolderExistsError(f'{self._out}: begun with other settings: {shown}; give '
                                           'them as they were, or another --out')
        return done


def _record(step: RunStep) -> list[Any]:
    return [list(step.command), _states(step.writes)]


def settings_of(plan: Reproduction) -> dict[str, Any]:
    """Returns the settings and input files that the results depend on, by option, as JSON values.
    """
    settings = plan.settings
    found: dict[str, Any] = {
        'run': settings.run,
        'from': _states([file for files in plan.found.values() for file in files])}
    # Without paths: folders may be moved between two calls.
    for name, path in settings.model.items():
        found[name.removesuffix('_DIR').lower()] = None if path is None else _states_of_model(path)
    # Every change of an index changes its manifest. Buckets are not read here.
    found |= {
        f'index {name}'.strip(): [] if '://' in path else _states([pathlib.Path(path) / MANIFEST])
        for name, path in settings.indexes.items()}
    found |= {
        'ids': _states([pathlib.Path(settings.ids)]) if settings.ids else None,
        'seed': settings.seed, 'size': settings.size, 'split': settings.split,
        'questions': settings.questions, 'batch_size': settings.batch_size,
        'gin': list(settings.bindings)}
    return found


def _difference(name: str, before: Any, now: Any) -> str:
    """Returns how a setting differs: the first changed file, or both values."""
    lists = [
        value for value in (before, now)
        if isinstance(value, list) and all(isinstance(part, list) and part for part in value)]
    if len(lists) == 2 and (before or now):
        changed = [part[0] for part in now if part not in before] or [
            part[0] for part in before if part not in now]
        shown = untrusted.shown(changed[0] if changed else None)
        return f'{name}: {shown} is another file or has changed'
    was, is_now = (json.dumps(value, ensure_ascii=False)[:_MOST_CHARACTERS]
                   for value in (before, now))
    return f'{name} was {was}, now {is_now}'


def _states_of_model(path: str) -> list[list[Any]]:
    """Returns the states of a model's files, two folders deep, which covers weights and
    configuration of every kind of checkpoint.
    """
    if '://' in path:
        return [[path]]
    place = pathlib.Path(path)
    if place.is_file():
        return _states([place])
    return _states(
        sorted(file for pattern in ('*', '*/*')
               for file in place.glob(pattern) if file.is_file() and file.name != lock.FILE))


def _states(paths: Sequence[pathlib.Path]) -> list[list[Any]]:
    return [file_states.state_of(path, path.name) for path in paths]
