"""Refreshes the index while the passage encoder is trained: all of it at some steps, or a part of
it after every step.

The stop-the-world schedule is the paper's (Izacard et al. 2022, section 2.4). A rolling refresh
spreads the same work over all steps, so that training never stops. In both, each device embeds its
own rows, on the flat layout.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from atlas_jax import errors, partitioning, types
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.knowledge.token_rows import TokenRows
from atlas_jax.options import CheckedOptions, option
from atlas_jax.runtime import hosts, notes
from atlas_jax.searchers import int8
from atlas_jax.steps import buckets, retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step

# More updates than any run has; JSON and int64 hold it.
_FOREVER = 2**32
_INTERVAL = re.compile(r'([0-9]+)-([0-9]+):([0-9]+|-1)')
_NUMBER = re.compile(r'[0-9]+|-1')
Numbers = tuple[jax.Array, jax.Array | None]  # embeddings, and their scales where they are int8


@dataclasses.dataclass(frozen=True)
class RefreshConfig(CheckedOptions):
    """When passages are embedded again.

    Attributes:
      schedule: updates at which the whole index is embedded again: "first-last:every,...", such as
        0-1000:500,1000-10000:2000. One number N means every N updates, -1 never. Where intervals
        overlap, the first counts; -1 for `every` means each update.
      rolling_fraction: share of the index that is embedded again after each update, 0 to 1.
      block_passages: number of passages that a device embeds at a time.

    Raises ConfigError for an invalid schedule, or a value out of its range.
    """

    schedule: str = '-1'
    rolling_fraction: float = option(0.0, least=0, most=1)
    block_passages: int = option(128, least=1)

    def __post_init__(self):
        super().__post_init__()
        parse_schedule(self.schedule)

    @property
    def refreshes(self) -> bool:
        """True where anything is ever embedded again."""
        return self.rolling_fraction > 0 or any(every < _FOREVER
                                                for _, _, every in parse_schedule(self.schedule))


def parse_schedule(schedule: str) -> tuple[tuple[int, int, int], ...]:
    """Returns (first, last, every) of each interval, without `last` itself. Raises ConfigError."""
    intervals: list[tuple[int, int, int]] = []
    parts = schedule.split(',') if isinstance(schedule, str) else [str(schedule)]
    for part in parts:
        if interval := _INTERVAL.fullmatch(part.strip()):
            first, last, every = (int(number) for number in interval.groups())
            wrong = '' if every else 'it asks for every 0 steps'
            if first >= last:
                wrong = 'its first step is not before its last'
        # One number is a whole schedule: an interval after it would never count.
        elif len(parts) == 1 and _NUMBER.fullmatch(part.strip()):
            first, last, every = 0, _FOREVER, int(part)
            wrong = '' if every else 'it asks for every 0 steps'
            every = _FOREVER if every == -1 else every
        else:
            first = last = every = 0
            wrong = 'it is not an interval'
        if wrong:
            raise errors.ConfigError(f'RefreshConfig.schedule is {str(schedule)!r}, of which '
                                     f'"{part}" is wrong: {wrong}; write first-last:every, as '
                                     '0-1000:500,1000-10000:2000, or one number, -1 for never')
        intervals.append((first, last, every))
    return tuple(intervals)


def is_due(schedule: str, updates_done: int, freeze_retriever_steps: int = 0) -> bool:
    """Returns whether the whole index must be embedded again before the next update.

    While the retriever is frozen, only step 0 can be due. The caller skips step 0: the index that a
    run starts with fits its encoder.
    """
    for first, last, every in parse_schedule(schedule):
        # The first interval that contains the step decides, as in the original.
        if first <= updates_done < last:
            due = every < 0 or (updates_done - first) % every == 0
            return due and (updates_done == 0 or updates_done >= freeze_retriever_steps)
    return False


class Refresher:
    """Embeds blocks of the index again, in turn, and tracks their age.

    A block is the same few rows on every device. `generations` [blocks] int32 is the number of
    updates after which each was embedded.
    """

    def __init__(self, spec: spec_lib.StepSpec, config: RefreshConfig, rows: int,
                 lengths: types.TokenLengths, token_rows: TokenRows | None = None):
        """Compiles the program for one block.

        Args:
          spec: static side of the train step.
          config: schedule and block size.
          rows: rows of the index on the devices.
          lengths: see make_step_spec.
          token_rows: reads the passages' tokens, if they are not on the devices.
        """
        self.spec, self.config, self._token_rows = spec, config, token_rows
        self._local_rows = rows // spec.mesh.size
        # One program for all blocks: they have the same size on every device.
        self._block = min(config.block_passages, self._local_rows)
        # The last block may overlap the one before, so that all have one shape.
        blocks = math.ceil(self._local_rows / self._block)
        self.generations = np.zeros(blocks, np.int32)
        self._next, self._owed = 0, 0.0
        sample, limit = spec_lib.embedded_lengths(spec.segments.retriever, lengths,
                                                  spec.config.retriever_max_tokens)
        capacities = buckets.capacities(sample, self._block, limit, spec.streams)
        self.program = compile_step(_embed_block, spec, self._block, capacities, donate=(0,))

    def after_update(self, knowledge: types.Knowledge, params: Any,
                     updates_done: int) -> types.Knowledge:
        """Returns the knowledge for the next update. The old knowledge must not be used again: its
        buffers may have been overwritten.
        """
        frozen = self.spec.distillation.freeze_retriever_steps
        # Not before the first update: the run's first encoder embedded the index.
        if updates_done and is_due(self.config.schedule, updates_done, frozen):
            return self.whole(knowledge, params, updates_done)
        # The encoder has not changed yet.
        if updates_done < frozen:
            return knowledge
        # Fractions of a block add up: 1 % of 30 blocks is one block in about three steps.
        self._owed += self.config.rolling_fraction * len(self.generations)
        # Rounding may leave the sum just below 1.
        while self._owed >= 1 - 1e-9:
            knowledge = self._refresh(knowledge, params, self._next, updates_done)
            self._next = (self._next + 1) % len(self.generations)
            self._owed -= 1
        return knowledge

    def whole(self, knowledge: types.Knowledge, params: Any, updates_done: int) -> types.Knowledge:
        """Returns the knowledge with every passage embedded by the current passage encoder."""
        for block in range(len(self.generations)):
            knowledge = self._refresh(knowledge, params, block, updates_done)
        return knowledge

    def ages(self, updates_done: int) -> dict[str, float]:
        """Returns the mean and the largest age of the blocks, in updates."""
        ages = updates_done - self.generations
        return {'index_age_mean': float(ages.mean()), 'index_age_max': float(ages.max())}

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint besides the embeddings, as JSON values."""
        return {'generations': self.generations.tolist(), 'next': self._next, 'owed': self._owed}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a `state`. Raises ConfigError: the index was cut into other blocks."""
        if len(state['generations']) != len(self.generations):
            raise errors.ConfigError('the checkpoint\'s index was refreshed in '
                                     f'{len(state["generations"])} blocks, this run has '
                                     f'{len(self.generations)}; give the same block_passages and '
                                     'number of devices, or another run_dir')
        self.generations = np.asarray(state['generations'], np.int32)
        self._next, self._owed = state['next'], state['owed']

    def _refresh(self, knowledge: types.Knowledge, params: Any, block: int,
                 updates_done: int) -> types.Knowledge:
        # the last block may repeat some rows
        start = min(block * self._block, self._local_rows - self._block)
        encoder = params.get('passage_encoder', params['retriever'])
        # Only the numbers are donated: valid rows and rotation do not change.
        columns = [_numbers(types.required(knowledge.index))]
        if knowledge.scanned is not None:
            columns.append(_numbers(knowledge.scanned.rows))
        rotation = None if knowledge.scanned is None else knowledge.scanned.rotation
        table = knowledge.retriever_table if self._token_rows is None else self._read(
            self._token_rows, start)
        index, *copy = self.program(columns, encoder, table, np.int32(start), rotation)
        self.generations[block] = updates_done
        knowledge = knowledge.replace(index=_with_numbers(types.required(knowledge.index), index))
        if knowledge.scanned is None:
            return knowledge
        return knowledge.replace(scanned=knowledge.scanned.replace(
            rows=_with_numbers(knowledge.scanned.rows, copy[0])))

    def _read(self, token_rows: TokenRows, start: int) -> types.TokenTable:
        """Returns a block's passages on their devices, each device's rows from `start` on: [streams
        * block, ...].
        """
        streams = self.spec.streams
        rows = (np.arange(streams)[:, None] * self._local_rows +
                np.arange(start, start + self._block)).reshape(-1)
        sharding = partitioning.sharding(self.spec.mesh, 'passages')
        own = token_rows.side('retriever', rows[hosts.local_rows(sharding, len(rows))])
        return hosts.from_local(own, sharding, len(rows))


def scanned_again(scanned: types.ScannedRows | None, index: types.IndexArrays,
                  spec: spec_lib.StepSpec) -> types.ScannedRows | None:
    """Makes the int8 copy of a changed index with the same rotation; None if there was no copy."""
    return None if scanned is None else int8.scanned_by(index, spec.mesh, spec.search.metric,
                                                        scanned.rotation)


def _numbers(arrays: types.IndexArrays) -> Numbers:
    return arrays.embeddings, arrays.scales


def _with_numbers(arrays: types.IndexArrays, numbers: Numbers) -> types.IndexArrays:
    return arrays.replace(embeddings=numbers[0], scales=numbers[1])


def _embed_block(spec: spec_lib.StepSpec, block: int, capacities: tuple[buckets.Capacity, ...],
                 columns: list[Numbers], encoder: Any, table: types.TokenTable, start: jax.Array,
                 rotation: jax.Array | None) -> list[Numbers]:
    """Embeds `block` rows of every device again and writes them in place; the compiled step donates
    `columns`.

    Args:
      spec: static side of the train step.
      block: rows of a block on each device.
      capacities: capacities of the stream of a block, smallest first.
      columns: the numbers of the index, and of its int8 copy if there is one.
      encoder: the passage encoder's parameters.
      table: retriever tokens of all passages, or of the block alone.
      start: scalar int32, the first row on each device.
      rotation: [dim, scanned dim] float32, rotation of the int8 copy; None without a copy.
    """
    axes = spec.mesh.axis_names
    by_rows, everywhere = PartitionSpec(axes), PartitionSpec()

    def take(table: types.TokenTable, start: jax.Array) -> types.TokenTable:
        return jax.tree.map(lambda column: jax.lax.dynamic_slice_in_dim(column, start, block),
                            table)

    def put(old: Any, new: Any, start: jax.Array) -> Any:
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0), old, new)

    # Each device slices its own rows. A slice of the global array would gather from all devices.
    rows = table
    if len(table.lengths) > spec.streams * block:
        rows = jax.shard_map(take, mesh=spec.mesh, in_specs=(by_rows, everywhere),
                             out_specs=by_rows)(table, start)
    # [streams, block, width], [streams, block]
    tokens, lengths = retrieve.retriever_inputs(rows, (spec.streams, block), spec)

    def embed_at(capacity: buckets.Capacity) -> Callable[[], jax.Array]:
        return lambda: retrieve.embed(
            encoder, retrieve.pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest),
            spec)

    embeddings = jax.lax.switch(buckets.level([(lengths, capacities)]),
                                [embed_at(capacity) for capacity in capacities])
    flat = partitioning.constrain(embeddings.reshape(spec.streams * block, -1), spec.mesh,
                                  'passages', None)
    fresh = [_as_stored(flat, *columns[0])] + [
        int8.scan_form(flat, rotation, spec.search.metric) for _ in columns[1:]]
    return jax.shard_map(put, mesh=spec.mesh, in_specs=(by_rows, by_rows, everywhere),
                         out_specs=by_rows)(columns, fresh, start)


def _as_stored(fresh: jax.Array, embeddings: jax.Array, scales: jax.Array | None) -> Numbers:
    """Returns fresh embeddings [n, dim] float32 in the type of the stored ones, with their scales.
    """
    if scales is None:
        return fresh.astype(embeddings.dtype), None
    return int8.quantize(fresh)


def refresher_of(config: RefreshConfig | None,
                 prepared: PreparedExamples) -> Refresher | None:
    """Returns the refresher of the index; None if nothing is ever embedded again. A run that trains
    the passage encoder gets a note then.

    Raises ConfigError: the index cannot be refreshed.
    """
    if config is None or not config.refreshes:
        spec = prepared.spec
        ranks_by_index = prepared.index is not None and not spec.search.rerank_candidates
        if spec.embeds_passages and ranks_by_index:
            # On the Factbook this costs more than the trained encoder gains (docs/evidence.md), and
            # "joint" is the default.
            notes.say_once('the passage encoder is trained and the index stays as it was embedded '
                           'before: the reader will meet other passages after training than in '
                           'it; refresh the index (RefreshConfig), or choose '
                           'DistillConfig.retriever_training "query_side"')
        return None
    knowledge = prepared.knowledge
    if not prepared.spec.embeds_passages or knowledge is None or knowledge.index is None:
        raise errors.ConfigError('a refresh embeds the index again by a passage encoder that is '
                                 'trained: it needs an index that is searched on the devices, '
                                 'and retriever_training "joint" or "untied"')
    if knowledge.codes is not None:
        raise errors.ConfigError('the searcher "codes" scans codes of the index as it is on disk, '
                                 'and a refresh embeds it again; choose another searcher, or no '
                                 'refresh and `atlas-jax index build` and `compress` after '
                                 'training')
    # A copy: the refresher overwrites these buffers.
    index, scanned = jax.tree.map(lambda leaf: leaf.copy(), (knowledge.index, knowledge.scanned))
    prepared.knowledge = knowledge.replace(index=index, scanned=scanned)
    lengths = types.required(prepared.index).token_lengths(np.zeros(1, np.int64))
    return Refresher(prepared.spec, config, index.valid.shape[0], lengths, prepared.token_rows)


def numbers_of(knowledge: types.Knowledge | None) -> Numbers:
    """Returns the arrays that a refresh changes: embeddings [rows, dim] and their scales [rows]."""
    index = types.required(types.required(knowledge).index)
    return index.embeddings, index.scales


def restored(prepared: PreparedExamples, restore: Callable[[Any], Any]) -> types.Knowledge:
    """Returns the knowledge with the refreshed embeddings of a checkpoint; `restore` reads a tree
    of given shapes and layouts.
    """
    knowledge = types.required(prepared.knowledge)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        numbers_of(knowledge))
    # Straight onto the devices: no process can hold the whole index.
    embeddings, scales = restore(shapes)
    index = types.required(knowledge.index).replace(embeddings=embeddings, scales=scales)
    return knowledge.replace(index=index, scanned=scanned_again(knowledge.scanned, index,
                                                                prepared.spec))
