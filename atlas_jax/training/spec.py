"""What is fixed when a step is traced: model, formats, numbers of passages, stream capacities, mesh."""

import dataclasses
from typing import Any

import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.training import buckets

GOLD_SCORE_MODES = ('pdist',)
RETRIEVER_TRAINING = ('joint', 'query_side', 'frozen')


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How the reader teaches the retriever (paper section 2.2).

    Attributes:
      gold_score_mode: where the teacher's scores come from; pdist: the reader's likelihood of the target given each passage alone.
      temperature_gold: divides the gold scores.
      temperature_score: divides the retriever's scores.
      retriever_n_context: passages scored per example.
      retriever_training: joint (queries and passages), query_side (the index's embeddings stay valid), or frozen.
    """

    gold_score_mode: str = 'pdist'
    temperature_gold: float = 0.01
    temperature_score: float = 0.01
    retriever_n_context: int = 5
    retriever_training: str = 'joint'

    def __post_init__(self):
        for name, valid in (('gold_score_mode', GOLD_SCORE_MODES), ('retriever_training', RETRIEVER_TRAINING)):
            if getattr(self, name) not in valid:
                raise errors.ConfigError(f'DistillConfig.{name} is "{getattr(self, name)}"; choose one of {", ".join(valid)}')
        for name in ('temperature_gold', 'temperature_score'):
            if not getattr(self, name) > 0:
                raise errors.ConfigError(f'DistillConfig.{name} is {getattr(self, name)}; it must be greater than 0')
        if self.retriever_n_context < 1:
            raise errors.ConfigError(f'DistillConfig.retriever_n_context is {self.retriever_n_context}; it must be at least 1')


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The static side of train and answer steps.

    Attributes:
      config: sizes, formats and n_context.
      segments: config's formats cut into token segments.
      mesh: devices; one token stream each.
      read: capacities of the stream of passages that are read, smallest first.
      scored: capacities of the stream of passages that are only scored (retriever_n_context beyond n_context); () if there are none.
      embedded: capacities of the stream of passages that the retriever embeds; () unless retriever_training is joint.
      distill: None in an answer step.
    """

    config: atlas.AtlasConfig
    segments: atlas.Segments
    mesh: jax.sharding.Mesh
    read: tuple[buckets.Capacity, ...]
    scored: tuple[buckets.Capacity, ...] = ()
    embedded: tuple[buckets.Capacity, ...] = ()
    distill: DistillConfig | None = None

    @property
    def streams(self) -> int:
        return self.mesh.size

    @property
    def closed_book(self) -> bool:
        return self.config.n_context == 0

    @property
    def passages_read(self) -> int:
        """Reader inputs an example has: n_context, or the one without a passage of a closed book."""
        return max(self.config.n_context, 1)

    @property
    def passages_scored(self) -> int:
        """Passages an example has in the distillation loss; 0 where the retriever is not trained."""
        trains = self.distill is not None and not self.closed_book and self.distill.retriever_training != 'frozen'
        return self.distill.retriever_n_context if trains else 0

    @property
    def keeps_passage_encoder(self) -> bool:
        """Whether the encoder that made the index stays beside the trained query encoder."""
        return self.passages_scored > 0 and self.distill.retriever_training == 'query_side'

    @property
    def top_k(self) -> int:
        return 0 if self.closed_book else max(self.passages_read, self.passages_scored)

    @property
    def reader(self) -> t5.T5:
        return t5.T5(self.config.reader)

    @property
    def retriever(self) -> contriever.Contriever:
        return contriever.Contriever(self.config.retriever)


@dataclasses.dataclass(frozen=True)
class TokenLengths:
    """Token counts that capacities are chosen from, on the host.

    reader_passages and retriever_passages: [rows] int, title and text of every passage; reader_queries: [n] int.
    """

    reader_passages: np.ndarray
    retriever_passages: np.ndarray
    reader_queries: np.ndarray


def make_spec(config: atlas.AtlasConfig, segments: atlas.Segments, mesh: jax.sharding.Mesh, lengths: TokenLengths, batch_size: int,
              distill: DistillConfig | None = None) -> StepSpec:
    """Chooses the capacities for batches of `batch_size` examples.

    Raises:
      ConfigError: the batch does not divide over the devices.
    """
    if batch_size % mesh.size:
        raise errors.ConfigError(f'batch_size {batch_size} does not divide over {mesh.size} devices; choose a multiple of {mesh.size}')
    bare = StepSpec(config, segments, mesh, read=(), distill=distill)
    examples = batch_size // mesh.size
    reader_inputs, reader_limit = _input_lengths(segments.closed_book if bare.closed_book else segments.reader, lengths,
                                                 config.inputs.text_max_tokens)
    retriever_inputs, retriever_limit = _embedded_lengths(segments.retriever, lengths, config.retriever_max_tokens)
    changes: dict[str, Any] = {'read': buckets.capacities(reader_inputs, examples * bare.passages_read, reader_limit)}
    if bare.passages_scored > bare.passages_read:
        changes['scored'] = buckets.capacities(reader_inputs, examples * (bare.passages_scored - bare.passages_read), reader_limit)
    if bare.passages_scored and distill.retriever_training == 'joint':
        changes['embedded'] = buckets.capacities(retriever_inputs, examples * bare.passages_scored, retriever_limit)
    return dataclasses.replace(bare, **changes)


def _literal_tokens(segments) -> int:
    return sum(len(segment.ids) for segment in segments)


def _input_lengths(segments, lengths: TokenLengths, limit: int) -> tuple[np.ndarray, int]:
    """A sample of reader input lengths and their bound: passages and queries of all lengths, paired evenly."""
    reads_passage = any(segment.kind in ('title', 'text') for segment in segments)
    passages = np.sort(np.asarray(lengths.reader_passages)) if reads_passage else np.zeros(1, np.int64)
    queries = np.asarray(lengths.reader_queries)
    if len(queries) == 0 or len(passages) == 0:
        return np.zeros(0), limit
    generator = np.random.default_rng(0)
    pairs = max(len(passages), len(queries))
    sample = np.resize(passages, pairs) + generator.permutation(np.resize(queries, pairs)) + _literal_tokens(segments)
    greatest = int(passages.max() + queries.max()) + _literal_tokens(segments)
    return np.minimum(sample, limit), min(limit, greatest)


def _embedded_lengths(segments, lengths: TokenLengths, limit: int) -> tuple[np.ndarray, int]:
    sample = np.asarray(lengths.retriever_passages) + _literal_tokens(segments)
    if len(sample) == 0:
        return np.zeros(0), limit
    return np.minimum(sample, limit), min(limit, int(sample.max()))
