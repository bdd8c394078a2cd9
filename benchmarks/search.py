"""Compares search with faiss-cpu and numpy: queries per second, recall of the true 20 nearest, peak memory of each.

    python benchmarks/search.py --rows 1000000 --json search.json --plot search.png

Every side runs in its own process with the same threads and is asked in turn, round after round; figures are medians, and each turn's first
run is not timed. Give several row counts to see how the cost grows. OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE and allocator settings are unset on
all sides. 1,000,000 rows need about 20 GB when all sides run at once; choose some with --sides. peak_bytes covers the whole life of the
process, building included; searching_bytes is the peak since it was built.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Iterator

import numpy as np
import process_pairs
import search_vectors

from atlas_jax.io import atomic
from atlas_jax.runtime import line_process

TOP_K, BATCHES = 20, (1, 64)
SIDES = ('numpy_matmul', 'faiss_flat', 'exact', 'int8', 'int8_index', 'scann', 'faiss_ivfpq', 'faiss_hnsw')


class Side:
    """A side's process. `searchers` are the names of what it can do."""

    def __init__(self, name: str, vectors: pathlib.Path, threads: int):
        environment = process_pairs.environment(tuned=False)
        environment |= {variable: str(threads) for variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')}
        self._worker = line_process.Worker('search_sides', environment | {'JAX_PLATFORMS': 'cpu'})
        ready = self._worker.ask('build', side=name, vectors=str(vectors), top_k=TOP_K)
        self.searchers, self.build_seconds, self.encoding = ready['searchers'], ready['build_seconds'], ready['encoding']
        self.peak_bytes = self.searching_bytes = 0

    def run(self, searcher: str, batch: int, queries: pathlib.Path, ids: bool) -> tuple[float, np.ndarray | None]:
        """Returns (seconds for all queries of the file, ids [queries, TOP_K] if asked for)."""
        answer = self._worker.ask('search', searcher=searcher, batch=batch, queries=str(queries), ids=ids)
        self.peak_bytes, self.searching_bytes = answer['peak_bytes'], answer['searching_bytes']
        return answer['seconds'], None if answer['ids'] is None else np.array(answer['ids'])

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()


def measure(rows: int, groups: list[list[str]], rounds: int, threads: int, work: pathlib.Path, batches: tuple[int, ...] = BATCHES,
            suffix: str = '.f32', asked: int = 64 * 2) -> Iterator[list[dict]]:
    """Yields the figures of every searcher of a group of sides at one number of rows; they are in memory together and take turns.

    A group's last side is the baseline of the others (to_baseline). `suffix` says how the vectors are stored, see search_vectors; `asked`
    queries are searched in batches of 64, and 16 of them one by one.
    """
    vectors = work / f'vectors-{rows}{suffix}'
    queries = search_vectors.write(vectors, rows, asked)
    files, number = {1: work / 'queries-1.npy', 64: work / 'queries-64.npy'}, {1: 16, 64: len(queries)}
    for batch, file in files.items():
        np.save(file, queries[:number[batch]])
    truth = _truth(vectors, queries)
    for sides in groups:
        running, figures = [], []
        for name in sides:
            running.append(Side(name, vectors, threads))
            print(f'{rows} rows, {name}: built in {running[-1].build_seconds:.1f} s', flush=True)
        found = _take_turns(running, rounds, files, truth, batches)
        for (side, searcher, batch), (seconds, recall) in found.items():
            speed = number[batch] / statistics.median(seconds)
            baseline = number[batch] / statistics.median(found[running[-1], running[-1].searchers[0], batch][0])
            figures.append({'searcher': searcher, 'batch': batch, 'rows': rows, 'queries_per_second': speed, 'recall_at_20': recall,
                            'peak_bytes': side.peak_bytes, 'build_seconds': round(side.build_seconds, 2), 'rounds': rounds,
                            'searching_bytes': side.searching_bytes, 'encoding': side.encoding, 'vectors': suffix[1:],
                            'baseline': running[-1].searchers[0], 'to_baseline': speed / baseline})
        show(figures)
        for side in running:
            side.close()
        yield figures
    vectors.unlink()


def _take_turns(running: list[Side], rounds: int, files: dict[int, pathlib.Path], truth: np.ndarray,
                batches: tuple[int, ...]) -> dict[tuple[Side, str, int], tuple[list[float], float]]:
    """Returns the seconds of every round, and the recall, of each (side, searcher, batch)."""
    found: dict[tuple[Side, str, int], tuple[list[float], float]] = {}
    for batch in batches:
        for side in running:
            for searcher in side.searchers:  # also compiles and warms up
                ids = side.run(searcher, batch, files[batch], ids=True)[1]
                recall = float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids, truth, strict=False)]))
                found[side, searcher, batch] = [], recall
    for _ in range(rounds):
        for batch in batches:
            for side in running:
                side.run(side.searchers[0], batch, files[batch], ids=False)  # the system may page out a side while it waits
                for searcher in side.searchers:
                    found[side, searcher, batch][0].append(side.run(searcher, batch, files[batch], ids=False)[0])
    return found


