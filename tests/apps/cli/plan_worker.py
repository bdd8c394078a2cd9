"""A worker for plan_test.py: runs `atlas-jax` command lines one after another, so that jax and the TPU compiler are loaded once."""

import contextlib
import io

from atlas_jax.apps.cli import main as cli
from atlas_jax.runtime import line_process


def run(arguments: list[str]) -> dict[str, int | str]:
    """Runs one command; returns its exit code and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:  # a mistake in the command line itself
            code = stop.code
    return {'returncode': code, 'stdout': shown.getvalue(), 'stderr': complaint.getvalue()}


if __name__ == '__main__':
    line_process.serve({'run': run})
