"""Codes beside exact and int8 search, ScaNN and faiss: recall of the true 20 nearest, queries a second, memory, and the rate of encoding.

    python benchmarks/search_codes.py --rows 1000000 --json search_codes.json --plot docs/search-codes.svg
    python benchmarks/search_codes.py --text search-text --json search_codes_text.json

Clustered vectors of 768 numbers (search_vectors.py), or with --text the MiniLM embeddings of BoolQ's Wikipedia passages, by its questions:
the folder is the --work of search_text.py. Sides run as in search.py: processes of their own, asked in turn, medians. Needs faiss-cpu.
1,000,000 rows need about 25 GB when all sides run at once; --one_by_one needs 9 GB. Codes are printed with their rate while they are made.
--plot shows recall over the bytes that must lie in memory and over speed; --from takes figures that were measured before.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import search

from atlas_jax.io import atomic

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
SIDES = ('exact', 'int8', 'int8_index', 'codes', 'codes_host', 'faiss_ivfpq_rescored', 'faiss_rabitq', 'faiss_hnsw', 'scann')
BYTES = (34, 50, 64, 96)
CANDIDATES = (100, 300, 1000)
# Of a vector of 768 numbers: its row in float32, links of a graph, ScaNN's hashes of 384 pairs in 4 bits.
_ROW, _LINKS, _HASHES = 4 * 768, 4 * 2 * 32, 192


def resident_bytes(searcher: str) -> int:
    """Bytes of a row that must lie in memory for this searcher; --plot's axis."""
    name = searcher.split(',')[0]
    if name == 'codes on the host':
        return 96 + 4
    if name == 'codes':
        return int(searcher.split(', ')[1].split()[0]) + 4 + _ROW
    extra = {'exact': 0, 'int8': 384 + 4, 'faiss_hnsw': _LINKS, 'scann': _HASHES, 'faiss_ivfpq': 96 + 8, 'faiss_rabitq': 96 + 8}
    return 768 + 4 if name == 'int8_index' else _ROW + extra[name]


def plot(figures: list[dict], path: str) -> None:
    """Recall over bytes in memory and over queries a second, batch 64, at the largest number of rows; cold reading is left out."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    rows = max(row['rows'] for row in figures)
    shown = [row for row in figures if row['rows'] == rows and row['batch'] == 64 and not row['searcher'].endswith('cold')]
    canvas, (memory, speed) = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for name in sorted({row['searcher'].split(',')[0] for row in shown}):
        mine = sorted((row for row in shown if row['searcher'].split(',')[0] == name), key=lambda row: row['recall_at_20'])
        recall = [row['recall_at_20'] for row in mine]
        memory.plot([resident_bytes(row['searcher']) for row in mine], recall, marker='o', linestyle='none', label=name)
        speed.plot([row['queries_per_second'] for row in mine], recall, marker='o', linestyle='none', label=name)
    memory.set(xlabel='bytes of a row in memory', ylabel='recall@20', xscale='log', title=f'{rows:,} clustered vectors of 768 numbers')
    speed.set(xlabel='queries a second, batches of 64', xscale='log', title='two CPU cores')
    for field in (memory, speed):
        field.axhline(.97, color='grey', linewidth=.8, linestyle='--')
        field.grid(True, alpha=.3)
    speed.legend(fontsize=8)
    canvas.tight_layout()
    canvas.savefig(path)


def of_text(work: pathlib.Path) -> list[dict]:
    """Recall of codes on the passages of search_text.py's BoolQ index, by its questions and by perturbed passages."""
    import search_text

    from atlas_jax import api
    from atlas_jax.demo import packages
    from atlas_jax.searchers import codes_building
    from atlas_jax.steps import prepare
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
                start = time.perf_counter()
                made = codes_building.compress(index.index, codes_building.Settings(size, count, accept_recall=True), given, False)
                figures.append({'rows': made.rows, 'dim': made.dim, 'bytes': size, 'rescored': count, 'queries': name,
                                'weight': made.weight, 'recall_at_20': float(made.recall_at_20), 'seconds': time.perf_counter() - start})
                print(figures[-1], flush=True)
    return figures


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, nargs='+', default=[1_000_000], metavar='N', help='clustered vectors (default 1,000,000)')
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES), help='who takes part (default: all)')
    parser.add_argument('--rounds', type=int, default=5, help='times that every side is asked (default 5)')
    parser.add_argument('--one_by_one', action='store_true', help='one side in memory at a time, beside exact search')
    parser.add_argument('--text', metavar='DIR', help="search_text.py's folder: measure its passages, and no clustered vectors")
    parser.add_argument('--from', dest='measured', nargs='*', default=[], metavar='FILE', help='figures of before, to be plotted too')
    parser.add_argument('--work', help='folder for the vectors while it runs (default: a temporary one)')
    parser.add_argument('--json', metavar='FILE', help='where the figures go')
    parser.add_argument('--plot', metavar='FILE', help='picture of recall over memory and over speed')
    options = parser.parse_args()
    figures: list[dict] = [row for file in options.measured for row in json.loads(pathlib.Path(file).read_text(encoding='utf-8'))]
    if options.text:
        figures = of_text(pathlib.Path(options.text))
    elif not options.measured:
        groups = [[side, *(['exact'] if side != 'exact' else [])] for side in options.sides] if options.one_by_one else [options.sides]
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            for rows in options.rows:
                for sides in groups:
                    figures += search.measure(rows, sides, options.rounds, len(os.sched_getaffinity(0)), pathlib.Path(work))
        search.show(figures)
    if options.json:
        atomic.write_json(options.json, figures)
    if options.plot:
        plot(figures, options.plot)


if __name__ == '__main__':
    main()
