"""Checks a command's files and folders before jax is imported and models are loaded, which takes
up to minutes.

The checks find files that are missing, of another kind or cut short. Damage in weights and
embeddings is found by the command itself.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import pathlib
from typing import TYPE_CHECKING, Any

from atlas_jax import errors
from atlas_jax.io import untrusted

if TYPE_CHECKING:
    from atlas_jax.apps.gin_files.preview import Preview
    from atlas_jax.tasks.task import Task

_MODEL = ('model', 'reader', 'retriever')


def check_model_flags(options: argparse.Namespace) -> None:
    """Raises ConfigError unless there is --model, or --reader and --retriever."""
    model, reader, retriever = (bool(getattr(options, flag)) for flag in _MODEL)
    if (model, reader, retriever) not in ((True, False, False), (False, True, True)):
        raise errors.ConfigError('give either --model, or both --reader and --retriever')


def check_model(options: argparse.Namespace) -> None:
    """Checks the folders of --model, or --reader and --retriever.

    Raises ConfigError, ModelFolderError.
    """
    check_model_flags(options)
    for flag in _MODEL:
        check_model_folder(getattr(options, flag))


def check_model_folder(path: Any, remark: str = '') -> None:
    """Checks the folder or file of a model; `remark` follows the message that nothing is there.

    Raises ModelFolderError: nothing is there, or its description is broken JSON.
    """
    if not _is_local(path):
        return
    folder = pathlib.Path(path)
    if not folder.exists():
        raise errors.ModelFolderError(f'{folder}: no such file or folder; give the folder of a '
                                      f'model{remark}')
    for name in ('model.json', 'config.json'):
        try:
            untrusted.require_regular_file(folder / name)
            if (folder / name).is_file():
                untrusted.parse_json((folder / name).read_bytes())
        except ValueError as error:
            raise errors.ModelFolderError(f'{folder / name}: broken JSON: {error}') from error


def check_own_model(path: str) -> None:
    """Checks the folder of a model that a command writes to.

    Raises ModelFolderError: it is no folder of an atlas_jax model.
    """
    check_model_folder(path)
    if _is_local(path) and not (pathlib.Path(path) / 'model.json').is_file():
        raise errors.ModelFolderError(f'{path}: no model.json in it, so this is not an atlas_jax '
                                      'model; give the run folder of `atlas-jax train`, or '
                                      'convert it with `atlas-jax convert`')


def check_abstention(path: Any, abstain_below: Any) -> None:
    """Raises ConfigError: answers are to be withheld by their confidence, but the threshold is
    invalid or the model is not calibrated.
    """
    if not isinstance(abstain_below, int | float):
        return
    if not 0 <= abstain_below <= 1:
        raise errors.ConfigError(f'--abstain_below {abstain_below}: it must be from 0 to 1')
    is_bucket = isinstance(path, str) and '://' in path
    if not is_bucket and not (_is_local(path)
                              and (pathlib.Path(path) / 'confidence.json').is_file()):
        raise errors.ConfigError(f'--abstain_below needs a confidence, and {path or "this model"} '
                                 'is not calibrated: '
                                 f'`atlas-jax calibrate --model {path or "RUN"} --index INDEX '
                                 '--examples FILE` makes it')


def check_index(path: Any, store: str | None = None) -> None:
    """Checks the manifest of an index and the folder of its store.

    Raises IndexFolderError, StoreError.
    """
    from atlas_jax.index import index_manifest  # imports tensorstore
    from atlas_jax.io.folder import Folder
    if _is_local(path):
        index_manifest.read(Folder(path))
    check_store(store)


def check_indexes(options: argparse.Namespace) -> None:
    """Checks the indexes of --index and --also, and the store of --store.

    Raises IndexFolderError, StoreError.
    """
    for folder in (options.index, *options.also):
        check_index(folder)
    check_store(options.store)


def check_store(path: Any) -> None:
    """Checks that the folder of a store exists. Raises StoreError."""
    if _is_local(path) and not pathlib.Path(path).is_dir():
        raise errors.StoreError(f'{path}: no such folder; build a passage store there with '
                                '`atlas-jax data passages`')


def check_output_file(flag: str, path: str) -> None:
    """Raises ConfigError: the folder of a file to write does not exist."""
    folder = pathlib.Path(path).absolute().parent
    if not folder.is_dir():
        raise errors.ConfigError(f'{flag} {path}: there is no folder {folder}')


def check_training(values: Preview) -> None:
    """Checks the files that `atlas-jax train` reads. Raises UserError."""
    # The class of the data says whether the gin files train a retriever alone.
    if data := values.values_of('RetrieverData'):
        check_model_folder(values.values_of('RetrieverSource').get('retriever_dir'))
        _check_gin_indexes(data.get('index_dir'))
        check_store(data.get('store_dir'))
        check_examples(data.get('train_file'), None)
        if isinstance(questions := data.get('questions_file'), str | list | tuple):
            from atlas_jax.io import file_list
            file_list.files_of(questions)  # their lines are read once the retriever is loaded
        return
    data = values.values_of('TrainData')
    task = _check_source(values, trains=True)
    _check_gin_indexes(data.get('index_dir'))
    check_examples(data.get('train_file'), task, max_rows=data.get('max_examples'), training=True)
    check_examples(data.get('eval_file'), task)


def check_evaluation(values: Preview) -> None:
    """Checks the files that `atlas-jax evaluate` reads. Raises UserError."""
    data, options = values.values_of('EvalData'), values.values_of('Options')
    task = _check_source(values)
    check_abstention(values.values_of('ModelSource').get('model_dir'),
                     options.get('abstain_below'))
    _check_gin_indexes(data.get('index_dir'))
    check_examples(data.get('examples_file'), task, max_rows=data.get('max_examples'),
                   labelled=not options.get('retrieve_only'))


def check_examples(paths: Any, task: Task | None, max_rows: int | None = None,
                   **options: bool) -> None:
    """Reads all rows of example files, as task.read_examples will. Without a task, only their JSON
    is checked.

    Raises InputFileError: no such file, or a row is broken or lacks a field of the task.
    """
    from atlas_jax.io import file_list, jsonl
    from atlas_jax.tasks import task as task_lib
    several = isinstance(paths, list | tuple) and all(isinstance(path, str) for path in paths)
    if not isinstance(paths, str) and not several:  # not set, or no plain text in the gin file
        return
    if task is not None:
        task_lib.check_rows(paths, task, max_rows=max_rows, **options)
    else:
        rows = itertools.chain.from_iterable(jsonl.read(file) for file in file_list.files_of(paths))
        collections.deque(itertools.islice(rows, max_rows), maxlen=0)


def task_of(model_dir: Any, name: str | None, task_options: dict[str, Any]) -> Task | None:
    """Returns the task with a class's name, else the model's own task; None if it is known only
    once the model is loaded.
    """
    from atlas_jax.tasks import registry
    try:
        if name is not None:
            kinds = {kind.__name__: kind for kind in registry.TASKS.values()}
            return kinds[name](**task_options) if name in kinds else None
        if model_dir is None:
            return registry.from_dict({})
        described = pathlib.Path(model_dir) / 'model.json'
        if _is_local(model_dir) and described.is_file():
            return registry.from_dict(untrusted.parse_json(described.read_bytes())['task'])
    except (errors.ConfigError, TypeError, ValueError, LookupError):
        pass  # the command itself reports the mistake, with its place
    return None


def _check_source(values: Preview, trains: bool = False) -> Task | None:
    """Checks the folders of ModelSource, and returns its task."""
    from atlas_jax.apps.gin_files import preview, t5x_names
    source = values.values_of('ModelSource')
    for name in ('model_dir', 'reader_dir', 'retriever_dir'):
        remark = f' ({t5x_names.OUTPUT})' if trains and name == 'model_dir' else ''
        check_model_folder(source.get(name), remark)
    task = preview.name_of(source.get('task'))
    return task_of(source.get('model_dir'), task, {} if task is None else values.values_of(task))


def _check_gin_indexes(folders: Any) -> None:
    """Checks one index folder, several that are searched together, or such values by name."""
    if isinstance(folders, dict):
        folders = list(folders.values())
    if isinstance(folders, str):
        check_index(folders)
    elif isinstance(folders, list | tuple):
        for folder in folders:
            _check_gin_indexes(folder)


def _is_local(path: Any) -> bool:
    # A folder in a bucket is opened only once, by the command. Gin files may hold other values.
    return isinstance(path, str) and '://' not in path
