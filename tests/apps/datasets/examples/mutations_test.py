"""Mutated files of every publisher: each row becomes an example that its task accepts, or a bad part, and never an unexpected error."""

import bz2
import contextlib
import gzip
import io
import json
import pathlib
import random

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import known_datasets
from atlas_jax.apps.datasets.source import OutputRow
from atlas_jax.tasks import registry as tasks
from tests.apps.datasets.examples import commands_test
from tests.testing import published

JUNK = [None, True, 3, -1, 10**30, 1.5, '', ' ', 'x', '\ud800', [], {}, [1], ['x'], [None], {'a': 1}, [[]], [{}], float('nan')]
UNPACK = {'.gz': gzip.decompress, '.bz2': bz2.decompress}
MUTATIONS = 25


def mutated(value, generator: random.Random):
    """Returns a copy with one value replaced or removed."""
    copy = json.loads(json.dumps(value))
    parent, key = generator.choice(list(places(copy)))
    if isinstance(parent, dict) and generator.random() < .2:
        del parent[key]
    else:
        parent[key] = generator.choice(JUNK)
    return copy


def places(value):
    """Yields (container, key) of every value inside a JSON value."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places(part)


def content_of(path: pathlib.Path) -> str:
    """Returns the text of a file, compressed or not."""
    return UNPACK.get(path.suffix, bytes)(path.read_bytes()).decode()


@pytest.mark.parametrize('name', sorted(commands_test.COMMANDS.keys() - {'mmlu'}))
def test_any_value_anywhere(name, tmp_path):
    generator, source = random.Random(7), known_datasets.SOURCES[name]
    task = tasks.make(source.task)
    files = [published.FOLDER / argument for argument in commands_test.COMMANDS[name][0] if '/' in argument]
    made = 0
    for _ in range(MUTATIONS):
        given = []
        for file in files:
            text = content_of(file)
            if text.count('\n{') or text.count('\n') == 1:  # JSON lines
                rows = [json.loads(line) for line in text.splitlines()]
                place = generator.randrange(len(rows))
                rows[place] = mutated(rows[place], generator)
                text = '\n'.join(map(json.dumps, rows))
            else:
                text = json.dumps(mutated(json.loads(text), generator))
            given.append(tmp_path / file.name.removesuffix(file.suffix if file.suffix in UNPACK else ''))
            given[-1].write_text(text, encoding='utf-8')
        with contextlib.suppress(errors.InputFileError), contextlib.redirect_stderr(io.StringIO()):
            for piece in source.pieces(given, source.options):
                for item in piece.read():
                    if isinstance(item, OutputRow):
                        row = json.loads(json.dumps(item.fields, ensure_ascii=False, allow_nan=False).encode())
                        assert task.problem(row) is None and task.example(row, 0) is not None
                        made += 1
    assert made  # some mutations change fields that are not read
