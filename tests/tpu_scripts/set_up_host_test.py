"""The script says what it would do, and refuses what it does not know."""

import pathlib
import subprocess

SCRIPT = pathlib.Path(__file__).parents[2] / 'tpu_scripts' / 'set_up_host.sh'


def _run(*arguments):
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_dry_run_prints_the_commands_and_runs_none(tmp_path):
    result = _run('--dry-run')
    assert result.returncode == 0
    commands = result.stdout.splitlines()
    assert commands[0].split() == ['python3', '-m', 'venv', '.venv']
    assert 'pip install' in commands[1] and 'tpu' in commands[1] and 'jax.devices' in commands[2].replace('\\', '')


def test_unknown_option():
    result = _run('--fast')
    assert result.returncode == 2 and '--dry-run' in result.stderr
