"""The checker by itself: names it has seen, and the one line that gives an old name's new one."""

import importlib.util
import sys
import types

import pytest

from atlas_jax import errors
from atlas_jax.gin_files import check, page, values

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
    monkeypatch.setattr(check, 'RENAMED_MODULES', {'toy_step_config': 'toy_steps_spec', 'toy_build': 'toy_api', 'toy_old': 'toy_new'})
    monkeypatch.setattr(check, 'RENAMED_PARAMETERS', {('toy_train.train', 'train_file'): 'train.TrainData.train_file',
                                                      ('toy_api.build_index', 'model_dir'): 'model.ModelSource.model_dir'})


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


@pytest.mark.parametrize(('text', 'bindings', 'message'), [
    ('import toy_step_config\n', (), 'run.gin:2: toy_step_config is toy_steps_spec now'),
    ('import toy_old.deep\n', (), 'run.gin:2: toy_old.deep is toy_new.deep now'),
    ('import toy_steps_spec\nA = @toy_steps_spec.StepConfig()\n', ('toy_step_config.StepConfig.steps=2',),
     '--gin.toy_step_config.StepConfig.steps=2: toy_step_config.StepConfig is toy_steps_spec.StepConfig now'),
    ('import toy_train\ntoy_train.train.train_file = "x"\n', (),
     'run.gin:3: toy_train.train.train_file is train.TrainData.train_file now; bind it there (from atlas_jax import train)'),
    ('import toy_train\ntoy_train.train.steps = 2\n', ('train.train_file="x"',), 'train.train_file is train.TrainData.train_file now'),
    ('import toy_api\ntoy_api.build_index:\n  model_dir = "x"\n', (), 'toy_api.build_index.model_dir is model.ModelSource.model_dir now'),
])
def test_an_old_name_is_refused_with_the_new_one(modules, tmp_path, text, bindings, message):
    with pytest.raises(errors.ConfigError) as raised:
        _check(tmp_path, DYNAMIC + text, *bindings)
    assert message in str(raised.value) and '\n' not in str(raised.value)


def test_other_mistakes_keep_their_suggestions(modules, tmp_path):
    with pytest.raises(errors.ConfigError, match='has no parameter "stepz"; did you mean "steps"'):
        _check(tmp_path, f'{DYNAMIC}import toy_train\ntoy_train.train.stepz = 2\n')
    with pytest.raises(errors.ConfigError, match=r'--gin_import toy_nowhere: ModuleNotFoundError: No module named'):
        _check(tmp_path, DYNAMIC, imports=('toy_nowhere',))
    with pytest.raises(errors.ConfigError, match="run.gin:2: import atlas_jax.nowhere: No module named 'atlas_jax.nowhere'"):
        _check(tmp_path, f'{DYNAMIC}import atlas_jax.nowhere\n')


def test_new_names_of_modules_and_selectors():
    for old in ('atlas_jax.training.spec', 'atlas_jax.training.step_config'):
        assert check.new_module_name(old) == 'atlas_jax.steps.spec'
    assert check.new_module_name('atlas_jax.train') is None
    assert check.new_module_name('atlas_jax.baseline.variants') == 'atlas_jax.compare.pytorch.variants'
    assert check.new_selector('step_config.StepConfig') == check.new_selector('training.step_config.StepConfig') == 'spec.StepConfig'
    assert check.new_selector('build_index.build_index') == 'api.build_index'
    assert check.new_selector('spec.DistillConfig') is check.new_selector('StepConfig') is check.new_selector('optimizer.X') is None


def test_old_modules_are_gone_and_new_ones_are_there():
    for old, new in check.RENAMED_MODULES.items():
        assert importlib.util.find_spec(new) is not None, new
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(old)


def test_parameters_stand_where_the_table_says():
    found = page.configurables()
    for (owner, name), new_name in check.RENAMED_PARAMETERS.items():
        assert name not in values.parameter_names(found[owner]), (owner, name)
        assert name in values.parameter_names(found[f'atlas_jax.{new_name.rpartition(".")[0]}']), new_name


def test_every_parameter_that_moved_has_one_new_name():
    moved = check.RENAMED_PARAMETERS
    assert moved['atlas_jax.train.train', 'n_context'] == 'train.TrainData.n_context'
    assert moved['atlas_jax.evaluate.evaluate', 'index_dir'] == 'evaluate.EvalData.index_dir'
    assert moved['atlas_jax.api.build_index', 'reader_dir'] == 'model.ModelSource.reader_dir'
    assert moved['atlas_jax.train.train', 'profile_dir'] == 'train.RunConfig.profile_dir' and len(moved) == 6 + 1 + 5 + 5 + 5 + 5


def test_suggestions():
    assert check.did_you_mean('stpes', ['steps', 'rate']) == '; did you mean "steps"?' and check.did_you_mean('x', []) == ''
