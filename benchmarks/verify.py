"""Measures the time to compare a model with its checksums, relative to loading it.

    python benchmarks/verify.py --model run --model pair --json verify.json

Each load is its own process, in turn with and without checksums. Files are read once before, so that the disk is not measured.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

from atlas_jax.answering import api
from atlas_jax.io import atomic, checksum, contents


def main() -> None:
    """Loads each model in turn with and without checksums; writes seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', action='append', required=True, metavar='DIR', help='folder that `atlas-jax convert` or `train` wrote')
    parser.add_argument('--rounds', type=int, default=3, help='loads of each way (default 3)')
    parser.add_argument('--json', metavar='FILE', help='file to write the figures to')
    parser.add_argument('--one', choices=('verified', 'unverified'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(_seconds(options.model[0], options.one))
        return
    figures: dict[str, Any] = {'cpus': os.cpu_count(), 'rounds': options.rounds, 'models': {}}
    for model in options.model:
        files = [path for path in pathlib.Path(model).rglob('*') if path.is_file()]
        for path in files:
            checksum.sha256_file(path)
        found = {way: [_in_a_process(model, way) for _ in range(options.rounds)] for way in ('verified', 'unverified')}
        verified, unverified = (statistics.median(found[way]) for way in ('verified', 'unverified'))
        row = {'bytes': sum(path.stat().st_size for path in files), 'load_seconds': unverified, 'verify_seconds': verified - unverified,
               'ratio': (verified - unverified) / unverified}
        figures['models'][model] = row
        print(f'{model}: {row["bytes"] / 1e6:.0f} MB, loading {unverified:.2f} s, checksums {row["verify_seconds"]:.2f} s '
              f'({row["ratio"]:.0%} of loading)', flush=True)
    if options.json:
        atomic.write_json(options.json, figures)


def _in_a_process(model: str, way: str) -> float:
    return float(subprocess.run([sys.executable, __file__, '--model', model, '--one', way], capture_output=True, text=True,
                                check=True).stdout.split()[-1])


def _seconds(model: str, way: str) -> float:
    start = time.perf_counter()
    if way == 'verified':
        api.Atlas.load(model)
    else:
        with contents.unchecked():
            api.Atlas.load(model)
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
