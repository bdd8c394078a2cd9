"""Arguments of planned steps: batches by kind of step, and bytes of a chip's shards."""

import jax
import numpy as np

from atlas_jax import partitioning
from atlas_jax.apps.planning import step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from tests.testing import tiny


def test_choices_and_own_passages_are_in_the_batch():
    workload = workload_lib.Workload(tiny.config(), batch_size=4, kind='score', excludes_own_passages=True)
    batch = step_arguments.batch(workload, partitioning.make_mesh(devices=jax.devices()[:1]))
    assert batch.choice_tokens.shape == batch.choice_weights.shape == (4, 4, 3) and batch.choice_weights.dtype == np.float32
    assert batch.excluded_passage_ids.shape == (4, 1)


def test_bytes_of_a_chip_are_those_of_its_shards():
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    tree = {'a': jax.ShapeDtypeStruct((3, 5), np.int8, sharding=partitioning.replicated(mesh)), 'b': None}
    assert step_arguments.chip_bytes(tree) == 15.0 and step_arguments.chip_bytes(()) == 0.0


def test_a_column_has_its_own_last_sizes():
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    table = step_arguments.token_table(step_arguments.columns((3, 5), partitioning.replicated(mesh)), width=7)
    assert (table.tokens.shape, table.tokens.dtype) == ((3, 5, 7), np.uint16)
    assert table.lengths.shape == table.title_lengths.shape == (3, 5) and table.lengths.dtype == np.int32


def test_a_search_reads_the_rows_that_it_scans():
    assert step_arguments.scanned_bytes(None) == 0.0