def _truth(path: pathlib.Path, queries: np.ndarray) -> np.ndarray:
    """Returns the ids of the TOP_K largest inner products, [queries, TOP_K]."""
    scores = np.concatenate([queries @ block.T for block in search_vectors.read_blocks(path)], axis=1)
    return np.argsort(-scores, axis=1, kind='stable')[:, :min(TOP_K, scores.shape[1])]


def show(figures: list[dict]) -> None:
    """Prints a line for every figure."""
    print(f'{"searcher":36}{"rows":>9}{"batch":>6}{"queries/s":>12}{"ratio":>8}{"recall@20":>11}{"peak MiB":>10}{"searching":>10}'
          f'{"build s":>9}', flush=True)
    for row in figures:
        print(f'{row["searcher"]:36}{row["rows"]:>9}{row["batch"]:>6}{row["queries_per_second"]:>12.1f}{row["to_baseline"]:>8.2f}'
              f'{row["recall_at_20"]:>11.4f}{row["peak_bytes"] / 2**20:>10.0f}{row["searching_bytes"] / 2**20:>10.0f}'
              f'{row["build_seconds"]:>9.1f}', flush=True)


def plot(figures: list[dict], path: str) -> None:
    """Plots recall against speed at the largest number of rows, one panel per batch size; and cost per query over rows if there are
    several.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    sizes = sorted({row['rows'] for row in figures})
    canvas, fields = pyplot.subplots(1, len(BATCHES) + (len(sizes) > 1), figsize=(6 * (len(BATCHES) + (len(sizes) > 1)), 5))
    names = sorted({row['searcher'].split(',')[0] for row in figures})
    for field, batch in zip(fields, BATCHES, strict=False):
        for name in names:
            points = sorted((row['recall_at_20'], row['queries_per_second']) for row in figures
                            if row['searcher'].split(',')[0] == name and row['batch'] == batch and row['rows'] == sizes[-1])
            field.plot(*zip(*points, strict=True), marker='o', label=name)
        field.set(xlabel='recall@20', ylabel='queries a second', yscale='log', title=f'{sizes[-1]:,} x 768, batch {batch}')
        field.grid(True, alpha=0.3)
    if len(sizes) > 1:
        for name in names:
            mine = [row for row in figures if row['searcher'] == name and row['batch'] == BATCHES[-1]]
            points = sorted((row['rows'], 1000 / row['queries_per_second']) for row in mine)
            fields[-1].plot(*zip(*points, strict=True), marker='o', label=name)
        fields[-1].set(xlabel='rows', ylabel='milliseconds a query, batch 64', xscale='log', yscale='log', title='cost over rows')
        fields[-1].grid(True, alpha=0.3)
    fields[0].legend(fontsize=8)
    canvas.tight_layout()
    canvas.savefig(path, dpi=120)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, nargs='+', default=[1_000_000], metavar='N', help='vectors of 768 numbers (default 1,000,000)')
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES), help='who takes part (default: all)')
    parser.add_argument('--rounds', type=int, default=7, help='times that every side is asked (default 7)')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)), help='of every side (default: all cores)')
    parser.add_argument('--work', help='folder for the vectors while it runs (default: a temporary one)')
    parser.add_argument('--json', metavar='FILE', help='where the figures go')
    parser.add_argument('--plot', metavar='FILE', help='picture of recall against speed, and of cost over rows where there are several')
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])
    figures = []
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        for rows in options.rows:
            # The baseline comes last.
            sides = sorted(options.sides, key=lambda side: side == 'exact')
            figures += itertools.chain.from_iterable(measure(rows, [sides], options.rounds, options.threads, pathlib.Path(work)))
    if options.json:
        atomic.write_json(options.json, figures)
    if options.plot:
        plot(figures, options.plot)


if __name__ == '__main__':
    main()
