"""Token lengths of a contrastive step's queries and passages, as far as a plan knows them: crops,
or questions with whole passages.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tokenizers.formats import Segment

_SAMPLE = 20_000  # crops that are drawn
_SPECIAL = 2  # tokens around a crop


@dataclasses.dataclass(frozen=True)
class PairLengths:
    """The inputs of a contrastive step.

    Attributes:
      queries, passages: [n] int, samples of their lengths in tokens, special tokens included.
      widths: the most tokens of a query and of a passage.
      passages_each: passages of an example.
    """

    queries: np.ndarray
    passages: np.ndarray
    widths: tuple[int, int]
    passages_each: int


def pair_lengths(workload: workload_lib.Workload, segments: Sequence[Segment]) -> PairLengths:
    """Returns the lengths of a contrastive workload; `segments` are those of the retriever's
    passage format.
    """
    return _questions(workload, segments) if workload.from_questions else _crops(workload)


def line(workload: workload_lib.Workload, segments: Sequence[Segment]) -> str:
    """Returns the lengths that a plan assumes, in words, and what it does not know."""
    lengths, known = pair_lengths(workload, segments), _knows_passages(workload)
    query_width, passage_width = lengths.widths
    mean = f'{lengths.passages.mean():.0f} tokens on average, {passage_width} at most'
    if workload.from_questions:
        passages = f'passages of {mean}' if known else f'passages of {passage_width}, their limit'
        return (f'questions of {query_width} tokens, their limit, and {passages}; passages a '
                f'question: {lengths.passages_each}, with all hard negatives. The file of '
                'questions is not read')
    if known:
        return f'crops of {mean}'
    return (f'crops of {mean}, if all passages have {workload.contrastive.chunk_tokens} tokens and '
            'more. They are not read')


def _knows_passages(workload: workload_lib.Workload) -> bool:
    return workload.passage_tokens is not None or workload.passage_lengths is not None


def _questions(workload: workload_lib.Workload, segments: Sequence[Segment]) -> PairLengths:
    """Lengths of whole questions and passages, cut at the limits of contrastive_data.pairs_of.
    Unknown lengths are at their limit.
    """
    config = workload.config
    query = min(workload.query_tokens, config.retriever.input_tokens)
    # The limit of a reader's input does not apply: a retriever alone does not know it.
    passages, widest = np.full(1, config.retriever_max_tokens), config.retriever_max_tokens
    if _knows_passages(workload):
        passages, widest = spec_lib.embedded_lengths(
            tuple(segments), workload_lib.token_lengths(workload), config.retriever_max_tokens)
    return PairLengths(np.full(1, query), passages, (query, widest),
                       1 + workload.contrastive.hard_negatives)


def _crops(workload: workload_lib.Workload) -> PairLengths:
    """Lengths of crops: evenly drawn shares of pieces of the passages."""
    options, pieces = workload.contrastive, np.full(1, workload.contrastive.chunk_tokens)
    if _knows_passages(workload):
        pieces = np.minimum(
            workload_lib.token_lengths(workload).retriever_passages, options.chunk_tokens)
    # Drawn as a run draws them (input/crops.py), so that a plan's capacities are those of the run.
    generator, drawn = np.random.default_rng(0), np.resize(pieces, _SAMPLE)
    shares = generator.uniform(options.ratio_min, options.ratio_max, _SAMPLE)
    lengths = options.lengths(drawn, shares)
    # Deletion leaves at least one token; the longest crop may lose none.
    if options.augmentation == 'delete':
        lengths = np.maximum(
            lengths - generator.binomial(lengths, options.augmentation_probability), 1)
    width = options.crop_tokens(int(pieces.max())) + _SPECIAL
    return PairLengths(lengths + _SPECIAL, lengths + _SPECIAL, (width, width), 1)
