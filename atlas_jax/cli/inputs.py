"""Looks at a command's files and folders before jax is imported and models are loaded, which takes minutes for large ones.

It finds what is missing, of another kind or cut short. What only shows once weights or embeddings are read, the command itself finds.
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
    from atlas_jax.gin_files.preview import Preview
    from atlas_jax.tasks.task import Task


def check_model_flags(options: argparse.Namespace) -> None:
    """Raises ConfigError unless there is --model, or --reader and --retriever."""
    if bool(options.model) == bool(options.reader or options.retriever) or bool(options.reader) != bool(options.retriever):
        raise errors.ConfigError('give either --model, or both --reader and --retriever')


def check_model(options: argparse.Namespace) -> None:
    """Looks at the folders of --model, or --reader and --retriever. Raises ConfigError, ModelFolderError."""
    check_model_flags(options)
    for flag in ('model', 'reader', 'retriever'):
        check_model_folder(getattr(options, flag))


def check_model_folder(path: str | None, remark: str = '') -> None:
    """Looks at the folder or file of a model; `remark` ends the message where nothing is there.

    Raises ModelFolderError: nothing is there, or its description is no JSON.
    """
    # What lies in a bucket is opened once.
    if path is None or '://' in path:
        return
    folder = pathlib.Path(path)
    if not folder.exists():
        raise errors.ModelFolderError(f'{folder}: no such file or folder; give the folder of a model{remark}')
    for name in ('model.json', 'config.json'):
        try:
            untrusted.require_regular_file(folder / name)
            if (folder / name).is_file():
                untrusted.parse_json((folder / name).read_bytes())
        except ValueError as error:
            raise errors.ModelFolderError(f'{folder / name}: broken JSON: {error}') from error


def check_own_model(path: str) -> None:
    """Looks at the folder of a model into which something is to be written. Raises ModelFolderError: it is no folder of ours."""
    check_model_folder(path)
    if '://' not in path and not (pathlib.Path(path) / 'model.json').is_file():
        raise errors.ModelFolderError(f'{path}: no model.json in it, so this is not an atlas_jax model; give the run folder of '
                                      '`atlas-jax train`, or convert it with `atlas-jax convert`')


def check_abstention(path: str | None, abstain_below: float | None) -> None:
    """Raises ConfigError: answers are to be withheld by a confidence that the model does not have."""
    if abstain_below is None:
        return
    if not 0 <= abstain_below <= 1:
        raise errors.ConfigError(f'--abstain_below {abstain_below}: it must be from 0 to 1')
    # What lies in a bucket is opened once.
    if path is None or '://' not in path and not (pathlib.Path(path) / 'confidence.json').is_file():
        raise errors.ConfigError(f'--abstain_below needs a confidence, and {path or "this model"} is not calibrated: '
                                 f'`atlas-jax calibrate --model {path or "RUN"} --index INDEX --examples FILE` makes it')


def check_index(path: str | None, store: str | None = None) -> None:
    """Looks at an index and at the folder of its store. Raises IndexFolderError, StoreError."""
    from atlas_jax.index import index_manifest  # not above: help needs no tensorstore
    from atlas_jax.io.folder import Folder
    # What lies in a bucket is opened once.
    if path is not None and '://' not in path:
        index_manifest.read(Folder(path))
    check_store(store)


def check_store(path: str | None) -> None:
    """Looks at the folder of a store. Raises StoreError."""
    if path is not None and '://' not in path and not pathlib.Path(path).is_dir():
        raise errors.StoreError(f'{path}: no such folder; build a passage store there with `atlas-jax data passages`')


def check_training(values: Preview) -> None:
    """Looks at what `atlas-jax train` reads. Raises UserError."""
    if alone := values.values_of('RetrieverData'):
        _check_retriever_training(values, alone)
        return
    data = values.values_of('TrainData')
    task = _check_source(values, trains=True)
    _check_indexes(data.get('index_dir'))
    check_examples(data.get('train_file'), task, max_rows=data.get('max_examples'), training=True)
    check_examples(data.get('eval_file'), task)


def _check_retriever_training(values: Preview, data: dict[str, Any]) -> None:
    # No reader, and no task: the file's name for the data says which training it is.
    folder = values.values_of('RetrieverSource').get('retriever_dir')
    check_model_folder(folder if isinstance(folder, str) else None)
    _check_indexes(data.get('index_dir'))
    check_store(data['store_dir'] if isinstance(data.get('store_dir'), str) else None)
    check_examples(data.get('train_file'), None)
    if isinstance(questions := data.get('questions_file'), str | list | tuple):
        from atlas_jax.io import file_list
        file_list.files_of(questions)  # their lines are read when the retriever is there


def check_evaluation(values: Preview) -> None:
    """Looks at what `atlas-jax evaluate` reads. Raises UserError."""
    data = values.values_of('EvalData')
    task = _check_source(values)
    threshold, model = values.values_of('Options').get('abstain_below'), values.values_of('ModelSource').get('model_dir')
    if isinstance(threshold, int | float):
        check_abstention(model if isinstance(model, str) else None, threshold)
    _check_indexes(data.get('index_dir'))
    check_examples(data.get('examples_file'), task, max_rows=data.get('max_examples'),
                   labelled=not values.values_of('Options').get('retrieve_only'))


def check_examples(paths: Any, task: Task | None, max_rows: int | None = None, **options: bool) -> None:
    """Reads files of examples as task.read_examples will, all of their rows; without a task as JSON lines alone.

    Raises InputFileError: no such file, a row that is broken, or lacks a field of the task.
    """
    from atlas_jax.io import file_list, jsonl
    from atlas_jax.tasks import task as task_lib
    several = isinstance(paths, list | tuple) and all(isinstance(path, str) for path in paths)
    if not isinstance(paths, str) and not several:  # no file, or none that a gin file says in plain text
        return
    if task is not None:
        task_lib.check_rows(paths, task, max_rows=max_rows, **options)
    else:
        rows = itertools.chain.from_iterable(jsonl.read(file) for file in file_list.files_of(paths))
        collections.deque(itertools.islice(rows, max_rows), maxlen=0)


def task_of(model_dir: Any, name: str | None, task_options: dict[str, Any]) -> Task | None:
    """Returns the task by the name of its class, else the model's own; None where it shows only once the model is loaded."""
    from atlas_jax.tasks import registry
    try:
        if name is not None:
            kinds = {kind.__name__: kind for kind in registry.TASKS.values()}
            return kinds[name](**task_options) if name in kinds else None
        if isinstance(model_dir, str) and '://' not in model_dir and (pathlib.Path(model_dir) / 'model.json').is_file():
            described = untrusted.parse_json((pathlib.Path(model_dir) / 'model.json').read_bytes())
            return registry.from_dict(described['task'])
    except (errors.ConfigError, TypeError, ValueError, LookupError):  # a mistake that is told with its place later
        return None
    return registry.from_dict({}) if model_dir is None else None


def _check_source(values: Preview, trains: bool = False) -> Task | None:
    """Looks at the folders of ModelSource, and returns its task."""
    from atlas_jax.gin_files import preview, t5x_names
    source = values.values_of('ModelSource')
    for name in ('model_dir', 'reader_dir', 'retriever_dir'):
        if isinstance(source.get(name), str):
            check_model_folder(source[name], f' ({t5x_names.OUTPUT})' if trains and name == 'model_dir' else '')
    task = preview.name_of(source.get('task'))
    return task_of(source.get('model_dir'), task, {} if task is None else values.values_of(task))


def _check_indexes(folders: Any) -> None:
    if isinstance(folders, dict):  # several in turn, by name
        for each in folders.values():
            _check_indexes(each)
        return
    for folder in [folders] if isinstance(folders, str) else folders if isinstance(folders, list | tuple) else []:
        check_index(folder if isinstance(folder, str) else None)
