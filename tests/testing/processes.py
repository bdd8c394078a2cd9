"""Starts a program in several processes that are one run (jax.distributed), each with some fake CPU devices."""

import os
import socket
import subprocess
import sys

from tests.testing import streams


def start(program: list[str], processes: int = 2, devices: int = 4, **environment: str) -> list[subprocess.Popen]:
    """Starts `python PROGRAM...` in every process; wait for them with `finish`."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    started = []
    for number in range(processes):
        variables = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(processes), 'JAX_PROCESS_ID': str(number),
                     'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{streams.QUICK_FLAGS} --xla_force_host_platform_device_count={devices}'}
        started.append(subprocess.Popen([sys.executable, *program], env=os.environ | variables | environment, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True))
    return started


def finish(started: list[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str]]:
    """(exit code, what it printed) of each process; those that hang are killed."""
    try:
        return [(process.wait(), output) for process in started for output in [process.communicate(timeout=timeout)[0]]]
    finally:
        for process in started:
            process.kill()
