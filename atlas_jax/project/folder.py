"""The folder of a project, and the record of what was done in it.

    PROJECT/project.json   {"version", "settings", "begun": {step: key}, "done": {step: key}, "figures"}
            model/         the model that training starts from, with its formats
            store/ index/  passages and their embeddings
            questions/     train.jsonl and test.jsonl, where questions were given
            gin/           the gin files of index, training and evaluation, as they were used
            run/           the trained model
            results/       every answer to the test questions, with and without passages
            report.html
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic, untrusted

FILE = 'project.json'
VERSION = 1
# In the order in which they are done; those after `searcher` need questions.
STEPS = ('models', 'questions', 'passages', 'index', 'searcher', 'training', 'evaluation', 'closed book', 'confidence')


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that a user gave.

    Attributes:
      documents: files, folders and patterns.
      questions: a .jsonl or .csv file; None for none.
      model: a folder to start from; None takes `reader` and `retriever`.
      reader, retriever: folders; None for both takes the demo's.
    """

    documents: tuple[str, ...]
    questions: str | None = None
    model: str | None = None
    reader: str | None = None
    retriever: str | None = None


@dataclasses.dataclass
class Project:
    """An opened project; `write` saves what changed in it.

    Attributes:
      path: the folder.
      settings: of `atlas-jax new`.
      begun, done: a key of its inputs for each step that was begun, and that has ended.
      figures: what later steps and the report need: counts, parameters, searchers.
    """

    path: pathlib.Path
    settings: Settings
    begun: dict[str, str] = dataclasses.field(default_factory=dict)
    done: dict[str, str] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """True where there are questions to train on."""
        return bool(self.settings.questions)

    @property
    def model(self) -> pathlib.Path:
        """The folder of the model that answers: the trained one, where there are questions."""
        return self.path / ('run' if self.trains else 'model')

    @property
    def index(self) -> pathlib.Path:
        """The folder of the index."""
        return self.path / 'index'

    @property
    def gin(self) -> pathlib.Path:
        """The folder of the gin files."""
        return self.path / 'gin'

    def gin_file(self, name: str) -> pathlib.Path:
        """Returns the path of one of the gin files: index, train, evaluate or closed_book."""
        return untrusted.inside(self.gin, f'{name}.gin')

    @property
    def searcher(self) -> str:
        """The searcher that was chosen."""
        return str(self.figures.get('searcher', 'exact'))

    def macros(self, name: str) -> dict[str, Any]:
        """Returns the paths that one of the gin files sets, as they are where the folder lies now."""
        # The project's model knows its own parts: READER_DIR and RETRIEVER_DIR are the other way to name one.
        model, index = {'READER_DIR': None, 'RETRIEVER_DIR': None}, {'INDEX_DIR': str(self.index)}
        if name == 'index':
            return {**index, 'STORE_DIR': str(self.path / 'store'), 'MODEL_DIR': str(self.path / 'model'), **model}
        if name == 'train':
            return {'RUN_DIR': str(self.path / 'run'), 'TRAIN_FILE': str(self.path / 'questions' / 'train.jsonl'), **index,
                    'MODEL_DIR': str(self.path / 'model'), **model}
        results = {'MODEL_DIR': str(self.model), **model, 'EXAMPLES_FILE': str(self.path / 'questions' / 'test.jsonl'),
                   'RESULTS_FILE': str(self.path / 'results' / ('test.jsonl' if name == 'evaluate' else 'closed_book.jsonl'))}
        return {**results, **(index if name == 'evaluate' else {'INDEX_DIR': None})}

    def steps(self) -> tuple[str, ...]:
        """Returns the names of the steps that this project needs."""
        # A searcher is chosen either way; the steps behind it are for questions.
        return STEPS if self.trains else tuple(name for name in STEPS[:STEPS.index('searcher') + 1] if name != 'questions')

    def require(self, *steps: str) -> None:
        """Raises ConfigError if one of these steps has not ended: an earlier command was stopped."""
        if missing := [name for name in self.steps() if name not in self.done and (not steps or name in steps)]:
            raise errors.ConfigError(f'{self.path}: half made ("{missing[0]}" is not done); run `atlas-jax new {self.path}` to go on')

    def write(self) -> None:
        """Saves the record. Raises DiskFullError."""
        body = {'version': VERSION, 'settings': dataclasses.asdict(self.settings), 'begun': self.begun, 'done': self.done,
                'figures': self.figures}
        atomic.write_json(self.path / FILE, body)


def exists(path: str | os.PathLike) -> bool:
    """Returns whether there is a project, whatever its state."""
    return (pathlib.Path(path) / FILE).exists()


def open_project(path: str | os.PathLike) -> Project:
    """Opens a project.

    Raises ConfigError: no such folder, no project in it, one of another version, or a damaged record.
    """
    folder = pathlib.Path(path)
    remedy = f'make one with `atlas-jax new {folder} --documents PATH`'
    if not folder.is_dir():
        raise errors.ConfigError(f'{folder}: no such folder; {remedy}')
    try:
        body = untrusted.read_json(folder / FILE)
    except FileNotFoundError as error:
        raise errors.ConfigError(f'{folder}: no project ({FILE} is missing); {remedy}') from error
    except ValueError as error:
        raise errors.ConfigError(f'{folder / FILE}: broken ({error}); restore it, or {remedy}') from error
    # Before any other field: another version may have others.
    if isinstance(body, dict) and body.get('version') != VERSION:
        raise errors.ConfigError(f'{folder / FILE}: a project of version {untrusted.shown(body.get("version"))}, this version of atlas_jax '
                                 f'reads {VERSION}; {remedy.replace("make one", "make it again")} in another folder')
    try:
        return _of(folder, body)
    except (LookupError, TypeError, ValueError) as error:
        raise errors.ConfigError(f'{folder / FILE}: broken ({error}); restore it, or {remedy}') from error


def _of(folder: pathlib.Path, body: Mapping[str, Any]) -> Project:
    """Raises LookupError, TypeError, ValueError: fields are missing or of another type."""
    # The record is a file that anybody may have written: nothing of another type gets further.
    settings = {**body['settings'], 'documents': tuple(body['settings']['documents'])}
    for field in dataclasses.fields(Settings):
        value = settings[field.name]
        texts = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f'field "{field.name}"')
    for name, kind in (('begun', str), ('done', str), ('figures', object)):
        if not isinstance(body[name], dict) or not all(isinstance(value, kind) for value in body[name].values()):
            raise ValueError(f'field "{name}"')
    return Project(folder, Settings(**settings), dict(body['begun']), dict(body['done']), dict(body['figures']))
