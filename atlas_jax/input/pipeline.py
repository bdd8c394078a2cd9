"""Batches for training (shuffled, endless, checkpointable) and for evaluation (in order, the last one filled up)."""

from collections.abc import Iterator, Sequence

import grain.python as grain

from atlas_jax import errors, types
from atlas_jax.input import encode
from atlas_jax.tasks.qa import TaskExample


def training_batches(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int,
                     seed: int) -> grain.DatasetIterator:
    """An endless iterator of numpy Batches, every epoch in another order.

    Its `get_state()` / `set_state(...)` hold one global position: order and content depend on seed and position alone, so a restart
    continues with the very same batches.

    Raises:
      ConfigError: no examples.
    """
    if not examples:
        raise errors.ConfigError('there are no training examples')
    dataset = grain.MapDataset.source(list(examples)).seed(seed).shuffle().repeat()
    dataset = dataset.map(encoder.encode).batch(batch_size, drop_remainder=True, batch_fn=encode.stack)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def evaluation_batches(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int) -> Iterator[types.Batch]:
    """Numpy Batches in the order of `examples`; fillers (example_ids -1) complete the last one."""
    for start in range(0, len(examples), batch_size):
        rows = [encoder.encode(example) for example in examples[start:start + batch_size]]
        yield encode.stack(rows + [encoder.filler()] * (batch_size - len(rows)))
