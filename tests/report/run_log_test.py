"""Rows of metrics outlive a kill; event files hold what TensorBoard's own reader checks; the overview counts every parameter."""

import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.io.folder import Folder
from atlas_jax.report import run_log
from tests.testing import bucket


def test_rows_after_the_restored_step_are_dropped(tmp_path):
    with run_log.RunLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.append({'step': step, 'loss': step / 2})
    with open(tmp_path / run_log.METRICS_FILE, 'a', encoding='utf-8') as file:
        file.write('{"step": 4, "lo')
    with run_log.RunLog(tmp_path, 2) as again:
        again.append({'step': 3, 'loss': 7.0})
    rows = [json.loads(line) for line in (tmp_path / run_log.METRICS_FILE).read_text().splitlines()]
    assert rows == again.rows == [{'step': 1, 'loss': 0.5}, {'step': 2, 'loss': 1.0}, {'step': 3, 'loss': 7.0}]
    assert len(list((tmp_path / run_log.TENSORBOARD_FOLDER).iterdir())) >= 1


@pytest.mark.parametrize(('line', 'number'), [
    (b'{"step": 2, "loss": "\xff"}\n', 2), (b'{"step": 2,\n', 2), (b'[]\n', 2), (b'{"loss": 1}\n', 2), (b'{"step": "2"}\n', 2), (b'\n', 2),
    (b'[' * 5000 + b'\n', 2), (b'\0\n', 2)])
def test_a_damaged_line_is_named(tmp_path, line, number):
    with run_log.RunLog(tmp_path, 0) as log:
        log.append({'step': 1, 'loss': 0.5})
    path = tmp_path / run_log.METRICS_FILE
    path.write_bytes(path.read_bytes() + line + b'{"step": 3, "loss": 7}\n')
    before = path.read_bytes()
    with pytest.raises(errors.InputFileError, match=rf'metrics\.jsonl:{number}: damaged \(.*\); mend or delete the line') as raised:
        run_log.RunLog(tmp_path, 3)
    assert '\n' not in str(raised.value) and path.read_bytes() == before
    path.unlink()
    assert run_log.RunLog(tmp_path, 3).rows == []


def test_a_pipe_is_no_file_of_metrics(tmp_path):
    os.mkfifo(tmp_path / run_log.METRICS_FILE)
    with pytest.raises(errors.InputFileError, match='no regular file'):
        run_log.RunLog(tmp_path, 3)


def test_a_row_is_seen_while_the_run_goes_on_and_flushed_rows_are_whole(tmp_path):
    with run_log.RunLog(tmp_path, 0) as log:
        log.append({'step': 1, 'loss': 0.5})
        log.flush()
        assert json.loads((tmp_path / run_log.METRICS_FILE).read_text()) == {'step': 1, 'loss': 0.5}
        events, = (tmp_path / run_log.TENSORBOARD_FOLDER).iterdir()
        assert len(_records(events.read_bytes())) == 2
        log.append({'step': 2, 'loss': 0.25})
    assert (tmp_path / run_log.METRICS_FILE).read_text().count('\n') == 2 and len(_records(events.read_bytes())) == 3


def test_a_run_in_a_bucket_has_the_same_files(monkeypatch):
    folder = Folder('gs://some-bucket/run')
    with bucket.serving(monkeypatch):
        with run_log.RunLog(folder, 0) as log:
            for step in (1, 2, 3):
                log.append({'step': step, 'loss': step / 2})
            log.flush()  # as before a checkpoint
            assert [json.loads(line)['step'] for line in folder.read(run_log.METRICS_FILE).splitlines()] == [1, 2, 3]
        with run_log.RunLog(folder, 2) as again:
            again.append({'step': 3, 'loss': 7.0})
        assert [json.loads(line) for line in folder.read(run_log.METRICS_FILE).splitlines()] == again.rows and len(again.rows) == 3
        events, = (folder / run_log.TENSORBOARD_FOLDER).sizes()  # two logs in the same second and process share a file
        assert len(_records((folder / run_log.TENSORBOARD_FOLDER).read(events))) >= 2
        folder.write(run_log.METRICS_FILE, b'{"step": 1}\n[]\n')
        with pytest.raises(errors.InputFileError, match='^gs://some-bucket/run/metrics.jsonl:2: damaged'):
            run_log.RunLog(folder, 2)


