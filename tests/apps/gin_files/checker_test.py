"""The checker by itself: macros that lead to themselves, files that include others over and over."""

import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.apps.gin_files import parse as gin_parse


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_macro_that_is_its_own_value_on_the_command_line():
    with pytest.raises(errors.ConfigError, match=r'--gin.TOTAL_STEPS=%TOTAL_STEPS: macro %TOTAL_STEPS is its own value'):
        gin_parse.parse(['runs/few_shot.gin'], ['TOTAL_STEPS=%TOTAL_STEPS'])
    pathlib.Path('run.gin').write_text('A = %B\nB = %C\nC = 1\n')
    with pytest.raises(errors.ConfigError, match=r'run.gin:2: macro %B is its own value \(%B -> %C -> %B\)|%C -> %B -> %C|%A -> %B'):
        gin_parse.parse(['run.gin'], ['C=%B'])


def test_files_that_include_others_over_and_over():
    for i in range(12):
        pathlib.Path(f'f{i}.gin').write_text(f"include 'f{i + 1}.gin'\n" * 2)
    pathlib.Path('f12.gin').write_text('X = 1\n')
    with pytest.raises(errors.ConfigError, match='gin files are read'):
        gin_parse.parse(['f0.gin'])
