"""The text of gin files: files that are not text, and imports of moved modules."""

import os
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.evaluation import evaluate


def test_imports_of_moved_modules_are_read_as_the_present_ones(tmp_path):
    text = ('from __gin__ import dynamic_registration\nfrom atlas_jax import evaluate\nfrom atlas_jax import api\n'
            'from atlas_jax.planning import workload\nevaluate.Options.batch_size = 3\napi.build_index.dtype = "int8"\n'
            'workload.Workload.batch_size = 5\n')
    (tmp_path / 'old.gin').write_text(text, encoding='utf-8')
    gin_parse.parse([str(tmp_path / 'old.gin')])
    assert gin_parse.arguments_of(evaluate.Options) == {'batch_size': 3}


def test_files_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo('pipe.gin')
    pathlib.Path('zero.gin').symlink_to('/dev/zero')
    pathlib.Path('folder.gin').mkdir()
    for name in ('pipe.gin', 'zero.gin', 'folder.gin', '/dev/zero'):
        with pytest.raises(errors.ConfigError, match='no regular file'):
            gin_parse.parse([name])
    for name in ('x' * 5000, 'a\0b', '', '/proc/self/mem/x'):
        with pytest.raises(errors.ConfigError):
            gin_parse.parse([name])
    pathlib.Path('run.gin').write_text("include 'pipe.gin'\n")
    with pytest.raises(errors.ConfigError, match='no regular file'):
        gin_parse.parse(['run.gin'])
