"""The cache of compiled programs: a restarted run compiles nothing; a place that cannot be written gives one line."""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import stat
import subprocess
import sys

import jax
import pytest

from atlas_jax import errors, train
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.runtime import compilation_cache
from tests.testing import tiny_run

PROGRAM = pathlib.Path(__file__).with_name('compilation_cache_program.py')
PATHS = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')])
NAMES = ('jax_compilation_cache_dir', 'jax_compilation_cache_max_size', 'jax_persistent_cache_min_compile_time_secs',
         'jax_enable_compilation_cache')


@pytest.fixture
def unset(monkeypatch):
    """JAX without a cache, as users have it; the tests' cache is restored afterwards."""
    before = {name: jax.config.values[name] for name in NAMES}
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update('jax_compilation_cache_dir', None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.compilation_cache.reset_cache()


def test_the_default_is_bounded_and_used(unset, tmp_path):
    compilation_cache.use('auto', tmp_path / 'cache' / 'compiled')
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'cache' / 'compiled')
    assert jax.config.jax_compilation_cache_max_size == compilation_cache.MAX_BYTES
    # Quick to compile, and kept anyway.
    jax.jit(lambda x: x * 3 + 7)(5.0).block_until_ready()
    assert [path.suffix for path in (tmp_path / 'cache' / 'compiled').glob('jit__lambda*-cache')]
    assert stat.S_IMODE((tmp_path / 'cache' / 'compiled').stat().st_mode) == 0o700
    compilation_cache.use(None, tmp_path / 'cache' / 'compiled')  # places that a run may name
    assert jax.config.jax_compilation_cache_dir is None


def _seven_times(value):
    """Calls a new function, which JAX must find or compile; returns its result and the names of the events."""
    events = collections.Counter()
    jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rpartition('/')[2]]))
    return float(jax.jit(lambda x: x * 7 + 11)(value)), dict(events)


@pytest.mark.parametrize('damage', [lambda entry: entry[:-9], lambda entry: entry[:50] + b'x' + entry[51:], lambda entry: b'',
                                    lambda entry: entry[32:]])  # truncated, changed, empty, and written by another program
def test_a_damaged_program_is_compiled_again(unset, tmp_path, damage, recwarn):
    compilation_cache.use('auto', tmp_path / 'compiled')
    assert _seven_times(2.0)[1].get('cache_misses') == 1
    [program] = (tmp_path / 'compiled').glob('jit__lambda*-cache')
    whole = program.read_bytes()
    program.write_bytes(damage(whole))
    answer, events = _seven_times(3.0)
    assert answer == 32 and events.get('cache_misses') == 1 and 'cache_hits' not in events
    assert program.read_bytes()[:32] == hashlib.sha256(program.read_bytes()[32:]).digest()
    assert _seven_times(4.0)[1].get('cache_hits') == 1
    assert not list(recwarn)


def test_programs_that_others_may_have_written_are_not_run(unset, tmp_path, capsys, monkeypatch):
    (tmp_path / 'compiled').mkdir()
    (tmp_path / 'compiled').chmod(0o777)
    compilation_cache.use('auto', tmp_path / 'compiled')
    assert 'compiled: can be written by others (remove it' in capsys.readouterr().err
    (tmp_path / 'compiled').chmod(0o755)
    monkeypatch.setattr(os, 'getuid', lambda: (tmp_path / 'compiled').stat().st_uid + 1)
    compilation_cache.use('auto', tmp_path / 'compiled')
    assert capsys.readouterr().err.endswith('belongs to another user (set ATLAS_JAX_CACHE to a folder of your own), so compiled programs '
                                            'are not kept\n')
    assert jax.config.jax_compilation_cache_dir is None


def test_the_least_used_programs_go(unset, tmp_path, monkeypatch):
    compilation_cache.use('auto', tmp_path / 'compiled')
    _seven_times(2.0)
    [first] = (tmp_path / 'compiled').glob('*-cache')
    jax.config.update('jax_compilation_cache_max_size', first.stat().st_size + 100)
    compilation_cache.compilation_cache.reset_cache()
    jax.jit(lambda x: x * 17 - 3)(5.0).block_until_ready()
    [second] = (tmp_path / 'compiled').glob('*-cache')
    assert second != first


@pytest.mark.parametrize('off', [True, False])
def test_a_flag_switches_it_off(unset, tmp_path, monkeypatch, off):
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path))
    cli_options.keep_programs(argparse.Namespace(no_compilation_cache=off))
    jax.jit(lambda x: x * 19 - 3)(5.0).block_until_ready()
    assert bool(list(tmp_path.glob('compiled/*-cache'))) is not off


def test_what_the_user_has_set_stays_unless_a_folder_is_named(unset, tmp_path):
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'own'))
    for place in ('auto', None):
        compilation_cache.use(place, tmp_path / 'default')
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'own')
    compilation_cache.use(str(tmp_path / 'named'), tmp_path / 'default')
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'named') and not (tmp_path / 'default').exists()
    assert list((tmp_path / 'named').iterdir()) == []  # the probe file was removed


