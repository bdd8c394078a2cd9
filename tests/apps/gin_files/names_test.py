"""Names in gin files: those that were imported, parameters, suggestions."""

import sys
import types

import pytest

from atlas_jax import errors
from atlas_jax.apps.gin_files import checker as check
from atlas_jax.apps.gin_files import names

DYNAMIC = 'from __gin__ import dynamic_registration\n'


class StepConfig:
    """A class that took over a parameter."""

    def __init__(self, steps: int = 3, folder: str = ''):
        self.steps, self.folder = steps, folder


def train(steps: int = 3):
    return steps


def build_index(store_dir: str = ''):
    return store_dir


def _module(monkeypatch, name, **things):
    module = types.ModuleType(name)
    for key, thing in things.items():
        monkeypatch.setattr(thing, '__module__', name)
        setattr(module, key, thing)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def modules(monkeypatch):
    """Modules as they are after a move; the old ones do not exist."""
    _module(monkeypatch, 'toy_steps_spec', StepConfig=StepConfig)
    _module(monkeypatch, 'toy_train', train=train)
    _module(monkeypatch, 'toy_api', build_index=build_index)


def _check(tmp_path, text, *bindings, imports=('toy_train', 'toy_steps_spec', 'toy_api')):
    (tmp_path / 'run.gin').write_text(text, encoding='utf-8')
    checker = check.Checker(lambda name: tmp_path / name if (tmp_path / name).is_file() else None, imports=imports)
    checker.check_file('run.gin')
    for binding in bindings:
        checker.check_command_line(binding)
    checker.finish()
    return checker


def test_what_the_files_name_is_known_by_its_full_name(modules, tmp_path):
    text = 'import toy_train\nimport toy_steps_spec\ntoy_train.train.steps = 5\nA = @toy_steps_spec.StepConfig()\n'
    assert _check(tmp_path, DYNAMIC + text).configurables == {'toy_train.train': train, 'toy_steps_spec.StepConfig': StepConfig}


def test_other_mistakes_keep_their_suggestions(modules, tmp_path):
    with pytest.raises(errors.ConfigError, match='has no parameter "stepz"; did you mean "steps"'):
        _check(tmp_path, f'{DYNAMIC}import toy_train\ntoy_train.train.stepz = 2\n')
    with pytest.raises(errors.ConfigError, match=r'--gin_import toy_nowhere: ModuleNotFoundError: No module named'):
        _check(tmp_path, DYNAMIC, imports=('toy_nowhere',))
    with pytest.raises(errors.ConfigError, match="run.gin:2: import atlas_jax.nowhere: No module named 'atlas_jax.nowhere'"):
        _check(tmp_path, f'{DYNAMIC}import atlas_jax.nowhere\n')


def test_suggestions():
    assert names.did_you_mean('stpes', ['steps', 'rate']) == '; did you mean "steps"?' and names.did_you_mean('x', []) == ''
