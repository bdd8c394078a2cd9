"""A run is done step by step, resumes after a stop, and is refused with other settings."""

import json
import os
import pathlib
import types

import pytest

from atlas_jax import errors
from atlas_jax.apps.reproduce import running
from atlas_jax.apps.reproduce.run_steps import ReproductionSettings, RunStep


class Steps:
    """A plan of three steps, each of which writes a file; `fail` names the step that is killed."""

    def __init__(self, out: pathlib.Path, model: str, **changes):
        self.settings = ReproductionSettings('nq_full', (), out, {'MODEL_DIR': model, 'READER_DIR': None}, {'': 'gs://bucket/index'},
                                             **changes)
        self.found, self.ran, self.fail = {}, [], None
        self.recipe = types.SimpleNamespace()

    @property
    def steps(self):
        return [RunStep(name, ('command', name), (self.settings.out / name,)) for name in ('data', 'train', 'evaluate')]

    def command(self, arguments):
        name = arguments[1]
        self.ran.append(name)
        if name == self.fail:
            raise errors.PreemptedError('stopped')
        (self.settings.out / name).write_text(f'{name} {len(self.ran)}', encoding='utf-8')

    def run(self) -> list[str]:
        """The steps that were run now."""
        self.ran.clear()
        running.Runner(self, self.command).run(lambda line: None)
        return list(self.ran)


@pytest.fixture
def steps(tmp_path):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'model.json').write_text('{}', encoding='utf-8')
    return Steps(tmp_path / 'out', str(tmp_path / 'model'))


def test_every_step_once(steps):
    assert steps.run() == ['data', 'train', 'evaluate'] and steps.run() == []
    assert [running.Runner(steps, steps.command).is_done(step) for step in steps.steps] == [True] * 3
    # A step with missing or edited files runs again, and so do all steps after it.
    (steps.settings.out / 'train').unlink()
    assert steps.run() == ['train', 'evaluate']
    (steps.settings.out / 'data').write_text('edited by hand', encoding='utf-8')
    assert steps.run() == ['data', 'train', 'evaluate']


def test_a_killed_step_is_run_again(steps):
    steps.fail = 'train'
    with pytest.raises(errors.PreemptedError):
        steps.run()
    assert steps.ran == ['data', 'train']
    steps.fail = None
    assert steps.run() == ['train', 'evaluate']


@pytest.mark.parametrize(('changes', 'said'), [
    ({'seed': 3}, 'seed was 0, now 3'), ({'size': 'xxl'}, 'size was null, now "xxl"'), ({'questions': 5}, 'questions was null, now 5'),
    ({'bindings': ('N_CONTEXT=2',)}, 'gin was [], now ["N_CONTEXT=2"]'), ({'split': 'dev'}, 'split was "test", now "dev"')])
def test_other_settings_are_refused(steps, changes, said):
    steps.run()
    other = Steps(steps.settings.out, steps.settings.model['MODEL_DIR'], **changes)
    with pytest.raises(errors.FolderExistsError) as raised:
        other.run()
    assert said in str(raised.value) and 'or another --out' in str(raised.value) and other.ran == []


def test_another_model_is_refused(steps):
    steps.run()
    file = pathlib.Path(steps.settings.model['MODEL_DIR']) / 'model.json'
    os.utime(file, (1, 1))
    with pytest.raises(errors.FolderExistsError, match="begun with other settings: model: 'model.json' is another file or has changed"):
        steps.run()


@pytest.mark.parametrize(('text', 'said'), [('{"settings"', 'damaged'), ('[]', 'damaged'), ('{"settings": {}, "done": []}', 'damaged')])
def test_a_damaged_record_is_told(steps, text, said):
    steps.run()
    (steps.settings.out / running.RECORD).write_text(text, encoding='utf-8')
    with pytest.raises(errors.FolderExistsError, match=said):
        steps.run()


def test_a_folder_of_others_is_left_alone(steps):
    steps.settings.out.mkdir()
    (steps.settings.out / 'thesis.tex').write_text('', encoding='utf-8')
    with pytest.raises(errors.FolderExistsError, match='holds "thesis.tex", which no reproduction made'):
        steps.run()
    assert sorted(os.listdir(steps.settings.out)) == ['thesis.tex']


def test_the_record_is_json(steps):
    steps.run()
    record = json.loads((steps.settings.out / running.RECORD).read_text(encoding='utf-8'))
    assert record['settings']['run'] == 'nq_full' and list(record['done']) == ['data', 'train', 'evaluate']
