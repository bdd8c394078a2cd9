"""The record of a run: its content, differences, allowed changes, and damaged records."""

import dataclasses
import json

import pytest

from atlas_jax import errors
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps.spec import DistillConfig, StepConfig
from atlas_jax.tasks.task import TaskExample
from atlas_jax.training import run_record
from atlas_jax.training.contrastive import ContrastiveConfig
from atlas_jax.training.optimizer import OptimizerConfig
from atlas_jax.training.refresh import RefreshConfig

EXAMPLES = [TaskExample('who?', 'she', ['she'], 0, row={'question': 'who?'}), TaskExample('when?', 'then', ['then'], 1)]
DESCRIPTION = {'reader': {'emb_dim': 7, 'dropout_rate': 0.1}, 'inputs': {'text_max_tokens': 40}, 'n_context': 2, 'task': {'name': 'qa'}}


def settings(examples=EXAMPLES, description=DESCRIPTION, seed=3, **options):
    given = {'optimizer': OptimizerConfig(), 'distill': DistillConfig(), 'step': StepConfig(), 'search': SearchConfig(),
             'refresh': RefreshConfig()} | options
    return run_record.settings(description, run_record.digest(examples), given.values(), seed=seed,
                               **run_record.index_settings(None, False))


def begun(folder, **given):
    """The folder of a run with these settings."""
    run_record.write(folder, settings(**given), 0, [])
    return folder


@pytest.mark.parametrize(('name', 'given'), [
    ('seed', {'seed': 5}), ('train_file', {'examples': EXAMPLES[:1]}), ('train_file', {'examples': EXAMPLES[::-1]}),
    ('train_file', {'examples': [dataclasses.replace(EXAMPLES[0], row={'question': 'she?'}), EXAMPLES[1]]}),
    ('n_context', {'description': DESCRIPTION | {'n_context': 3}}),
    ('task.name', {'description': DESCRIPTION | {'task': {'name': 'fever'}}}),
    ('inputs.text_max_tokens', {'description': DESCRIPTION | {'inputs': {'text_max_tokens': 41}}}),
    ('OptimizerConfig.learning_rate', {'optimizer': OptimizerConfig(learning_rate=0.5)}),
    ('OptimizerConfig.total_steps', {'optimizer': OptimizerConfig(total_steps=2000)}),
    ('DistillConfig.gold_score_mode', {'distill': DistillConfig('loop')}), ('SearchConfig.searcher', {'search': SearchConfig('int8')}),
    ('StepConfig.accumulation_steps', {'step': StepConfig(accumulation_steps=2)})])
def test_each_difference_is_named_with_both_values_and_may_be_accepted(tmp_path, capsys, name, given):
    begun(tmp_path)
    before, now = settings()[name], settings(**given)[name]
    with pytest.raises(errors.ConfigError, match=f'{name} was .*, now .*--accept_changes') as raised:
        run_record.check(tmp_path, settings(**given), 6, accept=False)
    assert str(before) in str(raised.value) and str(now) in str(raised.value) and '\n' not in str(raised.value)
    accepted = run_record.check(tmp_path, settings(**given), 6, accept=True)
    assert accepted == [run_record.Change(name, before, now)] and 'from step 6 on' in capsys.readouterr().out
    run_record.write(tmp_path, settings(**given), 6, accepted)
    assert run_record.check(tmp_path, settings(**given), 6, accept=False) == []
    assert json.loads((tmp_path / 'record.json').read_text())['changes'] == [{'step': 6, 'name': name, 'before': before, 'now': now}]


@pytest.mark.parametrize('given', [
    {'optimizer': OptimizerConfig(optimizer='adafactor')}, {'distill': DistillConfig(retriever_training='untied')},
    {'step': StepConfig(param_dtype='bfloat16')}, {'refresh': RefreshConfig(rolling_fraction=0.5)},
    {'description': DESCRIPTION | {'reader': {'emb_dim': 11}}}])
