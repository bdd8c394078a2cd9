"""Prints what each section of .ci/run took, given as JSON lines on standard input, and writes .ci/last_run.json."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time


def git(root: pathlib.Path, *arguments: str) -> str | None:
    """What a git command prints, None outside a checkout."""
    try:
        return subprocess.run(['git', '-C', str(root), *arguments], capture_output=True, text=True, check=True, timeout=60,
                              stdin=subprocess.DEVNULL).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """The processor's name and the number of cores."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return f'{names[0] if names else platform.machine()}, {os.cpu_count()} cores'


def main(root: pathlib.Path, seconds: int, code: int) -> None:
    """Prints the table and writes the file."""
    sections = [json.loads(line) for line in sys.stdin]
    print(f'\n{"seconds":>8} {"CPU":>8}  section')
    for each in sections:
        print(f'{each["seconds"]:8.1f} {each["cpu_seconds"]:8.1f}  {each["section"]}' + (f' ({each["code"]})' if each['code'] else ''))
    status = git(root, 'status', '--porcelain')
    run = {'commit': git(root, 'rev-parse', 'HEAD'), 'clean': None if status is None else not status, 'seconds': seconds,
           'passed': code == 0, 'processor': processor(), 'ended': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), 'sections': sections}
    unfinished = root / '.ci' / f'last_run.json.{os.getpid()}'
    unfinished.write_text(json.dumps(run, indent=1) + '\n')
    unfinished.replace(root / '.ci' / 'last_run.json')


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
