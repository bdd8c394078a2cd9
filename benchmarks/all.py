"""Runs every benchmark against PyTorch and writes the table that README and docs/performance.md show.

    python benchmarks/all.py --out benchmark-results

It takes an hour or more on two cores; leave the machine alone meanwhile. `--sizes small` is the shorter half.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from atlas_jax.io import atomic

_HERE = pathlib.Path(__file__).resolve().parent
# (benchmark, row of the table, prefix of the opponent's name in the JSON keys)
ROWS = (('train_step', 'joint train step', 'ratio_'), ('embed', 'embedding passages', 'ratio_'),
        ('answer', 'retrieve and decode, greedy', 'ratio_greedy_'), ('answer', 'retrieve and decode, 4 beams', 'ratio_beam4_'),
        ('memory', 'peak memory of a step', 'ratio_'))
COLUMNS = {'original, 512': 'original_512', 'original, 200': 'original_200', 'tuned': 'tuned', 'tuned, repaired': 'tuned_repaired',
           'flat, repaired': 'flat_repaired'}


def main() -> None:
    """Runs the benchmarks one after another and writes their JSON, their pages and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='benchmark-results', metavar='DIR', help='JSON, pages and table.md go there')
    parser.add_argument('--sizes', nargs='*', default=['small', 'base'])
    parser.add_argument('--rounds', type=int, help='of every benchmark (default: its own)')
    parser.add_argument('--models', metavar='DIR', help='real weights for size small: reader/ and retriever/')
    parser.add_argument('--opponents', nargs='*', metavar='NAME', help='only these')
    parser.add_argument('--growth', action='store_true', help='growth.py too, the longest of them')
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    results = {}
    for size in options.sizes:
        for name in dict.fromkeys(row[0] for row in ROWS):
            results[name, size] = _run(name, size, out, options)
    if options.growth:
        _run('growth', options.sizes[0], out, options)
    lines = table(results, options.sizes)
    with atomic.writing(out / 'table.md') as file:
        file.write(lines)
    print(lines)


def table(results: dict, sizes: list[str]) -> str:
    """Returns PyTorch's time (or memory) divided by ours as a Markdown table: the rows of ROWS at every size."""
    lines = ['| theirs / ours | ' + ' | '.join(COLUMNS) + ' |', '|---' * (len(COLUMNS) + 1) + '|']
    for size in sizes:
        for name, title, prefix in ROWS:
            cells = [results[name, size].get(prefix + opponent) for opponent in COLUMNS.values()]
            lines.append(f'| {title}, {size} | ' + ' | '.join('' if cell is None else f'{cell:.2f} ×' for cell in cells) + ' |')
    machine = next(iter(results.values()))['machine']
    return '\n'.join([*lines, '', f'On {machine["processor"]}, {machine["cores"]} cores.', ''])


def _run(name: str, size: str, out: pathlib.Path, options: argparse.Namespace) -> dict:
    result = out / f'{name}-{size}.json'
    command = [sys.executable, str(_HERE / f'{name}.py'), '--size', size, '--json', str(result), '--work', str(out / 'models'),
               '--report', str(result.with_suffix('.html'))]
    if options.rounds:
        command += ['--rounds', str(options.rounds)]
    if options.models and size == 'small':
        command += ['--models', options.models]
    if options.opponents is not None:
        command += ['--opponents', *options.opponents]
    print(f'== {name}, {size}', flush=True)
    subprocess.run(command, check=True)
    return json.loads(result.read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