def test_a_full_disk_is_one_line_at_the_next_row(tmp_path):
    log = run_log.RunLog(tmp_path, 0)
    (tmp_path / run_log.METRICS_FILE).unlink()
    (tmp_path / run_log.METRICS_FILE).symlink_to('/dev/full')
    with pytest.raises(errors.DiskFullError, match='metrics.jsonl: the disk is full; free'), log:
        log.append({'step': 1, 'loss': 0.5})
        with pytest.raises(errors.DiskFullError):
            log.flush()
        log.append({'step': 2, 'loss': 0.5})


def test_half_a_line_at_the_end_is_what_a_kill_leaves(tmp_path):
    (tmp_path / run_log.METRICS_FILE).write_bytes(b'{"step": 1, "note": "\xe2\x80\xa8"}\n{"step": 2, "note": "\xe2')
    assert [row['step'] for row in run_log.RunLog(tmp_path, 2).rows] == [1]


def test_a_new_run_forgets_the_old_rows(tmp_path):
    with run_log.RunLog(tmp_path, 0) as log:
        log.append({'step': 1, 'loss': 1.0})
    assert run_log.RunLog(tmp_path, 0).rows == []


def test_the_overview_counts_every_parameter():
    params = {'reader': {'encoder': {'w': jnp.zeros((3, 5)), 'b': jnp.zeros(5)}, 'decoder': {'w': np.zeros((1024, 1024), np.float16)}},
              'retriever': {'w': jnp.zeros(7)}}
    lines = run_log.parameter_overview(params).splitlines()
    assert [line.split()[0] for line in lines] == ['parameters', 'reader/decoder', 'reader/encoder', 'retriever/w', 'all']
    assert '1,048,576' in lines[1] and '2.0' in lines[1] and 'float16' in lines[1]
    assert f'{20 + 1024 * 1024 + 7:,}' in lines[-1]


def _records(data: bytes) -> list[bytes]:
    """Returns the records of a TFRecord file, after checking checksums."""
    found = []
    while data:
        length, = struct.unpack('<Q', data[:8])
        assert data[8:12] == run_log._masked_crc(data[:8])
        event = data[12:12 + length]
        assert data[12 + length:16 + length] == run_log._masked_crc(event)
        found.append(event)
        data = data[16 + length:]
    return found


def test_checksum_of_the_standard():
    assert run_log.crc32c(b'123456789') == 0xE3069283  # the check value of CRC-32C
    assert run_log.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_records():
    data = run_log.first_event() + run_log.event(7, {'loss': 0.5}) + run_log.event(300, {'loss': 0.25, 'rate': 1e-4})
    first, second, third = _records(data)
    assert b'brain.Event:2' in first
    assert second.endswith(b'\x10\x07' + b'\x2a\x0d' + b'\x0a\x0b' + b'\x0a\x04loss' + b'\x15' + struct.pack('<f', 0.5))
    assert b'\x10\xac\x02' in third and b'rate' in third and struct.pack('<f', 1e-4) in third


def test_tensorboard_reads_it(tmp_path):
    loader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    with run_log.RunLog(tmp_path, 0) as log:
        for step in (1, 200):
            log.append({'step': step, 'loss': step / 4, 'ä/b': -1.5})
    accumulated = loader.EventAccumulator(str(tmp_path / run_log.TENSORBOARD_FOLDER))
    accumulated.Reload()
    assert [(event.step, event.value) for event in accumulated.Scalars('loss')] == [(1, 0.25), (200, 50.0)]
    assert accumulated.Scalars('ä/b')[0].value == -1.5
