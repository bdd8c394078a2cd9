"""Reads data sets that tensorflow-datasets has prepared, without TensorFlow."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples import open_questions, passage_questions
from atlas_jax.apps.datasets.examples.example_source import ExamplesOf
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.io import untrusted

_INFO, _FEATURES = 'dataset_info.json', 'features.json'
_OWN_FEATURES = 'tensorflow_datasets.core.features.'
_SPLITS = {'validation': 'dev'}
_REMEDY = ('build it by `tfds build NAME --file_format=array_record`, and give the folder that '
           'holds dataset_info.json')


# Each function returns the fields as the publisher writes them; the publisher's reader does the
# rest.
def _trivia(fields: dict[str, Any]) -> dict[str, Any]:
    answer = fields['answer']
    question = {'QuestionId': fields['question_id'], 'Question': fields['question']}
    if answer['value'] == '<unk>':  # tensorflow-datasets writes this if a test question has none
        return question
    return {**question, 'Answer': {'Value': answer['value'], 'Aliases': answer['aliases']}}


def _squad(fields: dict[str, Any]) -> dict[str, Any]:
    question = {
        name: fields[name]
        for name in ('id', 'question', 'answers', 'is_impossible')
        if name in fields}
    return {
        'title': fields['title'], 'paragraphs': [{'context': fields['context'], 'qas': [question]}]}


def _web(fields: dict[str, Any]) -> dict[str, Any]:
    return {'question': fields['question'], 'answer': fields['answers']}


_DATA_SETS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], ExamplesOf]] = {
    'natural_questions_open': (dict, open_questions.natural_question),
    'trivia_qa': (_trivia, open_questions.trivia_question),
    'web_questions': (_web, open_questions.natural_question),
    'squad': (_squad, passage_questions.squad_article),
    'bool_q': (dict, passage_questions.boolq_question)}


def _builder(folder: pathlib.Path) -> Any:
    """Returns the tensorflow-datasets builder of a folder.

    Raises InputFileError: the data set is unknown, or its file format needs TensorFlow.
    ConfigError: tensorflow-datasets is not installed.
    """
    try:
        info = untrusted.read_json(folder / _INFO)
        features = untrusted.read_json(folder / _FEATURES)
    except (OSError, ValueError) as error:
        problem = f'no folder of tensorflow-datasets: {_INFO} or {_FEATURES} cannot be read'
        raise errors.InputFileError(folder, problem, remedy=_REMEDY) from error
    name, kind = (info.get(field) if isinstance(info, dict) else None
                  for field in ('name', 'fileFormat'))
    if name not in _DATA_SETS:
        raise errors.InputFileError(
            folder / _INFO, f'{untrusted.shown(name)} is not one of {", ".join(_DATA_SETS)}',
            field='name', remedy=_REMEDY)
    if kind != 'array_record':
        raise errors.InputFileError(folder / _INFO, f'{untrusted.shown(kind)}, expected '
                                                    '"array_record", which needs no TensorFlow',
                                    field='fileFormat', remedy=_REMEDY)
    # The library imports the classes named here, whatever they are.
    if wrong := [
            name for name in _class_names(features) if not str(name).startswith(_OWN_FEATURES)]:
        raise errors.InputFileError(
            folder / _FEATURES, f'{untrusted.shown(wrong[0])} is not a feature of '
            'tensorflow-datasets', remedy=_REMEDY)
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise errors.ConfigError('this needs tensorflow-datasets; install it by pip install '
                                 '"atlas-jax[tfds]"') from error
    try:
        return tensorflow_datasets.builder_from_directory(folder)
    except Exception as error:  # protobuf's errors, and whatever a broken file causes
        first = f'{error}'.strip().partition('\n')[0][:99]
        raise errors.InputFileError(folder, f'tensorflow-datasets cannot open it ({first})',
                                    remedy=_REMEDY) from error


def _class_names(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == 'pythonClassName':
                yield part
            yield from _class_names(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_names(part)


def _plain(feature: Any, value: Any) -> Any:
    """Returns a value of tensorflow-datasets as JSON. A sequence of objects, which
    tensorflow-datasets gives as an object of sequences, becomes a list of objects.
    """
    if (inner := getattr(feature, 'feature', None)) is not None:  # a sequence
        return [_plain(inner, _at(value, place)) for place in range(_length(value))]
    if hasattr(feature, 'items'):
        return {name: _plain(part, value[name]) for name, part in feature.items()}
    if hasattr(feature, 'int2str'):  # a class by its number; -1 means no class
        return feature.int2str(int(value)) if value >= 0 else ''
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, 'item') else value


def _at(value: Any, place: int) -> Any:
    if isinstance(value, dict):
        return {name: _at(part, place) for name, part in value.items()}
    return value[place]


def _length(value: Any) -> int:
    return _length(next(iter(value.values()))) if isinstance(value, dict) else len(value)


def _read(folder: pathlib.Path, split: str) -> Iterator[RowOrError]:
    builder = _builder(folder)
    in_publishers_fields, examples_of = _DATA_SETS[builder.info.name]
    output, number = _SPLITS.get(split, split), -1
    try:
        for number, value in enumerate(builder.as_data_source(split)):
            fields = in_publishers_fields(_plain(builder.info.features, value))
            examples = records.attempt(
                PublishedRecord(folder, fields, place=f'{split}[{number}]'),
                lambda record: list(examples_of(record)))
            if isinstance(examples, errors.InputFileError):
                yield examples
            else:
                yield from (OutputRow(output, example) for example in examples)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise errors.InputFileError(folder,
                                    f'{split}: broken after example {number} ({str(error)[:99]})',
                                    remedy=_REMEDY) from error


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    if len(files) != 1 or not files[0].is_dir():
        raise errors.InputFileError(files[0] if files else '--from',
                                    'expected one folder of tensorflow-datasets', remedy=_REMEDY)
    folder = files[0]
    splits = sorted(_builder(folder).info.splits)
    if not splits:
        raise errors.InputFileError(folder / _INFO, 'no splits', remedy=_REMEDY)
    return [
        Piece(f'{number:04}',
              tuple(sorted(folder.glob(f'*-{split}.array_record-*'))) or (folder / _INFO, ),
              functools.partial(_read, folder, split)) for number, split in enumerate(splits)]


SOURCES = (Source(
    'tfds', 'examples', 'qa', 'the folder of a data set that tensorflow-datasets has prepared as '
    'array_record, such as tensorflow_datasets/natural_questions_open/1.0.0; one of '
    f'{", ".join(_DATA_SETS)}', _pieces), )
