"""Small files in publishers' formats (tests/fixtures/published), read by their sources and by the tasks."""

import contextlib
import io
import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.datasets import registry
from atlas_jax.datasets.source import Bad
from atlas_jax.tasks import registry as tasks
from atlas_jax.tasks import task as task_lib

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'published'


def read(name: str, *files: str | pathlib.Path, **options) -> tuple[dict[str, list[dict]], list[str]]:
    """Returns ({output: examples}, messages of what is bad) of files, which are relative to FOLDER."""
    source = registry.SOURCES[name]
    rows: dict[str, list[dict]] = {}
    bad = []
    for piece in source.pieces([FOLDER / file for file in files], {**source.options, **options}):
        for item in piece.read():
            if isinstance(item, Bad):
                bad.append(str(item.error))
            else:
                rows.setdefault(item.output, []).append(json.loads(json.dumps(item.fields)))
    return rows, bad


def asked(name: str, tmp_path: pathlib.Path, *files: str | pathlib.Path, **options) -> dict[str, list[task_lib.TaskExample]]:
    """Returns the source's task's examples of each output, as the task reads them from a file; no field may be without use."""
    source, made = registry.SOURCES[name], {}
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
    """Returns the message with which a source refuses files before any row is read, without FOLDER."""
    source = registry.SOURCES[name]
    with pytest.raises(errors.UserError) as raised:
        source.pieces([FOLDER / file for file in files], {**source.options, **options})
    return str(raised.value).replace(f'{FOLDER}/', '')


def lines(path: pathlib.Path, *rows: object) -> pathlib.Path:
    """Writes JSON lines; a text stands as it is."""
    path.write_text(''.join(f'{row if isinstance(row, str) else json.dumps(row)}\n' for row in rows), encoding='utf-8')
    return path
