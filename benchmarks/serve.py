"""Measures requests per second of `atlas-jax serve`, and their latency, at several numbers of clients: batched against one at a time.

    python benchmarks/serve.py --project my-project --questions questions.jsonl --json serve.json

Two servers of the same project are asked in turn, round after round: one answers up to 16 questions together, the other one at a time. Each
client has one connection and asks its next question after it has its answer. Figures are medians of the rounds. Without --project a tiny
model with random weights is served, whose step costs nothing, so the server itself is measured. `step` says how much longer a batch of 16
takes than one question: near 16 the machine's arithmetic is the limit, and batching cannot help.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import process_pairs

from atlas_jax.io import atomic, jsonl

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOGETHER = 16
SIDES = {'batched': TOGETHER, 'one at a time': 1}


def main() -> None:
    """Times both servers, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--project', metavar='DIR', help='folder of `atlas-jax new` (default: a tiny one is made)')
    parser.add_argument('--questions', metavar='FILE', help='JSON lines with question (default: made-up ones)')
    parser.add_argument('--clients', type=int, nargs='+', default=[1, 4, 16, 64], help='asking at once (default 1 4 16 64)')
    parser.add_argument('--seconds', type=float, default=8, help='of a measurement (default 8)')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', metavar='FILE', help='figures go there')
    options = parser.parse_args()
    asked = [str(row['question']) for _, row in jsonl.read(options.questions)] if options.questions else [
        f'what is thing {number} ?' for number in range(23)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        project = options.project or str(tiny_project(pathlib.Path(folder) / 'project'))
        ports = {name: stack.enter_context(server(project, together)) for name, together in SIDES.items()}
        figures = measure(ports, asked, options.clients, options.seconds, options.rounds)
    print(f'a batch of {TOGETHER} takes {figures["step"]["ratio"]:.1f} times as long as one question ({figures["step"]["one"]:.4f} s)')
    for row in figures['rows']:
        shown = '; '.join(f'{name}: {side["requests_per_second"]:.1f}/s, p50 {side["p50"]:.3f} s, p99 {side["p99"]:.3f} s'
                          for name, side in row['sides'].items())
        print(f'{row["clients"]:3} clients: {shown}; {row["ratio"]:.2f} times the requests, {row["p99_ratio"]:.2f} times the p99')
    if options.json:
        atomic.write_json(options.json, {'machine': process_pairs.machine(), 'project': options.project or 'tiny', **figures})


def tiny_project(path: pathlib.Path) -> pathlib.Path:
    """Writes a project with the tests' tiny model and returns its folder."""
    from atlas_jax.apps.project import project_folder as folder
    from tests.testing import tiny_run
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    folder.Project(path, folder.ProjectSettings(('made up',)), done=dict.fromkeys(folder.ANSWERING, 'made')).write()
    return path


@contextlib.contextmanager
def server(project: str, together: int) -> Iterator[int]:
    """Yields the port of a server that is ready."""
    command = [sys.executable, '-m', 'atlas_jax', 'serve', project, '--port', '0', '--batch_size', str(together), '--token', 'unused']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    try:
        line = process.stdout.readline() if process.stdout else ''
        if not line:
            raise SystemExit(f'the server has ended with {process.wait()}')
        port = int(line.rpartition(':')[2])
        while not _is_ready(port):
            time.sleep(.5)
        yield port
    finally:
        process.terminate()
        process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    connection.request('GET', '/ready')
    return connection.getresponse().status == 200


def measure(ports: dict[str, int], asked: Sequence[str], clients: Sequence[int], seconds: float, rounds: int) -> dict[str, Any]:
    """Returns the figures of both sides at each number of clients, and the time of a batch relative to one question."""
    step = {size: [] for size in (1, TOGETHER)}
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for size, times in step.items():
            times += [_ask(ports['batched'], {'questions': [asked[place % len(asked)] for place in range(size)]}) for _ in range(5)]
        for number in clients:
            for name, port in ports.items():
                found.setdefault((number, name), []).append(load(port, asked, number, seconds))
    one, several = (statistics.median(times) for times in step.values())
    rows = []
    for number in clients:
        sides = {name: {key: statistics.median(each[key] for each in found[number, name]) for key in found[number, name][0]}
                 for name in ports}
        batched, single = sides['batched'], sides['one at a time']
        rows.append({'clients': number, 'sides': sides, 'ratio': batched['requests_per_second'] / single['requests_per_second'],
                     'p99_ratio': batched['p99'] / single['p99']})
    return {'step': {'one': one, 'together': several, 'ratio': several / one}, 'rows': rows}


def load(port: int, asked: Sequence[str], clients: int, seconds: float) -> dict[str, float]:
    """Returns requests per second and latency quantiles of clients that ask one question after another."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
        # At least once, however late its thread gets to run.
        while True:
            # Each client starts at another question, so that batches mix questions.
            number += 1
            times.append(_ask(port, {'question': asked[number % len(asked)]}, connection))
            if time.perf_counter() > end:
                return

    threads = [threading.Thread(target=client, args=(number * 7,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.quantile(times, [.5, .99])
    return {'requests_per_second': len(times) / (time.perf_counter() - start), 'p50': float(p50), 'p99': float(p99)}


def _ask(port: int, body: dict[str, Any], connection: http.client.HTTPConnection | None = None) -> float:
    """Returns the seconds of one request."""
    connection = connection or http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    start = time.perf_counter()
    connection.request('POST', '/answer', json.dumps(body), {'Content-Type': 'application/json'})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise SystemExit(f'{response.status}: {content.decode()}')
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
