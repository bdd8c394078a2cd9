"""Batches for training (shuffled, endless, checkpointable) and for evaluation (in order, the last one filled up)."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain.python as grain
import numpy as np

from atlas_jax import errors, types
from atlas_jax.input import encode
from atlas_jax.tasks.task import Task, TaskExample


class ResumableIterator(Protocol):
    """An endless iterator whose position can be saved: Grain's."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]:
        """Returns the position as JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position of `get_state`."""


def training_batches(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int, seed: int,
                     rows: Sequence[int] | None = None) -> ResumableIterator:
    """An endless iterator of numpy Batches, every epoch in another order.

    `rows` are those of each batch that are made, ascending: a process's own; None makes all.

    Its `get_state()` / `set_state(...)` hold one global position: order and content depend on seed and position alone, what the task draws
    included, so a restart continues with the very same batches.

    Raises:
      ConfigError: no examples.
    """
    rows = range(batch_size) if rows is None else rows
    batches = _drawn(examples, encoder, seed).batch(batch_size, drop_remainder=True, batch_fn=list)
    return _iterate(batches.map(lambda batch: encode.stack([encoder.encode(batch[row]) for row in rows])))


def training_examples(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int,
                      seed: int) -> ResumableIterator:
    """As `training_batches`, but lists of the examples themselves: for inputs that are put together on the host."""
    return _iterate(_drawn(examples, encoder, seed).batch(batch_size, drop_remainder=True, batch_fn=list))


def evaluation_batches(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int) -> Iterator[types.Batch]:
    """Numpy Batches in the order of `examples`; fillers (example_ids -1) complete the last one."""
    for start in range(0, len(examples), batch_size):
        rows = [encoder.encode(example) for example in examples[start:start + batch_size]]
        yield encode.stack(rows + [encoder.filler()] * (batch_size - len(rows)))


def _drawn(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, seed: int) -> grain.MapDataset:
    """The examples by position, endless; one that its task draws is drawn anew at each position."""
    if not examples:
        raise errors.ConfigError('there are no training examples')
    dataset = grain.MapDataset.source(list(examples)).seed(seed).shuffle().repeat()
    task = encoder.task
    if task is None or not task.draws:
        return dataset
    return dataset.random_map(_Draw(task, encoder))


def _iterate(dataset: grain.MapDataset) -> ResumableIterator:
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


class _Draw(grain.RandomMapTransform):
    """Makes another example of an example's row, by a generator that Grain seeds with seed and position."""

    def __init__(self, task: Task, encoder: encode.ExampleEncoder):
        self._task, self._tokenizer = task, encoder.reader_tokenizer

    def random_map(self, example: TaskExample, generator: np.random.Generator) -> TaskExample:
        return self._task.example(example.row, example.example_id, generator, lambda text: len(self._tokenizer.encode(text)))
