"""Search on a TPU, measured without one: what the v4 compiler makes of `exact` and `approx`, and a simulation of the recall of `approx`.

    python benchmarks/search_tpu.py --rows 515625 2062500 4125000
    python benchmarks/search_tpu.py --rows 6250000 --dtype int8
    python benchmarks/search_tpu.py --recall 262144

Needs libtpu. Rows are per chip; four chips merge their candidates. Recall is measured on clustered vectors (search_vectors.py) in random
order and with similar ones beside each other; each bucket of XLA's reduction keeps only its best row.
"""

import argparse
import pathlib
import tempfile

import numpy as np
import search_vectors

from atlas_jax.apps.planning import slices

BATCH, CHIPS, LANES = 64, 4, 128


def main() -> None:
    """Compiles or simulates, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, nargs='*', default=[], help='rows of a chip to compile a search for')
    parser.add_argument('--dtype', choices=['bfloat16', 'int8'], default='bfloat16')
    parser.add_argument('--top_k', type=int, default=40)
    parser.add_argument('--recall', type=int, metavar='N', help='simulate the recall of approx on N vectors, a power of two')
    options = parser.parse_args()
    slices.prepare_environment()
    for rows in options.rows:
        for searcher in ('exact', 'approx'):
            seconds, temporaries = _compiled(searcher, rows, options.dtype, options.top_k)
            print(f'{rows:9} rows a chip, {searcher:6} {1e3 * seconds:6.1f} ms, temporaries {temporaries / 2**20:6.1f} MiB', flush=True)
    if options.recall:
        _simulate(options.recall)


def _compiled(searcher: str, rows: int, dtype: str, top_k: int) -> tuple[float, int]:
    """Returns the seconds of a search by the compiler's cycles and planning's estimates, and the bytes of temporaries."""
    import jax
    import jax.numpy as jnp

    from atlas_jax import partitioning, types
    from atlas_jax.apps.planning import compiled
    from atlas_jax.searchers import exact
    slice_ = slices.parse('v4:2x2x1')
    mesh = partitioning.make_mesh((1, CHIPS, 1), slices.devices(slice_))

    def array(shape: tuple[int, ...], kind: str, spread: bool = True) -> jax.ShapeDtypeStruct:
        layout = partitioning.sharding(mesh, 'passages') if spread else partitioning.replicated(mesh)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(kind), sharding=layout)

    total = CHIPS * rows
    index = types.IndexArrays(embeddings=array((total, search_vectors.DIM), dtype), valid=array((total,), 'bool'),
                              scales=array((total,), 'float32') if dtype == 'int8' else None)
    search = {'exact': exact.search, 'approx': exact.search_approximately}[searcher]

    def run(index: types.IndexArrays, queries: jax.Array) -> types.Retrieved:
        with partitioning.on_mesh(mesh):
            return search(index, queries, top_k, mesh)

    program = jax.jit(run).lower(index, array((BATCH, search_vectors.DIM), 'float32', spread=False)).compile()
    cost = compiled.cost(program.as_text(), CHIPS, lambda group: slice_.generation.link_bytes, slice_.rates)
    return cost.cycles / slice_.generation.cycles_a_second, program.memory_analysis().temp_size_in_bytes


def kept(best: np.ndarray, chip_rows: int, total: int, neighbours: bool, target: float = 0.95) -> float:
    """Returns the share of the true best rows that XLA's reduction keeps.

    Args:
      best: [queries, k] int, the true best rows, all different within a query.
      chip_rows, total: rows of a chip, and of all chips.
      neighbours: True if neighbouring rows share a bucket, False if rows LANES apart do.
      target: the recall that the reduction is asked for.
    """
    queries, k = best.shape
    # The sizes of xla/hlo/builder/lib/approx_topk_shape.cc: buckets of 2 ** halvings rows, at least LANES of them.
    wanted = min(max(int((1 - k) / np.log(target)), LANES), chip_rows)
    halvings = min(int(np.log2(total / wanted)), int(np.ceil(np.log2(chip_rows // LANES))))
    chip, row = np.divmod(best, chip_rows)
    bucket = row >> halvings if neighbours else (row // LANES >> halvings) * LANES + row % LANES
    return sum(len(set(each)) for each in (chip * chip_rows + bucket).tolist()) / (queries * k)


def _simulate(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'vectors.f32'
        queries = search_vectors.write(path, rows, 256)
        vectors = search_vectors.read(path)
    scores = vectors @ queries.T  # [rows, queries]
    centres = vectors[np.random.default_rng(1).choice(rows, min(512, rows), replace=False)]
    similar = np.argsort(np.argmax(vectors @ centres.T, axis=1), kind='stable')
    orders = {'in random order': np.arange(rows), 'similar ones beside each other': similar}
    for name, order in orders.items():
        best = np.argsort(-scores[order], axis=0, kind='stable')[:40].T
        for chips in (64, 4):
            found = [kept(best[:, :k], rows // chips, rows, neighbours) for neighbours in (False, True) for k in (20, 40)]
            print(f'{name:32} {chips:3} chips   recall@20, @40 {found[0]:.3f} {found[1]:.3f}   '
                  f'buckets of neighbours {found[2]:.3f} {found[3]:.3f}')


if __name__ == '__main__':
    main()
