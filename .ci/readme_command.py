"""Prints one of README's two commands for a fresh machine: `demo` or `tests`."""

import pathlib
import re
import sys


def commands(readme: str) -> dict[str, str]:
    """The commands by name: the two lines that begin by making a virtual environment."""
    lines = [line for line in readme.splitlines() if line.startswith('python3 -m venv')]
    return {'tests' if re.search(r'\bpytest\b', line) else 'demo': line for line in lines}


if __name__ == '__main__':
    print(commands(pathlib.Path(__file__).parents[1].joinpath('README.md').read_text(encoding='utf-8'))[sys.argv[1]])
