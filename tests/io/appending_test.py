"""Appending in the background keeps the order, is visible to others, and never loses disk errors."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from atlas_jax import errors
from atlas_jax.io import appending
from atlas_jax.io.folder import Folder
from tests.testing import bucket

RUN = """
import pathlib, sys, time
from atlas_jax.io import appending
with appending.Appender(sync_seconds=600) as files:
    for number in range(3):
        files.append(pathlib.Path(sys.argv[1]), 'a', b'%d\\n' % number)
    print('asked', flush=True)
    time.sleep(600)
"""


def test_everything_is_written_in_order_by_another_thread(tmp_path, monkeypatch):
    opened, real = [], open
    monkeypatch.setattr('builtins.open', lambda *given, **options: opened.append(threading.current_thread()) or real(*given, **options))
    (tmp_path / 'a').write_bytes(b'before\n')
    with appending.Appender() as files:
        for number in range(100):
            files.append(tmp_path, ('a' if number % 3 else 'b'), f'{number}\n'.encode())
    assert (tmp_path / 'a').read_text().splitlines() == ['before', *(str(number) for number in range(100) if number % 3)]
    assert (tmp_path / 'b').read_text().splitlines() == [str(number) for number in range(0, 100, 3)]
    # Each file once, and not by the caller.
    assert len(opened) == 2 and threading.main_thread() not in opened


def test_flush_waits_for_the_disk_and_the_interval_syncs_by_itself(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda descriptor: synced.append(real(descriptor)))
    with appending.Appender(sync_seconds=600) as files:
        files.append(tmp_path, 'a', b'1')
        files.flush()
        assert (tmp_path / 'a').read_bytes() == b'1' and len(synced) == 1
    with appending.Appender(sync_seconds=0.05) as files:
        files.append(tmp_path, 'a', b'2')
        deadline = time.monotonic() + 30
        while len(synced) < 3 and time.monotonic() < deadline:  # the second is that of the first block's end
            time.sleep(0.01)
        assert len(synced) == 3


def test_a_slow_disk_holds_nobody_up(tmp_path, monkeypatch):
    go_on, real = threading.Event(), os.fsync
    monkeypatch.setattr(os, 'fsync', lambda descriptor: go_on.wait(30) and real(descriptor))
    with appending.Appender(sync_seconds=0) as files:
        for _ in range(3):
            files.append(tmp_path, 'a', b'1')  # a sync in this thread would wait for the disk
        go_on.set()
    assert (tmp_path / 'a').read_bytes() == b'111'


def test_an_error_of_the_disk_is_raised_by_every_later_call():
    with pytest.raises(errors.DiskFullError, match='/dev/full: the disk is full; free') as ended, appending.Appender() as files:
        files.append('/dev', 'full', b'1')
        for _ in range(2):
            with pytest.raises(errors.DiskFullError):
                files.flush()
        files.append('/dev', 'full', b'2')
    assert '\n' not in str(ended.value)


def test_an_error_at_the_very_end_is_raised_too():
    with pytest.raises(errors.DiskFullError), appending.Appender() as files:
        files.append('/dev', 'full', b'1')


def test_an_error_of_the_disk_is_told_beside_the_one_that_ended_the_block(capsys):
    with pytest.raises(errors.DivergedError), appending.Appender() as files:
        files.append('/dev', 'full', b'1')
        raise errors.DivergedError('loss')
    assert capsys.readouterr().err == 'atlas-jax: /dev/full: the disk is full; free some space and run the same command again\n'


def test_nothing_is_written_behind_a_hole(tmp_path):
    with pytest.raises(errors.DiskFullError), appending.Appender() as files:
        files.append('/dev', 'full', b'1')
        files.append(tmp_path, 'a', b'2')
    assert not (tmp_path / 'a').exists()


def test_a_bucket_gets_the_whole_file_when_it_is_synced(monkeypatch):
    with bucket.serving(monkeypatch) as server:
        Folder('gs://some-bucket/run').write('a', b'before\n')
        with appending.Appender(sync_seconds=600) as files:
            for number in range(3):
                files.append('gs://some-bucket/run', 'a', f'{number}\n'.encode())
            files.append(Folder('gs://some-bucket/run'), 'deep/b', b'b')
            assert set(server.objects) == {('some-bucket', 'run/a')}
            files.flush()
            assert server.objects['some-bucket', 'run/a'][1] == b'before\n0\n1\n2\n'
            assert server.objects['some-bucket', 'run/deep/b'][1] == b'b'
            before = server.generation
            files.append('gs://some-bucket/run', 'a', b'3\n')
        assert server.objects['some-bucket', 'run/a'][1].endswith(b'2\n3\n') and server.generation == before + 1
        with pytest.raises(errors.StorageError, match='PERMISSION_DENIED'), appending.Appender() as files:
            files.append(f'gs://{bucket.READ_ONLY}/run', 'a', b'1')
            files.flush()


def test_what_a_killed_process_has_appended_is_there(tmp_path):
    with subprocess.Popen([sys.executable, '-c', RUN, tmp_path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        deadline = time.monotonic() + 30
        while not ((tmp_path / 'a').exists() and (tmp_path / 'a').stat().st_size == 6) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / 'a').read_text() == '0\n1\n2\n'
