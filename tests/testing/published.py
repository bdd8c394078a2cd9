"""Reads small files in publishers' formats (tests/fixtures/published) by their sources and by the tasks."""

import contextlib
import io
import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import known_datasets
from atlas_jax.tasks import registry as tasks
from atlas_jax.tasks import task as task_lib

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'published'


def read(name: str, *files: str | pathlib.Path, **options) -> tuple[dict[str, list[dict]], list[str]]:
    """Returns ({output: examples}, messages of bad parts) of files, which are relative to FOLDER."""
    source = known_datasets.SOURCES[name]
    rows: dict[str, list[dict]] = {}
    bad = []
    for piece in source.pieces([FOLDER / file for file in files], {**source.options, **options}):
        for item in piece.read():
            if isinstance(item, errors.InputFileError):
                bad.append(str(item))
            else:
                rows.setdefault(item.output, []).append(json.loads(json.dumps(item.fields)))
    return rows, bad


def asked(name: str, tmp_path: pathlib.Path, *files: str | pathlib.Path, **options) -> dict[str, list[task_lib.TaskExample]]:
    """Returns the examples of each output, as the source's task reads them from a file; the task must use every field."""
    source, made = known_datasets.SOURCES[name], {}
    rows, bad = read(name, *files, **options)
    assert not bad
    for output, examples in rows.items():
        path = tmp_path / f'{output}.jsonl'
        path.write_text(''.join(json.dumps(example, ensure_ascii=False) + '\n' for example in examples), encoding='utf-8')
        with contextlib.redirect_stdout(io.StringIO()) as said:
            made[output] = task_lib.read_examples(path, tasks.make(source.task), labelled=False)
        assert 'not read' not in said.getvalue() and len(made[output]) == len(examples)
    return made


def refusal(name: str, *files: str | pathlib.Path, **options) -> str:
    """Returns the message, without FOLDER, with which a source refuses files before it reads any row."""
    source = known_datasets.SOURCES[name]
    with pytest.raises(errors.UserError) as raised:
        source.pieces([FOLDER / file for file in files], {**source.options, **options})
    return str(raised.value).replace(f'{FOLDER}/', '')


def lines(path: pathlib.Path, *rows: object) -> pathlib.Path:
    """Writes JSON lines; texts are written unchanged."""
    path.write_text(''.join(f'{row if isinstance(row, str) else json.dumps(row)}\n' for row in rows), encoding='utf-8')
    return path
