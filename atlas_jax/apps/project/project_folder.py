"""The folder of a project, and the record of its finished steps.

    PROJECT/project.json   the record: settings, steps begun and done, figures, checksums
            model/         the model that training starts from, with its formats
            store/ index/  passages and their embeddings
            questions/     train.jsonl and test.jsonl, if questions were given
            gin/           the gin files of index, training and evaluation, as they were used
            run/           the trained model
            results/       every answer to the test questions, with and without passages
            report.html

The record has its own checksum and those of the questions. Records that an earlier version wrote
have none.
"""

import dataclasses
import os
import pathlib
from typing import Annotated, Any

from atlas_jax import errors
from atlas_jax.io import checksum, schema, untrusted, versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage

FILE = 'project.json'
QUESTIONS = 'questions'  # the folder of train.jsonl and test.jsonl
# Steps that answering needs; the others measure how good the answers are.
ANSWERING = ('models', 'passages', 'index', 'searcher', 'training')
# All steps in order; those after `searcher` need questions.
STEPS = ('models', 'questions', 'passages', 'index', 'searcher', 'training', 'evaluation',
         'closed book', 'confidence')


@dataclasses.dataclass(frozen=True)
class ProjectSettings:
    """The settings that a user gave.

    Attributes:
      documents: files, folders and patterns.
      questions: a .jsonl or .csv file, or None.
      model: folder of the model to start from; None takes `reader` and `retriever`.
      reader, retriever: folders; None for both takes the demo's models.
    """

    documents: tuple[schema.Path, ...]
    questions: schema.Path | None = None
    model: schema.Path | None = None
    reader: schema.Path | None = None
    retriever: schema.Path | None = None


@dataclasses.dataclass
class Project:
    """An opened project; `write` saves its changes.

    Attributes:
      path: the folder.
      settings: the settings of `atlas-jax new`.
      begun, done: {step: key of its inputs} of the steps that were begun, and that have ended.
      figures: figures for later steps and the report: counts, parameters, searchers.
      files: {file of questions: (bytes, SHA-256)}; `list_questions` sets it.
    """

    path: Annotated[pathlib.Path, schema.Anything()]
    settings: ProjectSettings
    begun: dict[str, str] = dataclasses.field(default_factory=dict)
    done: dict[str, str] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: schema.Files = dataclasses.field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """True if there are questions to train on."""
        return bool(self.settings.questions)

    @property
    def model(self) -> pathlib.Path:
        """The folder of the model that answers: the trained one if there are questions."""
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
        """Returns the paths that one of the gin files sets, for the folder's present place."""
        # READER_DIR and RETRIEVER_DIR are the alternative to a model of the project.
        model, index = {'READER_DIR': None, 'RETRIEVER_DIR': None}, {'INDEX_DIR': str(self.index)}
        if name == 'index':
            return {
                **index, 'STORE_DIR': str(self.path / 'store'),
                'MODEL_DIR': str(self.path / 'model'), **model}
        if name == 'train':
            return {
                'RUN_DIR': str(self.path / 'run'),
                'TRAIN_FILE': str(self.path / 'questions' / 'train.jsonl'),
                **index, 'MODEL_DIR': str(self.path / 'model'), **model}
        results = {
            'MODEL_DIR': str(self.model),
            **model, 'EXAMPLES_FILE': str(self.path / 'questions' / 'test.jsonl'),
            'RESULTS_FILE': str(self.path / 'results' /
                                ('test.jsonl' if name == 'evaluate' else 'closed_book.jsonl'))}
        return {**results, **(index if name == 'evaluate' else {'INDEX_DIR': None})}

    def steps(self) -> tuple[str, ...]:
        """Returns the names of the steps that this project needs."""
        # The steps after the choice of a searcher need questions.
        return STEPS if self.trains else tuple(
            name for name in STEPS[:STEPS.index('searcher') + 1] if name != 'questions')

    def require(self, *steps: str) -> None:
        """Raises ConfigError if one of these steps has not ended, because an earlier command was
        stopped.
        """
        if missing := [
                name for name in self.steps()
                if name not in self.done and (not steps or name in steps)]:
            raise errors.ConfigError(f'{self.path}: half made ("{missing[0]}" is not done); run '
                                     f'`atlas-jax new {self.path}` to go on')

    def list_questions(self) -> None:
        """Records the checksums of the files of questions; `write` saves them. Raises OSError."""
        names = (Folder(self.path) / QUESTIONS).sizes()
        self.files = versioned_folder.listed(Folder(self.path),
                                             [f'{QUESTIONS}/{name}' for name in names])

    def damage(self) -> list[Damage]:
        """Returns the damage of the files of questions, by reading them."""
        there = (Folder(self.path) / QUESTIONS).sizes()
        return list(versioned_folder.damaged_files(
            Folder(self.path), self.files, contents=True,
            there={f'{QUESTIONS}/{name}': size for name, size in there.items()}))

    def write(self) -> None:
        """Saves the record. Raises DiskFullError."""
        body = dataclasses.asdict(self)
        del body['path']
        KIND.write(Folder(self.path), body)


KIND = versioned_folder.FolderKind[dict[str, Any]](
    'a project', schema.ObjectOf(schema.object_of(Project).without('path')), errors.ConfigError,
    'atlas-jax new', file=FILE, checksum='sha256',
    remedy='restore it, or make a project in another folder with `atlas-jax new`')


def exists(path: str | os.PathLike) -> bool:
    """Returns whether there is a project, whatever its state."""
    return (pathlib.Path(path) / FILE).exists()


def open_project(path: str | os.PathLike, check_questions: bool = True) -> Project:
    """Opens a project.

    Raises ConfigError: no such folder, no project in it, a project of another version, a damaged
    record, or (with `check_questions`) damaged questions.
    """
    folder = pathlib.Path(path)
    remedy = f'make one with `atlas-jax new {folder} --documents PATH`'
    if not folder.is_dir():
        raise errors.ConfigError(f'{folder}: no such folder; {remedy}')
    content = KIND.content(Folder(folder))
    if content is None:
        raise errors.ConfigError(f'{folder}: no project ({FILE} is missing); {remedy}')
    body = content[0]
    if isinstance(body, dict) and not is_signed(body):
        body = {**body, 'files': {}}
        body['sha256'] = checksum.json_sha256(body)
    fields = KIND.parse(Folder(folder), body)
    project: Project = schema.build(Project, {'path': folder, **fields})
    for damage in project.damage() if check_questions else ():
        raise errors.ConfigError(f'{damage}; run `atlas-jax new {folder}` to write it again from '
                                 f'{project.settings.questions}')
    return project


def is_signed(body: dict[str, Any]) -> bool:
    """Returns whether a record has checksums; records of earlier versions have none."""
    # Either field shows it: a flipped bit must not make it an earlier version's.
    return not {'files', 'sha256'}.isdisjoint(body)
