"""Training batches: shuffled, endless, with a position that can be saved."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grain.python as grain
import jax
import numpy as np

from atlas_jax import errors, types
from atlas_jax.input import encode
from atlas_jax.tasks.task import Task, TaskExample


class ResumableIterator(Protocol):
    """An endless iterator whose position can be saved, such as Grain's."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]:
        """Returns the position as JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` returned."""


def training_batches(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder,
                     batch_size: int, seed: int, rows: Sequence[int] | None = None, *,
                     ahead: int = 0,
                     finish: Callable[[types.Batch], Any] | None = None) -> ResumableIterator:
    """Returns an endless iterator of numpy Batches, in a new order every epoch.

    `get_state()` returns the position after the batch taken last, however many are made ahead; it
    is the same on all processes. Order and content, including a task's random draws, depend on
    seed and position only, so a restart continues with the same batches.

    Args:
      examples: The training examples.
      encoder: Encodes examples as rows.
      batch_size: Rows of a whole batch, over all processes.
      seed: Seeds the order and the task's draws.
      rows: The rows of each batch that this process makes, ascending; None makes all.
      ahead: Batches that a thread makes ahead; 0 makes each on demand.
      finish: Converts a batch in that thread, for example places it on the devices.

    Raises:
      ConfigError: no examples.
    """
    rows = range(batch_size) if rows is None else rows
    # Every process draws whole batches and makes its own rows of them: one position serves all.
    batches = _drawn(examples, encoder, seed).batch(batch_size, drop_remainder=True, batch_fn=list)
    return _iterate(
        batches.map(lambda batch: encode.stack([encoder.encode(batch[row]) for row in rows])),
        ahead, finish)


def training_examples(
        examples: Sequence[TaskExample], encoder: encode.ExampleEncoder, batch_size: int, seed: int,
        *, ahead: int = 0,
        finish: Callable[[list[TaskExample]], Any] | None = None) -> ResumableIterator:
    """Returns an iterator like `training_batches`, but of lists of examples.

    For inputs that the host assembles.

    Raises ConfigError: no examples.
    """
    return _iterate(
        _drawn(examples, encoder, seed).batch(batch_size, drop_remainder=True, batch_fn=list),
        ahead, finish)


class Pairs(Protocol):
    """Examples of contrastive training: queries with passages, drawn again at every use."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """Identifies the data in a run's record."""
        ...

    @property
    def passages_each(self) -> int:
        """Passages per example."""
        ...

    @property
    def widths(self) -> tuple[int, int]:
        """Tokens of the longest query and of the longest passage."""
        ...

    def sampled_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns typical lengths [n] int of queries and of passages."""
        ...

    def draw(self, number: int, generator: np.random.Generator) -> types.ContrastiveBatch:
        """Returns one row as numpy arrays without the batch axis.

        It depends on `number` and `generator` only.
        """
        ...


def contrastive_batches(
        pairs: Pairs, batch_size: int, seed: int, rows: Sequence[int] | None = None, *,
        ahead: int = 0,
        finish: Callable[[types.ContrastiveBatch], Any] | None = None) -> ResumableIterator:
    """Returns an endless iterator of numpy ContrastiveBatches, like `training_batches`."""
    rows = range(batch_size) if rows is None else rows
    drawn = grain.MapDataset.source(range(len(pairs))).seed(seed).shuffle().repeat().random_map(
        _Seed())
    batches = drawn.batch(batch_size, drop_remainder=True, batch_fn=list)
    # Every process draws all seeds, which is cheap, and makes its own rows of them.
    return _iterate(
        batches.map(lambda batch: _stacked([
            pairs.draw(batch[row][0], np.random.default_rng(batch[row][1])) for row in rows])),
        ahead, finish)


def _stacked(rows: Sequence[types.ContrastiveBatch]) -> types.ContrastiveBatch:
    return jax.tree.map(lambda *columns: np.stack(columns), *rows)


class _Seed(grain.RandomMapTransform):
    """Pairs a number with a random seed; Grain seeds the generator by seed and position."""

    def random_map(self, number: int, generator: np.random.Generator) -> tuple[int, int]:
        """Returns the number and the seed of its generator at this position."""
        # A seed in place of a generator: whole batches are drawn on every process.
        return int(number), int(generator.integers(1 << 62))


def _drawn(examples: Sequence[TaskExample], encoder: encode.ExampleEncoder,
           seed: int) -> grain.MapDataset:
    """Returns the endless examples by position; a task that draws makes a new one at each."""
    if not examples:
        raise errors.ConfigError('there are no training examples')
    dataset = grain.MapDataset.source(list(examples)).seed(seed).shuffle().repeat()
    task = encoder.task
    # random_map makes a generator for each example, so it is skipped where it can be.
    if task is None or not task.draws:
        return dataset
    return dataset.random_map(_Draw(task, encoder))


def _iterate(dataset: grain.MapDataset, ahead: int,
             finish: Callable[[Any], Any] | None) -> ResumableIterator:
    dataset = dataset if finish is None else dataset.map(finish)
    # One thread, since Python makes the rows. Grain counts batches taken, not batches made, so the
    # position is exact.
    return iter(
        dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=min(ahead, 1), prefetch_buffer_size=ahead)))


class _Draw(grain.RandomMapTransform):
    """Draws an example from a row again; Grain seeds the generator by seed and position."""

    def __init__(self, task: Task, encoder: encode.ExampleEncoder):
        self._task, self._tokenizer = task, encoder.reader_tokenizer

    def random_map(self, example: TaskExample, generator: np.random.Generator) -> TaskExample:
        """Returns the example to train on at this position."""
        assert example.row is not None  # a task that draws keeps it
        drawn = self._task.example(example.row, example.example_id, generator, self._count_tokens)
        assert drawn is not None  # whether a task leaves a row out is not random
        return drawn

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))
