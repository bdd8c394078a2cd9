"""The loop of a run: it reads the devices once in an interval and one step late; rows, divergence and stops stay exact."""

import json
import math

import jax
import pytest
from jax._src import array

from atlas_jax import errors, train
from atlas_jax.io import appending
from atlas_jax.io.folder import Folder
from atlas_jax.report import run_log
from atlas_jax.runtime import hosts
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import train_step, waiting
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny_run

# The program of train_test.py, which the cache then has.
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='linear', warmup_steps=2, total_steps=6)
DISTILL = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=3, retriever_training='query_side')
EXACT = ('reader_loss', 'retriever_loss', 'gradient_norm', 'learning_rate', 'reader_tokens')


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    atlas = tiny_run.atlas()
    return train.Loaded(atlas, tiny_run.examples(atlas), tiny_run.index(atlas, tmp_path_factory.mktemp('knowledge')))


@pytest.fixture(scope='module')
def whole(loaded, tmp_path_factory):
    """Folder and result of a run with no options, which others are compared with."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, _train(folder, loaded)


def _train(folder, loaded, **options):
    run = train.RunConfig(**{'run_dir': str(folder), 'batch_size': 4, 'seed': 3, 'checkpoint_every_steps': 100} | options)
    return train.train_examples(run, loaded, OPTIMIZER, DISTILL)


def _rows(folder):
    return [json.loads(line) for line in (folder / run_log.METRICS_FILE).read_text().splitlines()]


@pytest.fixture
def events(monkeypatch):
    """Lists what the loop does, in order: ('step', number) and ('read', arrays' steps). A read by any other way fails the test."""
    seen, inside = [], []
    fetch, make, value, wait = hosts.fetch, train_step.make_train_step, array.ArrayImpl._value, array.ArrayImpl.block_until_ready

    def fetching(tree):
        if isinstance(tree, list):
            seen.append(('read', len(tree)))
        inside.append(True)
        try:
            return fetch(tree)
        finally:
            inside.pop()

    def making(*arguments):
        step = make(*arguments)

        def run(*inputs):
            seen.append('step')
            return step(*inputs)
        return run

    def reading(self):
        if seen and not inside:
            seen.append('a read that went round the door')
        return value.fget(self)

    def waiting(self):
        seen.append('a wait that went round the door')
        return wait(self)

    monkeypatch.setattr(hosts, 'fetch', fetching)
    monkeypatch.setattr(train_step, 'make_train_step', making)
    monkeypatch.setattr(array.ArrayImpl, '_value', property(reading))
    monkeypatch.setattr(array.ArrayImpl, 'block_until_ready', waiting)
    return seen


def test_every_step_is_read_while_the_next_one_runs(loaded, tmp_path, events, monkeypatch):
    monkeypatch.setattr(train._Loop, '_save', lambda *_: None)  # writes the whole state, and so reads it
    _train(tmp_path, loaded)
    assert events == ['step', 'step', *[('read', 1), 'step'] * 4, ('read', 2)]


def test_the_host_waits_once_in_an_interval(loaded, tmp_path, events, monkeypatch):
    monkeypatch.setattr(train._Loop, '_save', lambda *_: None)
    _train(tmp_path, loaded, log_every_steps=4)
    assert events == [*['step'] * 5, ('read', 4), 'step', ('read', 2)]


def test_the_door_is_watched(events):
    assert float(jax.numpy.ones(()) + 1) == 2 and events == []  # before the first step
    events.append('step')
    assert float(jax.numpy.ones(()) + 1) == 2
    hosts.fetch(jax.numpy.ones(()) + 1)
    assert events == ['step', 'a read that went round the door']


def test_all_is_read_before_a_checkpoint(loaded, tmp_path, events, monkeypatch):
    monkeypatch.setattr(train._Loop, '_save', lambda self, done, score: events.append(('save', done)))
    _train(tmp_path, loaded, log_every_steps=3, checkpoint_every_steps=5)
    assert events == [*['step'] * 4, ('read', 3), 'step', ('read', 2), ('save', 5), 'step', ('read', 1), ('save', 6)]


def test_rows_do_not_depend_on_when_they_are_read_nor_on_who_makes_the_batches(loaded, whole, tmp_path):
    variants = {'plain': {'prefetch_batches': 0}, 'interval': {'log_every_steps': 3}, 'one': {'prefetch_batches': 1}}
    found = {name: (tmp_path / name, _train(tmp_path / name, loaded, **options)) for name, options in variants.items()} | {'ahead': whole}
    exact = {name: [tuple(row[key] for key in EXACT) for row in result.history] for name, (_, result) in found.items()}
    assert all(rows == exact['plain'] and len(rows) == 6 for rows in exact.values())
    for folder, result in found.values():
        rows = _rows(folder)
        assert rows == list(result.history) and [row['step'] for row in rows] == list(range(1, 7))
        assert all(row['seconds'] > 0 and row['tflops_per_second'] >= 0 and row['reader_tokens_per_second'] > 0 for row in rows)
    # A mean of the interval.
    assert len({row['seconds'] for row in found['interval'][1].history[:3]}) == 1


def test_seconds_are_those_of_the_steps_and_not_of_the_pauses(loaded, tmp_path, monkeypatch):
    clock, real = [0.0], hosts.fetch
    monkeypatch.setattr(waiting.time, 'perf_counter', lambda: clock[0])

    def fetching(tree):
        if isinstance(tree, list):
            clock[0] += 2.0 * len(tree)  # each step takes two seconds
        return real(tree)

    def save(self, done, score):
        clock[0] += 100

    monkeypatch.setattr(hosts, 'fetch', fetching)
    monkeypatch.setattr(train._Loop, '_save', save)
    for interval in (1, 3):
        result = _train(tmp_path / str(interval), loaded, checkpoint_every_steps=2, log_every_steps=interval)
        assert [row['seconds'] for row in result.history] == [2.0] * 6


def _with_nan_at(monkeypatch, step):
    """Makes the loss of a step NaN."""
    real = train_step.make_train_step

    def making(*arguments):
        run, calls = real(*arguments), []

        def broken(*inputs):
            calls.append(1)
            state, metrics = run(*inputs)
            return state, metrics | ({'loss': metrics['loss'] * math.nan} if len(calls) == step else {})
        return broken

    monkeypatch.setattr(train_step, 'make_train_step', making)


@pytest.mark.parametrize('interval', [1, 5])
def test_a_step_that_diverges_within_an_interval_is_named_and_its_checkpoint_goes(loaded, tmp_path, monkeypatch, interval):
    _with_nan_at(monkeypatch, 3)
    with pytest.raises(errors.DivergedError, match=r'step 3: the loss is nan .*; the checkpoint of step 2 gave this and was removed'):
        _train(tmp_path, loaded, log_every_steps=interval, checkpoint_every_steps=2)
    assert [row['step'] for row in _rows(tmp_path)] == [1, 2]  # up to the last good one
    assert list((tmp_path / 'checkpoints').iterdir()) == []


def test_a_checkpoint_stays_where_the_next_step_is_finite(loaded, tmp_path, monkeypatch):
    _with_nan_at(monkeypatch, 4)
    with pytest.raises(errors.DivergedError, match=r'step 4: the loss is nan .*; the same command goes on from the checkpoint of step 2'):
        _train(tmp_path, loaded, log_every_steps=5, checkpoint_every_steps=2)
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['2']


@pytest.mark.parametrize('interval', [1, 4])
def test_a_run_that_is_stopped_in_an_interval_goes_on_bit_by_bit(loaded, whole, tmp_path, monkeypatch, interval):
    with monkeypatch.context() as patch:
        tiny_run.stop_at(patch, 3)
        with pytest.raises(errors.PreemptedError, match='saved at step 3'):
            _train(tmp_path / 'run', loaded, log_every_steps=interval)
    assert [row['step'] for row in _rows(tmp_path / 'run')] == [1, 2, 3]  # on the disk before the checkpoint is
    again = _train(tmp_path / 'run', loaded, log_every_steps=interval, prefetch_batches=1)
    assert [[row[key] for key in EXACT] for row in again.history] == [[row[key] for key in EXACT] for row in whole[1].history]


def test_a_disk_that_is_full_ends_the_run_with_one_line(loaded, tmp_path, monkeypatch):
    real = appending.Appender._write

    def write(self, folder, name, data):
        real(self, *((Folder('/dev'), 'full') if b'"step": 2' in data else (folder, name)), data)

    monkeypatch.setattr(appending.Appender, '_write', write)
    with pytest.raises(errors.DiskFullError, match='the disk is full; free some space') as ended:
        _train(tmp_path, loaded)
    assert '\n' not in str(ended.value) and [row['step'] for row in _rows(tmp_path)] == [1]


@pytest.mark.parametrize('option', ['log_every_steps', 'prefetch_batches'])
def test_numbers_that_are_too_small_are_refused(option):
    with pytest.raises(errors.ConfigError, match=f'RunConfig.{option} is -1; it must be at least'):
        train.RunConfig('run', **{option: -1})
