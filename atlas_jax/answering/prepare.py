"""Prepares examples for a compiled step: chooses how their passages are found, and makes its spec.

Training, answering, scoring and evaluation all call `prepare_examples`. The host assembles the
inputs where examples bring their passages, or where a format's fields touch other text. A searcher
of the host, or tokens on the host (SearchConfig.tokens), also need the host between two programs.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atlas_jax import errors, types
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.corpus.passages import ScoredPassage
from atlas_jax.input import encode, text_inputs
from atlas_jax.io import file_list
from atlas_jax.knowledge import group as index_group
from atlas_jax.knowledge.index_with_store import Index
from atlas_jax.knowledge.token_rows import TokenRows
from atlas_jax.model import AtlasModel
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.runtime import hosts, notes
from atlas_jax.searchers import config as search_config
from atlas_jax.searchers.host_searcher import HostSearcher
from atlas_jax.steps import buckets, given
from atlas_jax.steps import search as search_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import task as task_lib
from atlas_jax.tasks.task import TaskExample
from atlas_jax.tokenizers import formats

Searched = Index | Sequence[Index] | index_group.IndexGroup | None

# Widths of the queries in a step that answers: few, so that the next questions find it compiled.
# Padding costs the retriever a few tokens per question.
_QUERY_WIDTHS = (64, 128, 256, 512)
_NAMED_LINES = 9  # lines with an empty target that a note names
# examples whose own passages are measured before the first step
_SAMPLED_EXAMPLES = 1000


def read_examples(atlas: AtlasModel, paths: file_list.Paths, *, training: bool = False,
                  labelled: bool = True, max_rows: int | None = None) -> list[TaskExample]:
    """Reads the examples of files for the model's task; notes how many targets are over the limit
    or empty.

    Raises:
      InputFileError: the same errors as the task's read_examples.
    """
    # Some tasks mask a share of a text's tokens, so they need to count them.
    tokenizer = atlas.reader_tokenizer
    examples = task_lib.read_examples(paths, atlas.task, training=training, labelled=labelled,
                                      max_rows=max_rows,
                                      count_tokens=lambda text: len(tokenizer.encode(text)))
    # A note, not an error: texts for pre-training are longer than the limit.
    cut = atlas.encoder().count_clipped_targets(examples)
    if cut:
        notes.say(f'{file_list.summary(paths)}: {cut} of {len(examples)} targets were cut at '
                  f'{atlas.inputs.target_limit} tokens; raise target_max_tokens to keep them whole',
                  to_stdout=True)
    empty = [example for example in examples if not atlas.task.answer_text(example.target)]
    if empty and labelled:
        where = task_lib.places(empty, _NAMED_LINES)
        notes.say(f'{where}: {len(empty)} of {len(examples)} targets are empty; look at their '
                  'labels', to_stdout=True)
    return examples


def prepare_examples(atlas: AtlasModel, examples: Sequence[TaskExample], index: Searched,
                     n_context: int, batch_size: int, *, use_file_passages: bool = False,
                     distill: spec_lib.DistillConfig | None = None,
                     step: spec_lib.StepConfig | None = None,
                     search: search_config.SearchConfig | str | None = None,
                     force_host: bool = False,
                     knowledge: types.Knowledge | None = None) -> PreparedExamples:
    """Prepares examples for a step.

    Args:
      atlas: the model.
      examples: all examples that will come, or a sample where their task draws.
      index: one index or several; None for a closed book, or if examples bring their passages.
      n_context: number of passages read; 0 is a closed book.
      batch_size: (micro-)batch size; it divides over the atlas's mesh.
      use_file_passages: reads the examples' own passages; nothing is retrieved.
      distill, step, search: see spec.make_step_spec; `search` may be the name of a searcher.
      force_host: assembles on the host although the graph could.
      knowledge: the index on the devices, where it differs from the one on disk.

    Raises:
      ConfigError: options contradict each other, or a multiple choice does not fit into the input.
    """
    group = index_group.as_group(index)
    if use_file_passages and (group is not None or n_context == 0):
        raise errors.ConfigError('use_file_passages reads the examples\' own passages: it needs '
                                 'n_context of at least 1, and no index')
    config = dataclasses.replace(atlas.config, n_context=n_context, inputs=atlas.inputs)
    # The spec of a search that is a program of its own; it computes in the model's own dtypes.
    searching = spec_lib.StepSpec(config, atlas.segments, atlas.mesh, read=(), distill=distill,
                                  search=search_config.as_search_config(search))
    encoder = atlas.encoder()
    query_lengths = _fit_queries(encoder, examples, distill is None, batch_size * n_context)
    # An example made from a passage must not retrieve it: the answer is in it.
    encoder.kept_rows = _kept_rows(atlas, examples, group)
    # A joined text has other tokens where a field touches other text; the graph can only join token
    # ids.
    reason = formats.touching(
        config.inputs.encoder_format if n_context else config.inputs.closed_book_format)
    if reason:
        notes.say(f'{reason}; so the host puts the inputs together, which is slower than in the '
                  'compiled step', to_stdout=True)
    token_lengths = _token_lengths(group, query_lengths)
    if use_file_passages or reason or force_host:
        encoder.passages = _passage_encoder(atlas, searching, encoder)
        lengths = _measured(encoder.passages, examples) if group is None else _assembled_lengths(
            encoder.passages, token_lengths)
        spec = given.make_given_spec(config, None, atlas.mesh, *_within_limits(lengths, config),
                                     batch_size, distill, step=step, search=searching.search)
        if group is None:
            return PreparedExamples(spec, encoder)
        held = _held(atlas, group, searching, knowledge)
        return PreparedExamples(spec, encoder, *held, group, searching)
    spec = spec_lib.make_step_spec(config, atlas.segments, atlas.mesh, token_lengths, batch_size,
                                   distill, step, searching.search)
    held = _held(atlas, group, spec, knowledge)
    if group is None or not spec.tokens_on_host:
        return PreparedExamples(spec, encoder, *held, group)
    token_rows = TokenRows(group, atlas, spec.needs_retriever_tokens)
    return PreparedExamples(spec, encoder, *held, group, search_step.alone(spec), token_rows)


def _fit_queries(encoder: encode.ExampleEncoder, examples: Sequence[TaskExample], answers: bool,
                 passages: int) -> np.ndarray:
    """Fits the encoder to the widest query, and returns the queries' token counts [n] int.

    A step that answers gets rounded counts, so that questions of about the same length share a
    program.
    """
    # Before anything is traced: the widest query sets the program's width.
    lengths = encoder.fit_queries(examples, _QUERY_WIDTHS if answers else ())
    for note in encoder.notes:
        notes.say_once(note)
    if not answers:
        return lengths
    # Coarser for a handful of passages: the mean of many is known better than that of one.
    multiple = _QUERY_WIDTHS[0] // (1 if 0 < passages <= buckets.A_HANDFUL else 2)
    return -(-lengths // multiple) * multiple


def _token_lengths(group: index_group.IndexGroup | None,
                   query_lengths: np.ndarray) -> types.TokenLengths:
    if group is not None:
        return group.token_lengths(query_lengths)
    nothing = np.zeros(1, np.int64)  # a closed book reads no passage
    return types.TokenLengths(nothing, nothing, query_lengths)


def _kept_rows(atlas: AtlasModel, examples: Sequence[TaskExample],
               group: index_group.IndexGroup | None) -> dict[int, list[int]] | None:
    """Returns the rows that each example must not be given (index_group.kept_rows); notes how many
    examples made from passages have none.
    """
    kept = index_group.kept_rows(group, examples, atlas.mesh)
    # In these tasks the target is a part of a passage. Without ids, retrieval would be trained on
    # passages that give the target away.
    if group is not None and atlas.task.label == 'text' and (
            missing := sum(not (kept or {}).get(example.example_id) for example in examples)):
        notes.say_once(f'{missing} of {len(examples)} texts: no passage of their "id" is in the '
                       'index; if it holds them under other names, they are retrieved and give '
                       'the target away: `atlas-jax index passages` writes a file with its ids')
    return kept


def _passage_encoder(atlas: AtlasModel, spec: spec_lib.StepSpec,
                     encoder: encode.ExampleEncoder) -> text_inputs.PassageEncoder:
    """Returns the encoder that joins given passages and queries on the host."""
    inputs = spec.config.inputs
    reader, retriever = atlas.reader_tokenizer, atlas.retriever_tokenizer
    template = inputs.closed_book_format if spec.closed_book else inputs.encoder_format
    reader_format = text_inputs.FormatEncoder(template, reader.encode, inputs.text_max_tokens,
                                              suffix_ids=(reader.eos_id, ))
    retriever_format = None
    if not spec.closed_book:
        retriever_format = text_inputs.FormatEncoder(
            spec.config.passage_format, retriever.encode, spec.config.retriever_max_tokens,
            prefix_ids=(retriever.cls_id, ), suffix_ids=(retriever.sep_id, ),
            borders=formats.PUNCTUATION)
    return text_inputs.PassageEncoder(
        reader_format, retriever_format, n=max(spec.top_k, 1),
        query_max_tokens=encoder.query_limits[0],
        gold_scores=spec.distill is not None and spec.distill.from_file)


def check_gold_scores(examples: Sequence[TaskExample], distill: spec_lib.DistillConfig,
                      use_file_passages: bool) -> None:
    """Checks the examples' gold scores, where the distillation takes them from the file.

    Raises ConfigError: passages are retrieved, or some have no gold score; it names their lines.
    """
    if not distill.from_file:
        return
    if not use_file_passages:
        raise errors.ConfigError('DistillConfig.gold_score_mode "file" takes the scores of '
                                 'passages that the examples bring; set use_file_passages, or '
                                 'choose another mode')
    # An example without passages reads an empty one, which has no score either.
    missing = [example for example in examples if not example.passages
               or not all(isinstance(passage, ScoredPassage) for passage in example.passages)]
    if missing:
        raise errors.ConfigError(f'{task_lib.places(missing, 9)}: DistillConfig.gold_score_mode '
                                 'is "file", and a passage has no "gold_score"; write one for '
                                 'every passage')


def _measured(encoder: text_inputs.PassageEncoder,
              examples: Sequence[TaskExample]) -> tuple[np.ndarray, np.ndarray]:
    """Returns token counts [n] int of the reader's and of the retriever's inputs, assembled from a
    sample of the examples with their own passages.
    """
    rows = [
        encoder.encode(example.query, example.passages, bool(example.kept))
        for example in examples[:_SAMPLED_EXAMPLES]]
    reader = [row['passage_lengths'] for row in rows]
    # A closed book has no retriever passages.
    retriever = [row.get('retriever_passage_lengths', np.zeros(1, np.int32)) for row in rows]
    return np.concatenate(reader), np.concatenate(retriever)


def _assembled_lengths(encoder: text_inputs.PassageEncoder,
                       lengths: types.TokenLengths) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token counts that `_measured` returns, for an index: each passage with some query
    and the format's own tokens.
    """
    queries = np.resize(lengths.reader_queries, len(lengths.reader_passages))
    retriever_literals = 0 if encoder.retriever is None else len(encoder.retriever.ids('', '', ''))
    return (lengths.reader_passages + queries + len(encoder.reader.ids('', '', '')),
            np.asarray(lengths.retriever_passages) + retriever_literals)


