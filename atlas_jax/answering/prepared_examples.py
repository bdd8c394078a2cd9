"""Examples prepared for a compiled step: makes their batches, has their passages found, runs steps.

Usually the step searches and assembles in the graph. Otherwise the search and the step are two
programs with the host between them: a searcher of the host finds the passages, or the host reads
their tokens or assembles their texts.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from atlas_jax import partitioning, types
from atlas_jax.input import encode
from atlas_jax.knowledge import group as index_group
from atlas_jax.knowledge.token_rows import TokenRows
from atlas_jax.runtime import hosts, progress
from atlas_jax.searchers.host_searcher import HostQueries, HostSearcher
from atlas_jax.steps import search as search_step
from atlas_jax.steps.spec import StepSpec
from atlas_jax.tasks.task import TaskExample

_Item = TypeVar('_Item')
# a batch on the devices, and the passages that were found for it outside the step
Made = tuple[types.Batch, types.Retrieved | None]


@dataclasses.dataclass
class PreparedExamples:
    """Examples prepared for a step.

    Attributes:
      spec: static side of the step.
      encoder: makes rows of batches from examples.
      knowledge: index and token tables that the step reads.
      searcher: searcher of the host; None where the graph searches.
      index: the index with the passages; None in a closed book, or if examples bring their own.
      searched: spec of the search where that is a program of its own, because the host reads or
        assembles the passages; else None.
      token_rows: reads the tokens of the passages found; None where they are on the devices, or
        where the host assembles texts.
    """

    spec: StepSpec
    encoder: encode.ExampleEncoder
    knowledge: types.Knowledge | None = None
    searcher: HostSearcher | None = None
    index: index_group.IndexGroup | None = None
    searched: StepSpec | None = None
    token_rows: TokenRows | None = None

    @property
    def on_host(self) -> bool:
        """True where the host needs the examples themselves to find or assemble passages."""
        return self.searcher is not None or self.assembles

    @property
    def assembles(self) -> bool:
        """True where the host assembles the texts of the passages found."""
        return self.searched is not None and self.token_rows is None

    @property
    def between_programs(self) -> bool:
        """True where the host has work between search and step."""
        return self.searcher is not None or self.searched is not None

    @property
    def together(self) -> bool:
        """True where all processes do the host's part together, so that each must do it at the same
        point between its programs.
        """
        return jax.process_count() > 1 and self.on_host

    @property
    def needs_params(self) -> bool:
        """True where the current parameters find a batch's passages, so that it cannot be made
        earlier.
        """
        if self.searcher is not None:
            return self.searcher.needs_embeddings
        return self.searched is not None

    def batch(self, examples: Sequence[TaskExample], size: int, params: Any) -> Made:
        """Returns a batch on the devices, filled up to `size`, and the passages that were found for
        it outside the step.

        Args:
          examples: at most `size` examples.
          size: batch size; it divides over the mesh.
          params: current parameters, {'retriever', …}; read only where `needs_params`.
        """
        return self.begin(examples, size, params)()

    def training_batch(self, drawn: Any, size: int) -> types.Batch:
        """Returns a batch on the devices, from this process's rows of the training pipeline."""
        return hosts.from_local(drawn, self.sharding(size), size)

    def begin(self, drawn: Sequence[TaskExample] | types.Batch, size: int, params: Any,
              ahead: bool = False) -> Callable[[], Made]:
        """Hands the search for a batch to the devices. Returns a function that waits for it, does
        the host's part, and returns what `batch` returns.

        Args:
          drawn: examples, or a batch on the devices where the host needs no examples.
          size, params: see `batch`.
          ahead: a thread does the host's part now, while the devices work.
        """
        batch = drawn if isinstance(drawn, types.Batch) else self._make_batch(
            drawn, size, bare=self.assembles)
        # The usual way: the step searches and assembles, and this is all the host does.
        if not self.between_programs:
            return lambda: (batch, None)
        spec, embeddings, in_graph = self.searched or self.spec, None, None
        if self.searcher is None:
            # Laid out like the batch, so that each process can read the passages of its own rows.
            in_graph = hosts.place(
                search_step.search_step(spec)(params, batch, self.knowledge), self.sharding(size))
        elif self.searcher.needs_embeddings:
            embeddings = search_step.query_embedder(spec)(params['retriever'], batch)
        examples = () if isinstance(drawn, types.Batch) else drawn

        def finish() -> Made:
            retrieved = in_graph if self.searcher is None else _find_on_host(
                embeddings, batch, examples, self.searcher, spec)
            if self.assembles:
                return self._assembled(examples, size, types.required(retrieved)), retrieved
            return batch, retrieved if self.token_rows is None else self._with_tokens(
                self.token_rows, types.required(retrieved), size)

        # Assembling encodes texts in Python, which would hold up the loop.
        if not ahead or self.together or self.assembles:
            return finish
        if not _side_by_side(self.spec.mesh):
            made = finish()
            return lambda: made
        return _thread().submit(finish).result

    def run(self, step: Callable[..., Any], params: Any, examples: Sequence[TaskExample], size: int,
            label: str | None = None) -> Iterator[tuple[Sequence[TaskExample], Any]]:
        """Yields batches of examples with the result of `step(params, batch, knowledge, retrieved)`
        on the host; with a label it shows a progress bar.
        """
        # In order: the rows of a batch are the examples of a chunk, fillers last.
        with progress.bar(len(examples), label,
                          ' questions') if label else contextlib.nullcontext() as bar:
            # The next batch is made and queued while this one is computed and its answers are read.
            overlaps = _side_by_side(self.spec.mesh)
            started = self._started(step, params, examples, size, overlaps
                                    and self.between_programs)
            for chunk, result in _one_behind(started) if overlaps else started:
                yield chunk, hosts.to_host(result)
                if bar is not None:
                    bar.update(len(chunk))

    def _started(self, step: Callable[..., Any], params: Any, examples: Sequence[TaskExample],
                 size: int, ahead: bool) -> Iterator[tuple[Sequence[TaskExample], Any]]:
        """Yields examples and the result of their step, which the devices may still be computing.
        """
        chunks = [examples[start:start + size] for start in range(0, len(examples), size)]
        begun = ((chunk, self.begin(chunk, size, params, ahead)) for chunk in chunks)
        # The next batch's search is handed over before a step: its passages are then read while the
        # step is computed.
        for chunk, made in _one_behind(begun) if ahead else begun:
            batch, retrieved = made()
            yield chunk, step(params, batch, self.knowledge, retrieved)

    def search(self, params: Any, examples: Sequence[TaskExample], size: int,
               label: str | None = None) -> Iterator[tuple[Sequence[TaskExample], types.Retrieved]]:
        """Searches only, and yields like `run`: spec.top_k passages for each example, or its own
        passages with their scores.
        """

        def step(params, batch: types.Batch, knowledge: types.Knowledge | None,
                 retrieved: types.Retrieved | None) -> types.Retrieved:
            # The host's result is final unless its candidates are re-ranked on the devices.
            rerank = retrieved is not None and self.spec.reranked and batch.passage_tokens is None
            if retrieved is not None and not rerank:
                return retrieved
            return search_step.search_step(self.spec)(params, batch, knowledge, retrieved)

        # Only re-ranking reads the passages' tokens.
        searching = self if self.token_rows is None or self.spec.reranked else dataclasses.replace(
            self, searched=None, token_rows=None)
        return searching.run(step, params, examples, size, label)

    def sharding(self, examples: int) -> jax.sharding.NamedSharding:
        """Returns the layout of a batch of this many examples on the devices."""
        return partitioning.batch_sharding(self.spec.mesh, examples)

    def _make_batch(self, examples: Sequence[TaskExample], size: int,
                    passages_of: Callable[[int], Any] | None = None,
                    bare: bool = False) -> types.Batch:
        """Returns a batch on the devices, fillers at its end; each process makes its own rows.
        `passages_of` returns the passages that a row reads.
        """
        # Fillers complete a batch: shapes are static. Their example_ids are -1 and their weights 0.
        def row(number: int) -> types.Batch:
            if number >= len(examples):
                return self.encoder.filler(bare=bare)
            given = () if passages_of is None else (passages_of(number),)
            return self.encoder.encode(examples[number], *given, bare=bare)

        sharding = self.sharding(size)
        return hosts.from_local(
            encode.stack([row(number) for number in hosts.local_rows(sharding, size)]), sharding,
            size)

    def _with_tokens(self, token_rows: TokenRows, retrieved: types.Retrieved,
                     size: int) -> types.Retrieved:
        """Adds the passages' tokens; each process reads those of its own examples."""
        tables = hosts.from_local(token_rows.read(hosts.own_rows(retrieved.passage_ids)),
                                  self.sharding(size), size)
        return retrieved.replace(reader_rows=tables['reader'],
                                 retriever_rows=tables.get('retriever'))

    def _assembled(self, examples: Sequence[TaskExample], size: int,
                   retrieved: types.Retrieved) -> types.Batch:
        found, index = hosts.to_host(retrieved), types.required(self.index)
        return self._make_batch(
            examples, size, lambda number: [
                index.passage(int(row), self.spec.mesh)
                for row in found.passage_ids[number][np.isfinite(found.scores[number])]])


