"""Makes a project step by step. A stopped command continues where it was, and repeats only the
steps that depend on changed files.
"""

import functools
import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.project import estimate, project_report, project_steps
from atlas_jax.apps.project.project_folder import Project
from atlas_jax.corpus.store import PassageStore
from atlas_jax.evaluation import calibrate
from atlas_jax.io import file_list, lock
from atlas_jax.io.folder import Folder

Command = Callable[[Sequence[str]], None]
# The steps whose results a step reads.
_AFTER = {
    'models': (), 'questions': (), 'passages': ('models',), 'index': ('passages',),
    'searcher': ('index', 'questions'), 'training': ('searcher',), 'evaluation': ('training',),
    'closed book': ('training',), 'confidence': ('evaluation',)}
# What a step writes. A step is repeated if this is missing; it is removed if the inputs changed.
_WRITES = {
    'models': 'model', 'questions': 'questions', 'passages': 'store', 'index': 'index',
    'searcher': 'gin/evaluate.gin', 'training': 'run', 'evaluation': 'results/test.jsonl',
    'closed book': 'results/closed_book.jsonl', 'confidence': 'run/confidence.json'}
_BEFORE_ESTIMATE = ('models', 'questions', 'passages')


class Maker:
    """Runs the steps of a project that are not done."""

    def __init__(self, project: Project, command: Command, packages_dir: str | None = None):
        """Keeps the arguments; `run` does the work.

        Args:
          project: the project. Its folder may be missing.
          command: runs the arguments of one `atlas-jax` command; raises UserError.
          packages_dir: folder with the packages of the demo's models; None fetches them with pip.
        """
        self._project, self._command, self._packages_dir = project, command, packages_dir

    def run(self, say: Callable[[str], None]) -> None:
        """Runs every step that is not done, in order, and writes the report.

        Raises UserError: a step's command failed, or another process makes the same project.
        """
        project = self._project
        with lock.writing(Folder(project.path), 'project', errors.FolderExistsError):
            project.write()
            names, estimated = project.steps(), False
            for number, step in enumerate(names, start=1):
                key, place = self._key(step), f'[{number}/{len(names)}] {step}'
                if self._is_done(step, key):
                    say(f'{place}: done before')
                    continue
                # Once the passages are stored, the remaining steps can be estimated. They take
                # nearly all of the time.
                if not estimated and step not in _BEFORE_ESTIMATE:
                    estimated = True
                    self._estimate(names[number - 1:], say)
                self._do(step, key, functools.partial(_say_at, say, place))
            say(f'{project_report.write(project)}')

    def _do(self, step: str, key: str, say: Callable[[str], None]) -> None:
        project, start = self._project, time.perf_counter()
        if project.begun.get(step) != key:
            self._clear(step, say)
        # Recorded before the step begins, so that a later call knows that a killed step's files
        # were made of these inputs, and continues them.
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
            figures = self._run_own(step)
            project.figures |= figures
            say(_summary(step, figures))
        project.figures['seconds'] = {
            **project.figures.get('seconds', {}), step: round(time.perf_counter() - start, 1)}
        project.done[step] = key
        project.write()

    def _run_own(self, step: str) -> dict[str, Any]:
        """Runs a step that is no command, and returns its figures."""
        if step == 'models':
            return project_steps.make_model(self._project, self._packages_dir)
        if step == 'questions':
            return project_steps.split_questions(self._project)
        return project_steps.choose_searcher(self._project)

    def _is_done(self, step: str, key: str) -> bool:
        if self._project.done.get(step) != key or step == 'questions' and self._project.damage():
            return False
        return bool(self._skipped(step)) or (self._project.path / _WRITES[step]).exists()

    def _skipped(self, step: str) -> str:
        """Returns why a step is skipped; '' if it is not."""
        held_out = self._project.figures.get('test_questions', 0)
        if step in ('evaluation', 'closed book') and not held_out:
            return 'fewer than five questions, so none was held out, and nothing is measured'
        if step == 'confidence' and held_out < calibrate.FEWEST:
            return (f'{held_out} held-out questions, fewer than the {calibrate.FEWEST} that show '
                    'how far an answer can be trusted')
        return ''

    def _key(self, step: str) -> str:
        """Returns a hash of a step's inputs and of the keys of the steps before it."""
        # Keys of the earlier steps, not their files: an index that was edited since stays.
        body = [project_steps.inputs_of(self._project, step),
                [self._project.done.get(name) for name in _AFTER[step]]]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]

    def _clear(self, step: str, say: Callable[[str], None]) -> None:
        """Removes what the step has written for other inputs."""
        if step == 'passages':  # its command replaces the whole store
            return
        path = self._project.path / _WRITES[step]
        if path.is_dir():
            say(f'its inputs have changed; {path} is made again')
            shutil.rmtree(path)
        for file in (path, path.with_name(f'{path.name}.partial')):
            file.unlink(missing_ok=True)

    def _estimate(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        project, gflops = self._project, estimate.speed()
        sizes = estimate.sizes_of(PassageStore.open(project.path / 'store'), project.figures)
        waiting = [name for name in names if not (project.done.get(name) or self._skipped(name))]
        by_step = estimate.seconds(sizes, gflops, waiting)
        project.figures['estimate'] = {name: round(value) for name, value in by_step.items()}
        say(f'{sizes.passages} passages; {estimate.shown(by_step, gflops)}')


def command_of(project: Project, step: str) -> list[str]:
    """Returns the arguments of the `atlas-jax` command that does a step; [] if no command does.
    People can run it to repeat the step.
    """
    path = str(project.path)
    if step == 'passages':
        return ['data', 'passages', *file_list.listed(project.settings.documents), '--out',
                str(project.path / 'store'), '--model', str(project.path / 'model')]
    if step == 'confidence':
        return ['calibrate', '--model', str(project.model), '--index', str(project.index),
                '--searcher', project.searcher, '--examples',
                str(project.path / 'questions' / 'test.jsonl')]
    commands = {
        'index': ['index', 'build', '--project', path], 'training': ['train', '--project', path],
        'evaluation': ['evaluate', '--project', path],
        'closed book': ['evaluate', '--project', path, '--closed_book']}
    return commands.get(step, [])


def _say_at(say: Callable[[str], None], place: str, text: str) -> None:
    say(f'{place}: {text}')


def _summary(step: str, figures: dict[str, Any]) -> str:
    if step == 'models':
        parts = ', '.join(f'{count / 1e6:.0f} million in the {name}'
                          for name, count in figures['parameters'].items())
        return f'parameters: {parts}'
    if step == 'questions':
        return f'{figures["train_questions"]} to train on, {figures["test_questions"]} held out'
    if figures.get('searchers'):
        measured = ', '.join(f'{name} {row["recall_at_1"]:.3f}'
                             for name, row in figures['searchers'].items())
        return f'{figures["searcher"]} (found first, of the training questions: {measured})'
    return f'{figures["searcher"]}: {figures["why"]}'