def _within_limits(lengths: tuple[np.ndarray, np.ndarray],
                   config: AtlasConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns token counts cut at the limits, with the limit itself appended: any input may be that
    long.
    """
    limits = config.inputs.text_max_tokens, config.retriever_max_tokens
    reader, retriever = (np.append(np.minimum(each, limit), limit)
                         for each, limit in zip(lengths, limits, strict=True))
    return reader, retriever


def _held(atlas: AtlasModel, index: index_group.IndexGroup | None, spec: spec_lib.StepSpec,
          knowledge: types.Knowledge | None) -> tuple[types.Knowledge | None, HostSearcher | None]:
    """Returns the knowledge that a step reads, and the searcher of the host where the step does not
    search.
    """
    if index is None or knowledge is not None:
        return knowledge, None
    room = spec.distill is None  # a run's checkpoints hold exactly the index's rows
    held = index.knowledge(atlas, retriever_tokens=spec.needs_retriever_tokens,
                           embeddings=spec.needs_embeddings, search=spec.search, room=room)
    return held, index.host_searcher(atlas, spec.search, room) if spec.search.on_host else None


def passages_to_read(atlas: AtlasModel, index: Searched, n_context: int | None,
                     use_file_passages: bool = False) -> int:
    """Returns how many passages an example reads: `n_context`, or the number that the model was
    trained with; 0 in a closed book.
    """
    if index is None and not use_file_passages:
        return 0
    return max(atlas.config.n_context if n_context is None else n_context, 1)


def embed_questions(atlas: AtlasModel, examples: Sequence[TaskExample],
                    batch_size: int = 64) -> np.ndarray:
    """Embeds the examples' queries as a search does, [n, dim] float32.

    Raises ConfigError: there are no examples.
    """
    if not examples:
        raise errors.ConfigError('there are no questions to embed; give a file with at least one')
    size = atlas.whole_batch(min(batch_size, len(examples)))
    # A closed book has the same queries and needs no index.
    prepared, params = prepare_examples(atlas, examples, None, 0, size), atlas.device_params()
    embed = search_step.query_embedder(prepared.spec)
    parts = [
        hosts.to_host(
            embed(params['retriever'],
                  prepared.batch(examples[first:first + size], size, params)[0]))
        for first in range(0, len(examples), size)]
    return np.concatenate(parts)[:len(examples)]
