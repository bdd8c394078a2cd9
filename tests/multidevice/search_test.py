"""Approximate, int8 and codes search on 2 and 8 devices: the same as on one."""

import jax
import numpy as np
import pytest

from atlas_jax import partitioning, types
from atlas_jax.searchers import codes_files, in_graph, int8
from atlas_jax.searchers.config import SearchConfig
from tests.searchers import codes_files_test


def place(arrays, mesh):
    return jax.tree.map(lambda column: jax.device_put(column, partitioning.sharding(mesh, 'passages')), arrays)


@pytest.mark.parametrize('config', [SearchConfig('int8', overfetch=1), SearchConfig('int8', 'cosine'), SearchConfig('approx'),
                                    SearchConfig('exact', 'cosine')], ids=lambda config: f'{config.searcher}-{config.metric}')
def test_results_do_not_depend_on_the_devices(config):
    generator = np.random.default_rng(0)
    spectrum = 1 / (1 + np.arange(200) / 10)  # 128 dimensions hold nine tenths
    embeddings, queries = ((generator.standard_normal((rows, 200)) * spectrum).astype(np.float32) for rows in (8 * 23, 5))
    arrays = types.IndexArrays(embeddings, generator.random(8 * 23) < 0.7)
    excluded, results = np.array([[3], [-1], [50], [0], [7]], np.int32), []
    for devices, shape in ((1, (1, 1, 1)), (2, (1, 2, 1)), (8, (2, 2, 2))):
        mesh = partitioning.make_mesh(shape, jax.devices()[:devices])
        placed = place(arrays, mesh)
        scanned = int8.scanned_rows(placed, mesh, config.metric, config.scan_share) if config.searcher == 'int8' else None
        assert scanned is None or scanned.rotation.shape == (200, 128)
        search = jax.jit(lambda arrays, scanned, mesh=mesh: in_graph.search(arrays, queries, 11, mesh, config, scanned=scanned,
                                                                            excluded=excluded))
        results.append(jax.device_get(search(placed, scanned)))
    for found in results[1:]:
        np.testing.assert_allclose(found.scores, results[0].scores, rtol=1e-6)
        close = np.isclose(found.scores[:, 1:], found.scores[:, :-1], rtol=1e-6)
        same = found.passage_ids == results[0].passage_ids
        assert np.all(same[:, 1:] | close) and same.mean() > 0.95


def test_devices_hold_the_codes_of_their_own_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_files, 'PART_ROWS', 64)
    codes_files_test.check_devices(tmp_path, 8)
