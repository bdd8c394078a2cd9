"""Compares answers found by codes with answers found by exact search: exact match on the demo's test questions, using the commands of a
user.

    python benchmarks/codes_answers.py --demo demo-data --model demo-data/trained --json codes_answers.json

The index is copied and compressed (`atlas-jax index compress`). `atlas-jax evaluate` then answers all test questions three times: by exact
search, by codes with the embeddings on the devices, and by codes with embeddings and passage tokens on the host. The command prints exact
match, the share of gold passages found, and the questions whose passages or answers differ from exact search. It fails if exact match
differs by more than .005. --passages_only answers nothing: equal passages in equal order give equal answers. The defaults score 300
candidates, an eighth of the passages; --bytes and --rescore make the codes coarser.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import tempfile

from atlas_jax.apps.cli import main as cli
from atlas_jax.io import atomic

LIMIT = .005
SIDES = {'exact': [], 'codes': ['--searcher', 'codes'],
         'codes on the host': ['--searcher', 'codes', '--gin.RESCORE="host"', '--gin.TOKENS="host"']}


def main() -> None:
    """Compresses, evaluates, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--demo', default='demo-data', metavar='DIR', help='folder that the demo wrote (default demo-data)')
    parser.add_argument('--model', default='demo-data/trained', metavar='RUN', help='run of its training (default demo-data/trained)')
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES))
    parser.add_argument('--bytes', type=int, default=96, help='of a code (default 96)')
    parser.add_argument('--rescore', type=int, default=300, help='candidates (default 300)')
    parser.add_argument('--examples', type=int, help='the first so many questions (default: all)')
    parser.add_argument('--passages_only', action='store_true', help='compare the passages found, and answer nothing')
    parser.add_argument('--json', metavar='FILE', help='figures go there')
    options = parser.parse_args()
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name in ('index', 'store'):
            shutil.copytree(pathlib.Path(options.demo) / name, work / name)
        _run('index', 'compress', f'{work}/index', '--bytes', str(options.bytes), '--rescore', str(options.rescore), '--accept_recall')
        for side in options.sides:
            figures[side] = _evaluated(work, side, options)
    rows = {side: found.pop('rows') for side, found in figures.items()}
    for side, found in figures.items():
        for name, same in (('passages', _docids), ('answers', lambda row: row.get('prediction'))):
            found[f'other_{name}'] = sum(same(row) != same(first) for row, first in zip(rows[side], rows[options.sides[0]], strict=True))
        print(f'{side:20} {found}', flush=True)
    if options.json:
        atomic.write_json(options.json, {'bytes': options.bytes, 'rescore': options.rescore, 'sides': figures})
    furthest = max(abs(found.get('exact_match', 0) - figures[options.sides[0]].get('exact_match', 0)) for found in figures.values())
    raise SystemExit(f'exact match differs by {furthest:.4f}, more than {LIMIT}' if furthest > LIMIT else 0)


def _evaluated(work: pathlib.Path, side: str, options: argparse.Namespace) -> dict:
    name = side.replace(' ', '_')
    limit = [] if options.examples is None else ['--examples', str(options.examples)]
    limit += ['--gin.RETRIEVE_ONLY=True'] if options.passages_only else []
    _run('evaluate', '--gin_file', 'runs/evaluate.gin', '--model', options.model, '--index', f'{work}/index',
         '--questions', f'{options.demo}/test.jsonl', '--results', f'{work}/{name}.jsonl', '--json', f'{work}/{name}.json',
         f'--gin.SearchConfig.rescore_candidates={options.rescore}', *SIDES[side], *limit)
    found = json.loads((work / f'{name}.json').read_text(encoding='utf-8'))
    wanted = {key: value for key, value in found.items() if key in ('exact_match', 'f1', 'questions', 'seconds') or 'gold_recall_at' in key}
    return {**wanted, 'rows': [json.loads(line) for line in (work / f'{name}.jsonl').read_text('utf-8').splitlines()]}


def _docids(row: dict) -> list[str]:
    return [passage['docid'] for passage in row['passages']]


def _run(*arguments: str) -> None:
    with contextlib.redirect_stdout(None):
        code = cli.main(list(arguments))
    if code:
        raise SystemExit(f'atlas-jax {" ".join(arguments)} ended with code {code}')


if __name__ == '__main__':
    main()
