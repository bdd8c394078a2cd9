"""Makes a project step by step; the same command goes on where it was stopped, and does again what depends on changed files."""

import functools
import hashlib
import json
import pathlib
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.evaluation import calibrate
from atlas_jax.io import file_list, lock
from atlas_jax.io.folder import Folder
from atlas_jax.project import estimate, report, steps
from atlas_jax.project.folder import Project

Command = Callable[[Sequence[str]], None]
# The steps whose results a step reads.
_AFTER = {'models': (), 'questions': (), 'passages': ('models',), 'index': ('passages',), 'searcher': ('index', 'questions'),
          'training': ('searcher',), 'evaluation': ('training',), 'closed book': ('training',), 'confidence': ('evaluation',)}
# What a step writes: gone, it is done again; of other inputs, it is removed first.
_WRITES = {'models': ('model',), 'questions': ('questions',), 'passages': ('store',), 'index': ('index',),
           'searcher': ('gin/evaluate.gin',), 'training': ('run',), 'evaluation': ('results/test.jsonl',),
           'closed book': ('results/closed_book.jsonl',), 'confidence': ('run/confidence.json',)}


class Maker:
    """Does what is not done of a project."""

    def __init__(self, project: Project, command: Command, packages_dir: str | None = None):
        """Does nothing yet.

        Args:
          project: its folder may be missing.
          command: runs the arguments of one `atlas-jax` command; raises UserError.
          packages_dir: folder with the packages of the demo's models; None fetches them with pip.
        """
        self._project, self._command, self._packages_dir = project, command, packages_dir

    def run(self, say: Callable[[str], None]) -> None:
        """Does every step that is not done, in order, and writes the report.

        Raises UserError: as the step's command, or another process makes the same project.
        """
        project = self._project
        with lock.writing(Folder(project.path), 'project', errors.FolderExistsError):
            project.write()
            names, told = project.steps(), False
            for number, step in enumerate(names, start=1):
                key, place = self._key(step), f'[{number}/{len(names)}] {step}'
                if self._is_done(step, key):
                    say(f'{place}: done before')
                    continue
                # The texts are there: what follows takes nearly all of the time.
                if not told and step not in ('models', 'questions', 'passages'):
                    told = True
                    self._estimate(names[number - 1:], say)
                self._do(step, key, functools.partial(_say_at, say, place))
            say(f'{report.write(project)}')

    def _do(self, step: str, key: str, say: Callable[[str], None]) -> None:
        project, start = self._project, time.perf_counter()
        if project.begun.get(step) != key:
            self._clear(step, say)
        # Written before the step begins: what a killed one leaves is known to be of these inputs, and goes on.
        project.begun[step] = key
        project.done.pop(step, None)
        project.write()
        command = command_of(project, step)
        if why := self._skipped(step):
            say(why)
        elif command:
            say(shlex.join(['atlas-jax', *command]))
            self._command(command)
        else:
            made = self._made(step)
            project.figures |= made
            say(_told(step, made))
        project.figures['seconds'] = {**project.figures.get('seconds', {}), step: round(time.perf_counter() - start, 1)}
        project.done[step] = key
        project.write()

    def _made(self, step: str) -> dict[str, Any]:
        if step == 'models':
            return steps.make_model(self._project, self._packages_dir)
        return steps.split_questions(self._project) if step == 'questions' else steps.choose_searcher(self._project)

    def _is_done(self, step: str, key: str) -> bool:
        if self._project.done.get(step) != key:
            return False
        return bool(self._skipped(step)) or all((self._project.path / name).exists() for name in _WRITES[step])

    def _skipped(self, step: str) -> str:
        """Returns why a step is not done, '' if it is."""
        held_out = self._project.figures.get('test_questions', 0)
        if step in ('evaluation', 'closed book') and not held_out:
            return 'fewer than five questions, so none was held out, and nothing is measured'
        if step == 'confidence' and held_out < calibrate.FEWEST:
            return f'{held_out} held-out questions, fewer than the {calibrate.FEWEST} that show how far an answer can be trusted'
        return ''

    def _key(self, step: str) -> str:
        """Returns what tells the inputs of a step from others: its own, and those of the steps before it."""
        # By what the earlier steps were made of, not by their files: an index that was edited since stays as it is.
        body = [steps.inputs_of(self._project, step), [self._project.done.get(name) for name in _AFTER[step]]]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]

    def _clear(self, step: str, say: Callable[[str], None]) -> None:
        """Removes what the step has written for other inputs."""
        # A store is replaced whole by the command that writes it.
        for name in () if step == 'passages' else _WRITES[step]:
            path: pathlib.Path = self._project.path / name
            if path.is_dir():
                say(f'its inputs have changed; {path} is made again')
                shutil.rmtree(path)
            for file in (path, path.with_name(f'{path.name}.partial')):
                file.unlink(missing_ok=True)

    def _estimate(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        gflops = estimate.speed()
        sizes = estimate.sizes_of(PassageStore.open(self._project.path / 'store'), self._project.figures)
        by_step = estimate.seconds(sizes, gflops, [name for name in names if not (self._project.done.get(name) or self._skipped(name))])
        self._project.figures['estimate'] = {name: round(value) for name, value in by_step.items()}
        say(f'{sizes.passages} passages; {estimate.shown(by_step, gflops)}')


def command_of(project: Project, step: str) -> list[str]:
    """Returns the arguments of the `atlas-jax` command that does a step, so that it can be done again alone; [] where there is none."""
    path = str(project.path)
    return {'passages': ['data', 'passages', *file_list.listed(project.settings.documents), '--out', str(project.path / 'store'), '--model',
                         str(project.path / 'model')],
            'index': ['index', 'build', '--project', path], 'training': ['train', '--project', path],
            'evaluation': ['evaluate', '--project', path], 'closed book': ['evaluate', '--project', path, '--closed_book'],
            'confidence': ['calibrate', '--model', str(project.model), '--index', str(project.index), '--searcher', project.searcher,
                           '--examples', str(project.path / 'questions' / 'test.jsonl')]}.get(step, [])


def _say_at(say: Callable[[str], None], place: str, text: str) -> None:
    say(f'{place}: {text}')


def _told(step: str, made: dict[str, Any]) -> str:
    if step == 'models':
        parts = ', '.join(f'{count / 1e6:.0f} million in the {name}' for name, count in made['parameters'].items())
        return f'parameters: {parts}'
    if step == 'questions':
        return f'{made["train_questions"]} to train on, {made["test_questions"]} held out'
    if made.get('searchers'):
        measured = ', '.join(f'{name} {row["recall_at_1"]:.3f}' for name, row in made['searchers'].items())
        return f'{made["searcher"]} (found first, of the training questions: {measured})'
    return f'{made["searcher"]}: {made["why"]}'
