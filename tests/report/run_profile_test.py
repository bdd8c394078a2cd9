"""Profiles of this machine, and one as a TPU writes it, are read; utilisation. tests/train_test.py profiles a run."""

import pathlib
import subprocess
import sys

import jax
import pytest

from atlas_jax.report import run_profile

_WITHOUT_THE_STEP = """
import sys

import jax

from atlas_jax.report import run_profile

with run_profile.Profile(sys.argv[1]) as profile:
    for number in range(run_profile.FIRST_STEP + run_profile.STEPS):
        with profile.step(number):
            jax.numpy.ones(3).block_until_ready()
"""


def _alone(code: str, folder: pathlib.Path) -> str:
    """Runs code in a process of its own: XLA's profiler has crashed in one that had run hundreds of other tests."""
    done = subprocess.run([sys.executable, '-c', code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_profile_without_the_step_does_not_end_the_run(tmp_path):
    printed = _alone(_WITHOUT_THE_STEP, tmp_path)
    assert 'where the time went is not known: the profile holds no operation of train_step' in printed


def test_utilisation_is_a_share_of_the_peak_of_all_devices(monkeypatch):
    assert run_profile.utilisation(3e12, 2.0) == {'tflops_per_second': 1.5}
    monkeypatch.setattr(jax, 'devices', lambda: [type('Device', (), {'device_kind': 'TPU v4'})()] * 4)
    monkeypatch.setattr(jax, 'device_count', lambda: 4)
    assert run_profile.utilisation(2 * 4 * 137.5e12, 2.0)['mfu'] == 0.5


PARTS = ('search', 'read', 'update')


@pytest.mark.parametrize(('op_name', 'part'), [
    ('jit(step)/search/dot_general', 'search'), ('jit(step)/cond/branch_0_fun/transpose(jvp(read))/while/body/mul', 'read'),
    ('jit(step)/read/search/top_k', 'search'), ('jit(step)/reader/research/add', None), ('', None)])
def test_an_operation_belongs_to_its_innermost_scope(op_name, part):
    assert run_profile.part_of(op_name, PARTS) == part


_WITH_A_STEP = """
import sys

import jax
import jax.numpy as jnp


def _loss(weights, states):
    with jax.named_scope('read'):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), states, weights)[0]**2)


@jax.jit
def _step(weights, states):
    with jax.named_scope('search'):
        states += jax.lax.top_k(states, 3)[0].sum()
    gradient = jax.lax.cond(states.sum() > 0, lambda w: jax.grad(_loss)(w, states), lambda w: -jax.grad(_loss)(w, states), weights)
    with jax.named_scope('update'):
        return weights - 0.1 * gradient


weights, states = jnp.ones((3, 150, 150)), jnp.ones((200, 150))
jax.block_until_ready(_step(weights, states))
with jax.profiler.trace(sys.argv[1]):
    for _ in range(2):
        jax.block_until_ready(_step(weights, states))
"""


def test_a_profile_made_here_is_taken_apart(tmp_path):
    _alone(_WITH_A_STEP, tmp_path)
    found = run_profile.device_time(tmp_path, PARTS, '_step', 1)
    assert found.steps == 2 and list(found.seconds) == [*PARTS, 'other']
    assert found.shares['read'] > 0.5 and found.seconds['update'] > 0 and found.shares['other'] < 0.2
    found.write(tmp_path)
    assert '"seconds_a_step"' in (tmp_path / 'device_time.json').read_text()
    with pytest.raises(ValueError, match='no operation of another'):
        run_profile.device_time(tmp_path, PARTS, 'another', 1)


def _message(*fields) -> bytes:
    """A protobuf message: (number, integer, text, or bytes of another message)."""
    def varint(value: int) -> bytes:
        low = value & 0x7F
        return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + varint(value >> 7)

    def encode(number, value):
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        value = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(value)) + value

    return b''.join(encode(*field) for field in fields)


def _metadata_plane(program: str, computations: list[list[tuple[str, str, str]]]) -> bytes:
    encoded = [_message((1, 'c'), *((2, _message((1, name), (2, opcode), (7, _message((2, op_name)))))
                                    for name, opcode, op_name in instructions)) for instructions in computations]
    hlo = _message((1, _message((1, program), *((3, each) for each in encoded))))
    event = _message((1, 1), (2, f'{program}(7)'), (5, _message((1, 1), (6, hlo))))
    return _message((2, '/host:metadata'), (4, _message((1, 1), (2, event))))


def _device_plane(lines: dict[str, list[tuple[str, int, int]]]) -> bytes:
    """Events (name, start, duration), in milliseconds."""
    names = sorted({name for events in lines.values() for name, *_ in events})
    encoded = [_message((1, i), (2, line), *((4, _message((1, names.index(name) + 1), (2, start * 10**9), (3, duration * 10**9)))
                                             for name, start, duration in events)) for i, (line, events) in enumerate(lines.items())]
    metadata = [_message((1, i), (2, _message((1, i), (2, name)))) for i, name in enumerate(names, 1)]
    return _message((2, '/device:TPU:0'), *((3, line) for line in encoded), *((4, entry) for entry in metadata))


def test_a_tpus_profile_is_taken_apart():
    body = [('dot.1', 'dot', 'jit(step)/transpose(jvp(read))/while/body/dot_general'), ('copy.2', 'copy', '')]
    entry = [('while.3', 'while', 'jit(step)/transpose(jvp(read))/while'), ('fusion.4', 'fusion', 'jit(step)/update/sub'),
             ('copy.5', 'copy', '')]
    device = _device_plane({
        'XLA Modules': [('jit_other(9)', 0, 10), ('jit_step(7)', 20, 30), ('jit_step(7)', 60, 30)],
        'XLA Ops': [('%dot.1 = f32[8] dot(x)', 1, 5),  # another program's
                    ('%while.3 = (f32[8]) while(t)', 20, 10), ('%dot.1 = f32[8] dot(x)', 21, 6), ('%copy.2 = f32[8] copy(x)', 28, 1),
                    ('%fusion.4 = f32[8] fusion(x)', 31, 4), ('%copy.5 = f32[8] copy(x)', 36, 3), ('%fusion.4 = f32[8] fusion(x)', 61, 2)],
        'Steps': [('1', 20, 30)]})
    data = _message((1, _metadata_plane('jit_step', [body, entry])), (1, device))
    found = run_profile.device_time_of_bytes(data, PARTS, 'step', 1)
    assert found.steps == 2
    assert found.seconds == pytest.approx({'search': 0.0, 'read': 0.007, 'update': 0.006, 'other': 0.003})
    assert found.lines()[2].split() == ['read', '0.0035', '44%']


def test_a_folder_without_a_profile_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no profile'):
        run_profile.device_time(pathlib.Path(tmp_path), PARTS, 'step', 1)
