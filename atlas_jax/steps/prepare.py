"""Makes examples ready for a compiled step: the index it retrieves from, or the passages it is given, and one batch after another.

Training, answering, scoring and evaluation all go through `prepare`. The fast way is a step that searches and assembles in the graph. Two
programs with the host between them are the other way: where a searcher of the host finds the passages, where their tokens lie on the host
(SearchConfig.tokens), or where a format's fields touch other text, so that the host assembles the texts and the step reads given passages;
as it does where examples bring their own.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.passages import ScoredPassage
from atlas_jax.input import encode, text_inputs
from atlas_jax.io import file_list
from atlas_jax.knowledge import group as index_group
from atlas_jax.knowledge.index import Index
from atlas_jax.knowledge.token_rows import TokenRows
from atlas_jax.model import AtlasModel
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.runtime import hosts, progress
from atlas_jax.searchers import config as search_config
from atlas_jax.searchers.host_searcher import HostSearcher
from atlas_jax.steps import buckets, given
from atlas_jax.steps import search as search_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import task as task_lib
from atlas_jax.tasks.task import TaskExample
from atlas_jax.tokenizers import formats

_Item = TypeVar('_Item')
Made = tuple[types.Batch, types.Retrieved | None]  # a batch on the devices, and what was found for it outside of the step
Searched = Index | Sequence[Index] | index_group.IndexGroup | None

# Of a step that answers: the next questions should find it compiled. Empty places cost the retriever a few tokens a question.
_QUERY_WIDTHS = (64, 128, 256, 512)
_NAMED_LINES = 9  # of those with an empty target
_SAMPLED_EXAMPLES = 1000  # whose passages are measured before the first step, where they are the examples' own


def read_examples(atlas: AtlasModel, paths: file_list.Paths, *, training: bool = False, labelled: bool = True,
                  max_rows: int | None = None) -> list[TaskExample]:
    """Reads the examples of files for the model's task; prints how many targets are over the limit, or empty.

    Raises:
      InputFileError: as the task's read_examples.
    """
    # Some tasks mask a share of a text's tokens, so they need to count them.
    tokenizer = atlas.reader_tokenizer
    examples = task_lib.read_examples(paths, atlas.task, training=training, labelled=labelled, max_rows=max_rows,
                                      count_tokens=lambda text: len(tokenizer.encode(text)))
    # Said, not refused: pre-training texts are longer than the limit by nature.
    cut = atlas.encoder().count_clipped_targets(examples)
    if cut:
        print(f'{file_list.shown(paths)}: {cut} of {len(examples)} targets were cut at {atlas.inputs.target_limit} tokens; '
              'raise target_max_tokens to keep them whole', flush=True)
    empty = [example for example in examples if not atlas.task.answer_text(example.target)]
    if empty and labelled:
        where = task_lib.places(empty, _NAMED_LINES)
        print(f'{where}: {len(empty)} of {len(examples)} targets are empty; look at their labels', flush=True)
    return examples


@dataclasses.dataclass
class Prepared:
    """Examples made ready for a step.

    Attributes:
      spec: what the step is compiled for.
      encoder: makes rows of examples.
      knowledge: what the step reads besides the batch.
      searcher: of the host; None where the graph searches.
      index: where the passages are; None in a closed book and where examples bring their own.
      searched: spec of the search alone, where it is a program of its own: the host reads or assembles what was found.
      token_rows: reads the tokens of what was found; None where they lie on the devices, and where the host assembles texts.
    """

    spec: spec_lib.StepSpec
    encoder: encode.ExampleEncoder
    knowledge: types.Knowledge | None = None
    searcher: HostSearcher | None = None
    index: index_group.IndexGroup | None = None
    searched: spec_lib.StepSpec | None = None
    token_rows: TokenRows | None = None

    @property
    def on_host(self) -> bool:
        """True where the host finds or assembles passages between two programs, by the examples themselves."""
        return self.searcher is not None or self.assembles

    @property
    def assembles(self) -> bool:
        """True where the host puts together the texts of what was found."""
        return self.searched is not None and self.token_rows is None

    @property
    def between_programs(self) -> bool:
        """True where the host has something to do between search and step."""
        return self.searcher is not None or self.searched is not None

    @property
    def together(self) -> bool:
        """True where the host's part is done by all processes together, so that each must do it at the same place among its programs."""
        return jax.process_count() > 1 and self.on_host

    @property
    def needs_params(self) -> bool:
        """True where a batch's passages are found by the parameters of the moment, so that it cannot be made before these are known."""
        return self.searched is not None if self.searcher is None else self.searcher.needs_embeddings

    def batch(self, examples: Sequence[TaskExample], size: int, params: Any) -> Made:
        """A batch on the devices, filled up to `size`, and what was found for it outside of the step.

        Args:
          examples: at most `size`.
          size: divides over the mesh.
          params: {'retriever', …} of the moment; read only where `needs_params`.
        """
        return self.begin(examples, size, params)()

    def training_batch(self, drawn: Any, size: int) -> types.Batch:
        """A batch on the devices, of the rows of this process that the training pipeline yields."""
        return hosts.from_local(drawn, self.sharding(size), size)

    def begin(self, drawn: Sequence[TaskExample] | types.Batch, size: int, params: Any, ahead: bool = False) -> Callable[[], Made]:
        """Hands the search for a batch to the devices; returns what waits for it, does the host's part, and gives what `batch` gives.

        Args:
          drawn: examples, or a batch on the devices where the host needs none of them.
          size, params: as of `batch`.
          ahead: a thread does the host's part now, while the devices go on.
        """
        batch = drawn if isinstance(drawn, types.Batch) else self._made(drawn, size, bare=self.assembles)
        # The usual way: the step searches and assembles, and this is all the host does.
        if not self.between_programs:
            return lambda: (batch, None)
        spec, embeddings, found = self.searched or self.spec, None, None
        if self.searcher is None:
            # As the batch lies, so that each process can read what was found for its own rows.
            found = hosts.place(search_step.search_step(spec)(params, batch, self.knowledge), self.sharding(size))
        elif self.searcher.needs_embeddings:
            embeddings = search_step.query_embedder(spec)(params['retriever'], batch)
        examples = () if isinstance(drawn, types.Batch) else drawn

        def finish() -> Made:
            retrieved = found
            if retrieved is None:
                retrieved = search_step.find_on_host(embeddings, batch, examples, types.required(self.searcher), spec)
            if self.assembles:
                return self._assembled(examples, size, retrieved), retrieved
            return batch, retrieved if self.token_rows is None else self._with_tokens(self.token_rows, retrieved, size)

        # Assembling encodes texts, which is Python's and would hold up the loop.
        if not ahead or self.together or self.assembles:
            return finish
        if not _side_by_side(self.spec.mesh):
            made = finish()
            return lambda: made
        return _thread().submit(finish).result  # ends: `finish` hands the thread no work of its own, for which it would wait

    def run(self, step: Callable[..., Any], params: Any, examples: Sequence[TaskExample], size: int,
            label: str | None = None) -> Iterator[tuple[Sequence[TaskExample], Any]]:
        """Yields examples and what `step(params, batch, knowledge, retrieved)` says of them, on the host; with a label shows a bar."""
        # In order: the rows of a batch are the examples of a chunk, fillers last.
        with progress.bar(len(examples), label, ' questions') if label else contextlib.nullcontext() as bar:
            # The next batch is made, and waits for its turn on the devices, while this one is computed and its answers are read.
            overlaps = _side_by_side(self.spec.mesh)
            started = self._started(step, params, examples, size, overlaps and self.between_programs)
            for chunk, result in _one_behind(started) if overlaps else started:
                yield chunk, hosts.to_host(result)
                if bar is not None:
                    bar.update(len(chunk))

    def _started(self, step: Callable[..., Any], params: Any, examples: Sequence[TaskExample], size: int,
                 ahead: bool) -> Iterator[tuple[Sequence[TaskExample], Any]]:
        """Yields examples and the result of their step, on the devices, where it may still be computed."""
        chunks = [examples[start:start + size] for start in range(0, len(examples), size)]
        begun = ((chunk, self.begin(chunk, size, params, ahead)) for chunk in chunks)
        # Before a step is handed over the next batch's search is: its passages are then read while the step is computed.
        for chunk, made in _one_behind(begun) if ahead else begun:
            batch, retrieved = made()
            yield chunk, step(params, batch, self.knowledge, retrieved)

    def search(self, params: Any, examples: Sequence[TaskExample], size: int,
               label: str | None = None) -> Iterator[tuple[Sequence[TaskExample], types.Retrieved]]:
        """Yields, as `run` does, the search alone: spec.top_k passages an example, or its own with their scores."""
        def step(params, batch: types.Batch, knowledge: types.Knowledge | None, retrieved: types.Retrieved | None) -> types.Retrieved:
            # What the host has found is final unless its candidates are re-ranked on the devices.
            rerank = retrieved is not None and self.spec.reranked and batch.passage_tokens is None
            if retrieved is not None and not rerank:
                return retrieved
            return search_step.search_step(self.spec)(params, batch, knowledge, retrieved)

        # Nobody reads the passages unless they are re-ranked by what they say.
        searching = self if self.token_rows is None or self.spec.reranked else dataclasses.replace(self, searched=None, token_rows=None)
        return searching.run(step, params, examples, size, label)

    def sharding(self, examples: int) -> jax.sharding.NamedSharding:
        """Returns the layout of a batch of so many examples on the devices."""
        return partitioning.batch_sharding(self.spec.mesh, examples)

    def _made(self, examples: Sequence[TaskExample], size: int, passages_of: Callable[[int], Any] | None = None,
              bare: bool = False) -> types.Batch:
        """A batch on the devices, fillers at its end; each process makes its own rows. `passages_of` gives a row passages to read."""
        # Fillers complete a batch: shapes are static. Their example_ids are -1 and their weights 0.
        def row(number: int) -> types.Batch:
            if number >= len(examples):
                return self.encoder.filler(bare=bare)
            given = () if passages_of is None else (passages_of(number),)
            return self.encoder.encode(examples[number], *given, bare=bare)

        sharding = self.sharding(size)
        return hosts.from_local(encode.stack([row(number) for number in hosts.local_rows(sharding, size)]), sharding, size)

    def _with_tokens(self, token_rows: TokenRows, retrieved: types.Retrieved, size: int) -> types.Retrieved:
        """Adds the passages' tokens; each process reads those of its own examples."""
        tables = hosts.from_local(token_rows.read(hosts.own_rows(retrieved.passage_ids)), self.sharding(size), size)
        return retrieved.replace(reader_rows=tables['reader'], retriever_rows=tables.get('retriever'))

    def _assembled(self, examples: Sequence[TaskExample], size: int, retrieved: types.Retrieved) -> types.Batch:
        found, index = hosts.to_host(retrieved), self.index
        assert index is not None  # something was searched
        return self._made(examples, size, lambda number: [
            index.passage(int(row), self.spec.mesh) for row in found.passage_ids[number][np.isfinite(found.scores[number])]])