def _find_on_host(embeddings: jax.Array | None, batch: types.Batch,
                  examples: Sequence[TaskExample], searcher: HostSearcher,
                  spec: StepSpec) -> types.Retrieved:
    """Searches on the host for a batch, and lays the passages found out like it.

    Args:
      embeddings: query embeddings [batch, dim]; None for a searcher that reads the words alone.
      batch: the examples' tokens; its excluded passages are left out.
      examples: the batch's examples without its fillers. A searcher by words searches for the
        question, or for the query of an example without one.
      searcher: the searcher of the host.
      spec: spec.candidates passages are found for each example.
    """
    texts = [example.question or example.query for example in examples]
    # Fillers search for nothing; their results are never read.
    texts += [''] * (batch.example_ids.shape[0] - len(texts))
    queries = HostQueries(texts, None if embeddings is None else hosts.to_host(embeddings))
    excluded = None if batch.excluded_passage_ids is None else hosts.to_host(
        batch.excluded_passage_ids)
    found = searcher.search(queries, spec.candidates, excluded)
    return found.on_devices(partitioning.batch_sharding(spec.mesh, len(texts)))


def _side_by_side(mesh: jax.sharding.Mesh) -> bool:
    """Returns whether two programs may run at once: on a CPU with several devices they could wait
    for each other's collectives.
    """
    return mesh.size == 1 or jax.default_backend() != 'cpu'


@functools.cache
def _thread() -> concurrent.futures.ThreadPoolExecutor:
    # One thread, so that work is done in the order in which it was begun.
    return concurrent.futures.ThreadPoolExecutor(1, 'passages')


def _one_behind(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yields the items in order, each after the next one was made."""
    waiting: list[_Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