def test_programs_that_were_kept_without_a_bound_are_no_obstacle(unset, tmp_path):
    jax.config.update('jax_compilation_cache_dir', str(tmp_path))
    jax.config.update('jax_compilation_cache_max_size', -1)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    compilation_cache.compilation_cache.reset_cache()
    jax.jit(lambda x: x * 5 + 3)(5.0).block_until_ready()
    before = set(tmp_path.glob('*-cache'))
    jax.config.update('jax_compilation_cache_dir', None)
    compilation_cache.use(str(tmp_path), tmp_path)
    jax.jit(lambda x: x * 11 - 4)(5.0).block_until_ready()
    assert before and set(tmp_path.glob('*-cache')) > before


def test_other_settings_of_the_user_stay(unset, tmp_path, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_MAX_SIZE', '12345')
    jax.config.update('jax_compilation_cache_max_size', 12345)
    compilation_cache.use(str(tmp_path), tmp_path)
    assert jax.config.jax_compilation_cache_max_size == 12345


def test_none_keeps_nothing(unset, tmp_path):
    compilation_cache.use(None, tmp_path / 'default')
    assert jax.config.jax_compilation_cache_dir is None and not (tmp_path / 'default').exists()


def test_a_place_that_cannot_be_written(unset, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    with pytest.raises(errors.ConfigError, match=r'compilation_cache_dir is ".*file/below", which cannot be written \(.*\); give another'):
        compilation_cache.use(str(tmp_path / 'file' / 'below'), tmp_path)
    # The user did not choose the default, so a run continues without it.
    compilation_cache.use('auto', tmp_path / 'file' / 'below')
    assert capsys.readouterr().err.count('\n') == 1 and jax.config.jax_compilation_cache_dir is None


def test_a_bucket_needs_its_package(tmp_path):
    # A new process: fsspec and etils remember imports of other tests.
    program = ('import pathlib, sys; sys.modules["gcsfs"] = None; from atlas_jax.runtime import compilation_cache; '
               'compilation_cache.use("gs://bucket/compiled", pathlib.Path(sys.argv[1]))')
    found = subprocess.run([sys.executable, '-c', program, str(tmp_path)], env={**os.environ, 'PYTHONPATH': PATHS}, capture_output=True,
                           text=True, check=False)
    assert re.search(r'"gs://bucket/compiled", which cannot be written .*pip install \'atlas-jax\[gcs\]', found.stderr), found.stderr


@pytest.mark.parametrize('place', ['', 's3://bucket/compiled'])
def test_other_places_are_refused_before_anything_is_loaded(place):
    with pytest.raises(errors.ConfigError, match='give a folder, gs://bucket/folder or None'):
        train.RunConfig('run', compilation_cache_dir=place)


def _train(folder, run, cache):
    """Counts of the cache's events in a new process that trains a closed-book reader as a user does."""
    arguments = ['train', '--gin_file', 'runs/few_shot.gin', f"--gin.RUN_DIR='{run}'", f"--gin.TRAIN_FILE='{folder / 'train.jsonl'}'",
                 '--gin.INDEX_DIR=None', '--gin.N_CONTEXT=0', '--gin.READER_DIR=None', '--gin.RETRIEVER_DIR=None', '--gin.INPUTS=None',
                 '--gin.TASK=None', f"--gin.MODEL_DIR='{folder / 'model'}'", '--gin.TOTAL_STEPS=1', '--gin.train.RunConfig.batch_size=2',
                 f"--gin.train.RunConfig.compilation_cache_dir='{cache}'"]
    return _run(arguments)


def _run(arguments, **environment):
    """Counts of the cache's events in a new process that runs a command."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in NAMES} | environment
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False,
                          env=environment | {'PYTHONPATH': PATHS, 'JAX_PLATFORMS': 'cpu'})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split('COUNTS')[1])


def test_another_question_finds_the_program_of_the_first(tmp_path):
    tiny_run.atlas(dropout_rate=0.0).save(tmp_path / 'model')
    first, other = (_run(['answer', question, '--model', str(tmp_path / 'model')], ATLAS_JAX_CACHE=str(tmp_path))
                    for question in ('what is thing 1 ?', 'which of all the things is the green one ?'))
    assert first['cache_misses'] > 0 and list(tmp_path.glob('compiled/jit_answer_step-*-cache'))
    assert other['cache_misses'] == 0 and other['cache_hits'] == other['compile_requests_use_cache'] > 0


def test_a_run_that_starts_again_compiles_nothing(tmp_path):
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(tmp_path / 'model')
    (tmp_path / 'train.jsonl').write_text('\n'.join(json.dumps(row) for row in tiny_run.rows(5)))
    first = _train(tmp_path, tmp_path / 'first', tmp_path / 'cache')
    again = _train(tmp_path, tmp_path / 'again', tmp_path / 'cache')
    assert first['cache_misses'] > 0
    assert again['cache_misses'] == 0 and again['cache_hits'] == again['compile_requests_use_cache'] > 0
    rows = [json.loads((tmp_path / run / 'metrics.jsonl').read_text()) for run in ('first', 'again')]
    assert rows[0]['reader_loss'] == rows[1]['reader_loss'] and rows[0]['gradient_norm'] == rows[1]['gradient_norm']