def prepare(atlas: AtlasModel, examples: Sequence[TaskExample], index: Searched, n_context: int, batch_size: int, *,
            use_file_passages: bool = False, distill: spec_lib.DistillConfig | None = None,
            step: spec_lib.StepConfig | None = None, search: search_config.SearchConfig | str | None = None, force_host: bool = False,
            knowledge: types.Knowledge | None = None) -> Prepared:
    """Chooses the way and makes the spec.

    Args:
      atlas: the model.
      index: one index or several; None for a closed book, and where examples bring their passages.
      examples: all that will come, or (where their task draws) some like them.
      n_context: passages read; 0 is a closed book.
      batch_size: of a micro-batch; divides over the atlas's mesh.
      use_file_passages: the examples' own passages are read, nothing is retrieved.
      distill, step, search: see spec.make_spec; `search` may be the name of a searcher.
      force_host: assembles on the host though the graph could.
      knowledge: of the index, as it is now on the devices, where it is no longer what is on disk.

    Raises:
      ConfigError: the options contradict each other, or the options of a multiple choice do not fit into the reader's input.
    """
    group = index_group.of(index)
    if use_file_passages and (group is not None or n_context == 0):
        raise errors.ConfigError('use_file_passages reads the examples\' own passages: it needs n_context of at least 1, and no index')
    config, encoder = dataclasses.replace(atlas.config, n_context=n_context, inputs=atlas.inputs), atlas.encoder()
    # The search alone, where it is a program of its own; it computes in the model's own dtypes.
    searching = spec_lib.StepSpec(config, atlas.segments, atlas.mesh, read=(), distill=distill, search=search_config.of(search))
    # The widest query sets the program's width, so it is looked for before anything is traced.
    query_lengths = encoder.fit_queries(examples, () if distill else _QUERY_WIDTHS)
    if distill is None:
        # Capacities for any questions that are about as long. Of many the mean is known better than of one, and a closed book has no more.
        multiple = _QUERY_WIDTHS[0] // (1 if 0 < batch_size * n_context <= buckets.A_HANDFUL else 2)
        query_lengths = -(-query_lengths // multiple) * multiple
    for note in encoder.notes:
        say_once(note)
    # An example made from a passage must not find it: the answer would stand there.
    encoder.kept_rows = _kept_rows(atlas, examples, group)
    # Tokens of a joined text differ where a field touches other text; the graph can only join token ids.
    reason = formats.touching(config.inputs.encoder_format if n_context else config.inputs.closed_book_format)
    if use_file_passages or reason or force_host:
        if reason:
            print(f'{reason}; so the host puts the inputs together, which is slower than in the compiled step', flush=True)
        encoder.passages = _passage_encoder(atlas, searching, encoder)
        if group is None:
            lengths = _measured(encoder.passages, examples)
        else:
            lengths = _assembled_lengths(encoder.passages, group.token_lengths(query_lengths))
        spec = given.make_spec(config, None, atlas.mesh, *_within_limits(lengths, config), batch_size, distill, step=step,
                               search=searching.search)
        if group is None:
            return Prepared(spec, encoder)
        return Prepared(spec, encoder, *_held(atlas, group, searching, knowledge), group, searching)
    # A closed book reads no passage.
    nothing = np.zeros(1, np.int64)
    token_lengths = types.TokenLengths(nothing, nothing, query_lengths) if group is None else group.token_lengths(query_lengths)
    spec = spec_lib.make_spec(config, atlas.segments, atlas.mesh, token_lengths, batch_size, distill, step, searching.search)
    held = _held(atlas, group, spec, knowledge)
    if group is None or not spec.tokens_on_host:
        return Prepared(spec, encoder, *held, group)
    token_rows = TokenRows(group, atlas, spec.needs_retriever_tokens)
    return Prepared(spec, encoder, *held, group, search_step.alone(spec), token_rows)


def _kept_rows(atlas: AtlasModel, examples: Sequence[TaskExample], group: index_group.IndexGroup | None) -> dict[int, list[int]] | None:
    """Returns the rows that an example must not be given (index_group.kept_rows); says how many examples from passages have none."""
    kept = index_group.kept_rows(group, examples, atlas.mesh)
    # Of these tasks the target is a part of a passage, and a file without ids would train retrieval of what gives it away.
    if group is not None and atlas.task.label == 'text' and (
            missing := sum(not (kept or {}).get(example.example_id) for example in examples)):
        say_once(f'{missing} of {len(examples)} texts: no passage of their "id" is in the index; if it holds them under other names, they '
                 'are retrieved and give the target away: `atlas-jax index passages` writes a file with its ids')
    return kept


def _side_by_side(mesh: jax.sharding.Mesh) -> bool:
    """Returns whether two programs may be under way: on a CPU with several devices they may wait for each other's collectives."""
    return mesh.size == 1 or jax.default_backend() != 'cpu'


@functools.cache
def _thread() -> concurrent.futures.ThreadPoolExecutor:
    # One, so that what was begun first is done first.
    return concurrent.futures.ThreadPoolExecutor(1, 'passages')


def _one_behind(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yields the items in order, each when the next one was made."""
    waiting: list[_Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


# An evaluation prepares its examples more than once, and a training run for every evaluation.
@functools.lru_cache(256)
def say_once(note: str) -> None:
    """Prints a line on stderr, the first time that it is said; process 0 alone does."""
    if jax.process_index() == 0:
        print(note, file=sys.stderr, flush=True)


def _passage_encoder(atlas: AtlasModel, spec: spec_lib.StepSpec, encoder: encode.ExampleEncoder) -> text_inputs.PassageEncoder:
    """Returns what puts given passages together with queries, on the host."""
    inputs, reader, retriever = spec.config.inputs, atlas.reader_tokenizer, atlas.retriever_tokenizer
    template = inputs.closed_book_format if spec.closed_book else inputs.encoder_format
    reader_format = text_inputs.FormatEncoder(template, reader.encode, inputs.text_max_tokens, suffix_ids=(reader.eos_id,))
    retriever_format = None
    if not spec.closed_book:
        retriever_format = text_inputs.FormatEncoder(
            spec.config.passage_format, retriever.encode, spec.config.retriever_max_tokens, prefix_ids=(retriever.cls_id,),
            suffix_ids=(retriever.sep_id,), borders=formats.PUNCTUATION)
    return text_inputs.PassageEncoder(reader_format, retriever_format, n=max(spec.top_k, 1), query_max_tokens=encoder.query_limits[0],
                                      gold_scores=spec.distill is not None and spec.distill.from_file)


def check_gold_scores(examples: Sequence[TaskExample], distill: spec_lib.DistillConfig, use_file_passages: bool) -> None:
    """Raises ConfigError: gold scores are to come from the file, and passages are retrieved, or some bring none; names their lines."""
    if not distill.from_file:
        return
    if not use_file_passages:
        raise errors.ConfigError('DistillConfig.gold_score_mode "file" takes the scores of passages that the examples bring; set '
                                 'use_file_passages, or choose another mode')
    # An example without passages reads an empty one, of which no teacher has said anything.
    missing = [example for example in examples if not example.passages
               or not all(isinstance(passage, ScoredPassage) for passage in example.passages)]
    if missing:
        raise errors.ConfigError(f'{task_lib.places(missing, 9)}: DistillConfig.gold_score_mode is "file", and a passage has no '
                                 '"gold_score"; write one for every passage')


def _measured(encoder: text_inputs.PassageEncoder, examples: Sequence[TaskExample]) -> tuple[np.ndarray, np.ndarray]:
    """Returns token counts [n] int of assembled inputs, the reader's and the retriever's, of a sample of the examples' own passages."""
    rows = [encoder.encode(example.query, example.passages, bool(example.kept)) for example in examples[:_SAMPLED_EXAMPLES]]
    reader = [row['passage_lengths'] for row in rows]
    retriever = [row.get('retriever_passage_lengths', np.zeros(1, np.int32)) for row in rows]  # none in a closed book
    return np.concatenate(reader), np.concatenate(retriever)


def _assembled_lengths(encoder: text_inputs.PassageEncoder, lengths: types.TokenLengths) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of an index's passages: every passage with some query and what the format adds."""
    queries = np.resize(lengths.reader_queries, len(lengths.reader_passages))
    retriever_literals = 0 if encoder.retriever is None else len(encoder.retriever.ids('', '', ''))
    return (lengths.reader_passages + queries + len(encoder.reader.ids('', '', '')),
            np.asarray(lengths.retriever_passages) + retriever_literals)


def _within_limits(lengths: tuple[np.ndarray, np.ndarray], config: AtlasConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns token counts cut at the limits, with the limit itself as the last: any input may be that long."""
    reader, retriever = lengths
    return (np.append(np.minimum(reader, config.inputs.text_max_tokens), config.inputs.text_max_tokens),
            np.append(np.minimum(retriever, config.retriever_max_tokens), config.retriever_max_tokens))


def _held(atlas: AtlasModel, index: index_group.IndexGroup | None, spec: spec_lib.StepSpec,
          knowledge: types.Knowledge | None) -> tuple[types.Knowledge | None, HostSearcher | None]:
    """Returns what a step reads, and the searcher of the host where the step does not search itself."""
    if index is None or knowledge is not None:
        return knowledge, None
    room = spec.distill is None  # what a run keeps of its index has exactly its rows
    held = index.knowledge(atlas, retriever_tokens=spec.needs_retriever_tokens, embeddings=spec.needs_embeddings, search=spec.search,
                           room=room)
    return held, index.host_searcher(atlas, spec.search, room) if spec.search.on_host else None


def passages_to_read(atlas: AtlasModel, index: Searched, n_context: int | None, use_file_passages: bool = False) -> int:
    """Returns how many passages an example reads: `n_context`, by default what the model was trained with; 0 in a closed book."""
    if index is None and not use_file_passages:
        return 0
    return max(atlas.config.n_context if n_context is None else n_context, 1)


def embed_questions(atlas: AtlasModel, examples: Sequence[TaskExample], batch_size: int = 64) -> np.ndarray:
    """Embeds the examples' queries as a search does, [n, dim] float32. Raises ConfigError: there is none."""
    if not examples:
        raise errors.ConfigError('there are no questions to embed; give a file with at least one')
    size = atlas.whole_batch(min(batch_size, len(examples)))
    # A closed book has the same queries and asks for no index.
    prepared, params = prepare(atlas, examples, None, 0, size), atlas.device_params()
    embed = search_step.query_embedder(prepared.spec)
    parts = [hosts.to_host(embed(params['retriever'], prepared.batch(examples[first:first + size], size, params)[0]))
             for first in range(0, len(examples), size)]
    return np.concatenate(parts)[:len(examples)]
