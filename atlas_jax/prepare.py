"""Makes examples ready for a compiled step: what it retrieves from, or which passages it is given, and one batch after another.

Training, answering, scoring and evaluation all go through `prepare`. The fast way is a step that searches and assembles in the graph. The
host has to put inputs together where a format's fields touch other text: a first program searches, the host assembles the texts, and the
step reads given passages; as it does where examples bring their own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.input import encode, passages
from atlas_jax.searchers import protocol as search_protocol
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tasks.protocol import TaskExample
from atlas_jax.tokenizers import formats
from atlas_jax.training import given, host_path, retrieve, train_step
from atlas_jax.training import spec as spec_lib

_SAMPLED_EXAMPLES = 1000  # whose passages are measured before the first step, where they are the examples' own


@dataclasses.dataclass
class Prepared:
    """Examples made ready for a step.

    Attributes:
      spec: what the step is compiled for.
      encoder: makes rows of examples.
      knowledge: what the step reads besides the batch.
      searcher: of the host; None where the graph searches.
      store: passages by index row, where the host assembles what was found.
      searched: spec of the search alone, where the host assembles what was found.
    """

    spec: spec_lib.StepSpec
    encoder: encode.ExampleEncoder
    knowledge: types.Knowledge | None = None
    searcher: search_protocol.HostSearcher | None = None
    store: Any = None
    searched: spec_lib.StepSpec | None = None

    @property
    def on_host(self) -> bool:
        """Whether a batch is made between two programs, so that it takes the examples and the current parameters."""
        return self.searcher is not None or self.searched is not None

    def batch(self, examples: Sequence[TaskExample], size: int, params: Any) -> tuple[types.Batch, types.Retrieved | None]:
        """A batch on the devices, filled up to `size`, and what the host has found for it.

        Args:
          examples: at most `size`.
          size: divides over the mesh.
          params: {'retriever', …} of the moment; only read where `on_host`.
        """
        batch = self.place(self._rows([self.encoder.encode(example) for example in examples], size))
        if not self.on_host:
            return batch, None
        spec = self.searched or self.spec
        if self.searcher is not None:
            retrieved = host_path.find(params['retriever'], batch, [example.question for example in examples], self.searcher, spec)
        else:
            retrieved = _search_step(spec)(params['retriever'], batch, self.knowledge)
        return (batch, retrieved) if self.searched is None else (self._assembled(examples, size, retrieved), retrieved)

    def place(self, batch: types.Batch) -> types.Batch:
        """A batch of numpy arrays on the devices."""
        return jax.device_put(batch, train_step.batch_sharding(self.spec.mesh))

    def _assembled(self, examples: Sequence[TaskExample], size: int, retrieved: types.Retrieved) -> types.Batch:
        found = jax.device_get(retrieved)
        rows = []
        for example, scores, ids in zip(examples, found.scores, found.passage_ids, strict=False):
            rows.append(self.encoder.encode(example, [self.store[int(row)] for row in ids[np.isfinite(scores)]]))
        return self.place(self._rows(rows, size))

    def _rows(self, rows: Sequence[types.Batch], size: int) -> types.Batch:
        return encode.stack([*rows, *[self.encoder.filler()] * (size - len(rows))])


def prepare(atlas: Any, examples: Sequence[TaskExample], index: Any, n_context: int, batch_size: int, *, use_file_passages: bool = False,
            searcher: search_protocol.HostSearcher | None = None, distill: spec_lib.DistillConfig | None = None,
            force_host: bool = False, **options: Any) -> Prepared:
    """Chooses the way and makes the spec.

    Args:
      atlas: an api.Atlas. index: an api.Index; None for a closed book, and where examples bring their passages.
      examples: all that will come, or (where their task draws) some like them.
      n_context: passages read; 0 is a closed book.
      batch_size: of a micro-batch; divides over the atlas's mesh.
      use_file_passages: the examples' own passages are read, nothing is retrieved.
      searcher: of the host, where it is to search.
      distill, options: see spec.make_spec.
      force_host: assembles on the host though the graph could.

    Raises:
      ConfigError: the options contradict each other.
    """
    if use_file_passages and (index is not None or n_context == 0):
        raise errors.ConfigError('use_file_passages reads the examples\' own passages: it needs n_context of at least 1, and no index')
    config, encoder = dataclasses.replace(atlas.config, n_context=n_context), atlas.encoder()
    query_lengths = encoder.fit_queries(examples)
    if index is not None:
        encoder.own_rows = own_rows(index.store, examples)
    template = config.inputs.encoder_format if n_context else config.inputs.closed_book_format
    reason = formats.touching(template)
    if use_file_passages or reason or force_host:
        if reason:
            print(f'{reason}; so the host puts the inputs together, which is slower than in the compiled step', flush=True)
        return _given(atlas, config, encoder, examples, index, query_lengths, batch_size, searcher, distill, options)
    nothing = np.zeros(1, np.int64)
    lengths = spec_lib.TokenLengths(nothing, nothing, query_lengths) if index is None else index.token_lengths(query_lengths)
    spec = spec_lib.make_spec(config, atlas.segments, atlas.mesh, lengths, batch_size, distill, **options)
    return Prepared(spec, encoder, _knowledge(atlas, index, spec), searcher)


def own_rows(store: Any, examples: Sequence[TaskExample]) -> dict[str, list[int]] | None:
    """The index rows of the passages that examples were made of, and of their documents' pieces; None where no example has any."""
    found = {}
    for docid in {example.own_docid for example in examples} - {None}:
        rows = _rows_of(store, docid)
        if rows:
            found[docid] = rows
    return found or None


