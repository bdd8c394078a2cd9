"""Batches: for training shuffled, endless and with a state to save; for evaluation in order, the last one filled up."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain.python as grain
import jax
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
                     rows: Sequence[int] | None = None, *, ahead: int = 0,
                     finish: Callable[[types.Batch], Any] | None = None) -> ResumableIterator:
    """Returns an endless iterator of numpy Batches, every epoch in another order.

    Its `get_state()` and `set_state(...)` hold one position, the same for all processes: that of the batch taken last, however many are
    made ahead. Order and content, random draws of the task included, depend on seed and position alone, so that a restart continues with
    the same batches.

    Args:
      examples: the training examples.
      encoder: makes rows of them.
      batch_size: rows of a whole batch, over all processes.
      seed: of the order and the task's draws.
      rows: the rows of each batch to make, ascending: a process's own; None makes all.
      ahead: batches that a thread makes while the caller works on the one it has; 0 makes each when it is asked for.
      finish: turns a batch into what the iterator gives, in the same thread; places it on the devices, say.

    Raises:
      ConfigError: no examples.
    """
    rows = range(batch_size) if rows is None else rows
    # Whole batches on every process, of which each makes its rows: so one position serves all.
    batches = _drawn(examples, encoder, seed).batch(batch_size, drop_remainder=True, batch_fn=list)
    return _iterate(batches.map(lambda batch: encode.stack([encoder.encode(batch[row]) for row in rows])), ahead, finish)


def training_examples(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int, seed: int, *, ahead: int = 0,
                      finish: Callable[[list[TaskExample]], Any] | None = None) -> ResumableIterator:
    """Returns an iterator as `training_batches`, but of lists of the examples themselves: for inputs that the host puts together.

    Raises ConfigError: no examples.
    """
    return _iterate(_drawn(examples, encoder, seed).batch(batch_size, drop_remainder=True, batch_fn=list), ahead, finish)


class Pairs(Protocol):
    """Examples of a retriever's own training: queries with passages, drawn anew whenever one comes."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """Stands for the data in the record of a run."""
        ...

    @property
    def passages_each(self) -> int:
        """Passages of an example."""
        ...

    @property
    def widths(self) -> tuple[int, int]:
        """The most tokens of a query and of a passage."""
        ...

    def sampled_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns lengths [n] int of queries and of passages as they will come."""
        ...

    def draw(self, number: int, generator: np.random.Generator) -> types.ContrastiveBatch:
        """Returns one row, numpy arrays without the batch axis; it depends on number and generator alone."""
        ...


def contrastive_batches(pairs: Pairs, batch_size: int, seed: int, rows: Sequence[int] | None = None, *, ahead: int = 0,
                        finish: Callable[[types.ContrastiveBatch], Any] | None = None) -> ResumableIterator:
    """Returns an endless iterator of numpy ContrastiveBatches; arguments, order and state are those of `training_batches`."""
    rows = range(batch_size) if rows is None else rows
    drawn = grain.MapDataset.source(range(len(pairs))).seed(seed).shuffle().repeat().random_map(_Seed())
    batches = drawn.batch(batch_size, drop_remainder=True, batch_fn=list)
    # Every process draws all seeds, which cost little, and makes its own rows of them.
    return _iterate(batches.map(lambda batch: _stacked([pairs.draw(batch[row][0], np.random.default_rng(batch[row][1])) for row in rows])),
                    ahead, finish)


def _stacked(rows: Sequence[types.ContrastiveBatch]) -> types.ContrastiveBatch:
    return jax.tree.map(lambda *columns: np.stack(columns), *rows)


class _Seed(grain.RandomMapTransform):
    """Gives a number a seed of its own, by a generator that Grain seeds from seed and position."""

    def random_map(self, number: int, generator: np.random.Generator) -> tuple[int, int]:
        """Returns the number, and what its generator is made from at this position."""
        # A number, and not the generator: it goes through a batch that other processes make too.
        return int(number), int(generator.integers(1 << 62))


def evaluation_batches(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int) -> Iterator[types.Batch]:
    """Yields numpy Batches in the order of `examples`; fillers (example_ids -1) complete the last one."""
    for start in range(0, len(examples), batch_size):
        rows = [encoder.encode(example) for example in examples[start:start + batch_size]]
        # A short last batch would compile the program once more.
        yield encode.stack(rows + [encoder.filler()] * (batch_size - len(rows)))


def _drawn(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, seed: int) -> grain.MapDataset:
    """Returns the examples by position, endless; a task that draws makes a new example at each position."""
    if not examples:
        raise errors.ConfigError('there are no training examples')
    dataset = grain.MapDataset.source(list(examples)).seed(seed).shuffle().repeat()
    task = encoder.task
    # random_map costs a generator for each example.
    if task is None or not task.draws:
        return dataset
    return dataset.random_map(_Draw(task, encoder))


def _iterate(dataset: grain.MapDataset, ahead: int, finish: Callable[[Any], Any] | None) -> ResumableIterator:
    dataset = dataset if finish is None else dataset.map(finish)
    # One thread: Python makes the rows. Grain counts what was taken, not what was made, so the position stays exact.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=min(ahead, 1), prefetch_buffer_size=ahead)))


class _Draw(grain.RandomMapTransform):
    """Makes another example of an example's row, with a generator that Grain seeds from seed and position."""

    def __init__(self, task: Task, encoder: encode.ExampleEncoder):
        self._task, self._tokenizer = task, encoder.reader_tokenizer

    def random_map(self, example: TaskExample, generator: np.random.Generator) -> TaskExample:
        """Returns the example to train on at this position."""
        assert example.row is not None  # a task that draws keeps it
        drawn = self._task.example(example.row, example.example_id, generator, self._count_tokens)
        assert drawn is not None  # what a task leaves out does not depend on the generator
        return drawn

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))