def test_what_a_checkpoint_cannot_take_is_never_accepted(tmp_path, given):
    begun(tmp_path)
    for accept in (False, True):
        with pytest.raises(errors.ConfigError, match=r' was .*, now .*: a run cannot go on with this'):
            run_record.check(tmp_path, settings(**given), 6, accept)


@pytest.mark.parametrize('given', [
    {}, {'step': StepConfig(remat='full')}, {'step': StepConfig(attention='plain')}, {'description': DESCRIPTION | {'new': 3}}])
def test_what_decides_nothing_may_change(tmp_path, given):
    assert run_record.check(begun(tmp_path), settings(**given), 6, accept=False) == []


def test_more_steps_of_a_fixed_rate():
    fixed = OptimizerConfig(schedule='fixed')
    longer = dataclasses.replace(fixed, total_steps=2000)
    assert settings(optimizer=fixed) == settings(optimizer=longer)


def test_the_schedules_length_counts_whichever_option_says_it(tmp_path):
    """A run may be longer than its schedule, and end before it: neither changes a step that was done."""
    begun(tmp_path, optimizer=OptimizerConfig(total_steps=30))
    longer = OptimizerConfig(total_steps=90, scheduler_steps=30)
    assert run_record.check(tmp_path, settings(optimizer=longer), 6, accept=False) == []
    assert settings(optimizer=longer) == settings(optimizer=dataclasses.replace(longer, total_steps=50))
    with pytest.raises(errors.ConfigError, match='OptimizerConfig.total_steps was 30, now 90'):
        run_record.check(tmp_path, settings(optimizer=OptimizerConfig(total_steps=30, scheduler_steps=90)), 6, accept=False)
    assert settings(optimizer=OptimizerConfig(schedule='fixed', scheduler_steps=9)) == settings(optimizer=OptimizerConfig(schedule='fixed'))


def test_files_that_were_moved_hold_the_same_examples():
    moved = [dataclasses.replace(example, file='elsewhere.jsonl') for example in EXAMPLES]
    assert settings(examples=moved) == settings()


def test_dropout_may_change_with_a_word(tmp_path):
    now = settings(description=DESCRIPTION | {'reader': {'emb_dim': 7, 'dropout_rate': 0.0}})
    assert [change.name for change in run_record.check(begun(tmp_path), now, 6, accept=True)] == ['reader.dropout_rate']


def test_nothing_is_compared_before_the_first_checkpoint(tmp_path):
    assert run_record.check(begun(tmp_path), settings(seed=5), 0, accept=False) == []


def test_a_run_without_a_record_goes_on_with_one_line(tmp_path, capsys):
    assert run_record.check(tmp_path, settings(), 6, accept=False) == []
    assert capsys.readouterr().out.count('\n') == 1
    run_record.write(tmp_path, settings(), 6, [])
    with pytest.raises(errors.ConfigError, match='seed was 3, now 5'):
        run_record.check(tmp_path, settings(seed=5), 6, accept=False)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"settings": {}}', '{"settings": [], "changes": []}', '[' * 5000, '\0', '3'])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / run_record.RECORD_FILE).write_text(text)
    with pytest.raises(errors.ModelFolderError, match=r'record\.json: not a record of a run .*; restore it') as raised:
        run_record.check(tmp_path, settings(), 6, accept=True)
    assert '\n' not in str(raised.value)


def test_names_of_nested_values():
    assert run_record.flat({'a': {'b': {'c': 1}, 'd': [2]}, 'e': None}) == {'a.b.c': 1, 'a.d': [2], 'e': None}


@pytest.mark.parametrize(('schedule', 'counts'), [('constant', False), ('cosine', True)])
def test_with_a_fixed_rate_the_length_of_a_run_counts_where_the_momentum_rises_with_it(schedule, counts):
    of = [settings(optimizer=OptimizerConfig(schedule='fixed', total_steps=steps),
                   contrastive=ContrastiveConfig(momentum_schedule=schedule)) for steps in (2000, 4000)]
    assert [change.name for change in run_record.changes(*of)] == ['OptimizerConfig.total_steps'] * counts