def _rows_of(store: Any, docid: str) -> list[int]:
    """The row of a docid, or those of the pieces docid#0, docid#1 … of a document; none where the store has neither."""
    rows, piece = _row_of(store, docid), 0
    if rows:
        return rows
    while row := _row_of(store, f'{docid}#{piece}'):
        rows, piece = [*rows, *row], piece + 1
    return rows


def _row_of(store: Any, docid: str) -> list[int]:
    try:
        return [int(store.rows_of([docid])[0])]
    except errors.StoreError:
        return []


def _given(atlas: Any, config: Any, encoder: encode.ExampleEncoder, examples: Sequence[TaskExample], index: Any,
           query_lengths: np.ndarray, batch_size: int, searcher: Any, distill: spec_lib.DistillConfig | None, options: dict) -> Prepared:
    """The way of passages that come with the batch."""
    inputs, reader, retriever = config.inputs, atlas.reader_tokenizer, atlas.retriever_tokenizer
    bare = spec_lib.StepSpec(config, atlas.segments, atlas.mesh, read=(), distill=distill, search=options.get('search') or SearchConfig())
    passage_encoder = passages.PassageEncoder(
        passages.TextFormat(inputs.closed_book_format if bare.closed_book else inputs.encoder_format, reader.encode,
                            inputs.text_max_tokens, suffix_ids=(reader.eos_id,)),
        None if bare.closed_book else passages.TextFormat(
            inputs.retriever_format, retriever.encode, config.retriever_max_tokens, prefix_ids=(retriever.cls_id,),
            suffix_ids=(retriever.sep_id,), borders=formats.PUNCTUATION),
        n=max(bare.top_k, 1), query_max_tokens=encoder.query_width)
    encoder.passages = passage_encoder
    if index is None:
        rows = [passage_encoder.encode(example.query, example.passages) for example in examples[:_SAMPLED_EXAMPLES]]
        measured = [np.concatenate([row.get(name, np.zeros(1, np.int32)) for row in rows])
                    for name in ('passage_lengths', 'retriever_passage_lengths')]
    else:
        lengths = index.token_lengths(query_lengths)
        queries = np.resize(query_lengths, len(lengths.reader_passages))
        literals = len(passage_encoder.reader.ids('', '', '')), len(passage_encoder.retriever.ids('', '', ''))
        measured = [lengths.reader_passages + queries + literals[0], np.asarray(lengths.retriever_passages) + literals[1]]
    reader_lengths, retriever_lengths = (np.append(np.minimum(values, limit), limit) for values, limit in zip(
        measured, (inputs.text_max_tokens, config.retriever_max_tokens), strict=True))
    spec = given.make_spec(config, None, atlas.mesh, reader_lengths, retriever_lengths, batch_size, distill, **options)
    if index is None:
        return Prepared(spec, encoder)
    return Prepared(spec, encoder, _knowledge(atlas, index, bare), searcher, index.store, bare)


def _knowledge(atlas: Any, index: Any, spec: spec_lib.StepSpec) -> types.Knowledge | None:
    return None if index is None else index.knowledge(atlas, retriever_tokens=spec.needs_retriever_tokens)


@functools.lru_cache(maxsize=8)
def _search_step(spec: spec_lib.StepSpec) -> Callable[..., types.Retrieved]:
    """The jitted function (retriever's parameters, batch, knowledge) -> what the graph finds."""
    return jax.jit(lambda params, batch, knowledge: retrieve.find(params, batch, knowledge, spec))
