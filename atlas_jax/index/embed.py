"""Embeds passages: packs them into token streams of few shapes and encodes them on every local
device.
"""

import bisect
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import embedded_by
from atlas_jax.io import checksum
from atlas_jax.models import contriever
from atlas_jax.nn import assembly, token_stream
from atlas_jax.runtime import hosts
from atlas_jax.tokenizers import formats

Array = jax.Array

# Packs encoded at the same time, each by its own thread. An accelerator then never waits for the
# host. On a CPU the second pack uses the cores that the first leaves idle in its serial parts
# (MiniLM, 512 passages, two cores of a Xeon: 8.5 s one by one, 7.7 s two at a time).
_PACKS_AT_ONCE = 2
# On a CPU activations should stay in the cache (MiniLM, two packs at once: 8.0 s with 1024 tokens,
# 7.7 s with 2048). An accelerator needs larger batches.
_TOKENS_PER_BATCH = {'cpu': 2048, 'tpu': 16384}
# Widths of the attention rows. Each width in use costs a compilation (about 2 s of CPU for 6
# layers). A finer spacing saves less than that on a few thousand passages of 50 to 200 tokens, and
# at most 4 % on any number of passages.
WIDTHS = (64, 128, 160, 208, 256, 320, 416, 512)


# The fingerprint of an index without records contains the text of the ContrieverConfig of that
# time, which this class gives.
_OldConfig = dataclasses.make_dataclass('ContrieverConfig', [
    'vocab_size', 'emb_dim', 'num_heads', 'num_layers', 'mlp_dim', 'max_positions',
    'type_vocab_size', 'layer_norm', 'layer_norm_epsilon', 'dropout_rate', 'dtype', 'pooling',
    'normalize'], frozen=True)
_OLD_LIMITS = (200, 256, 384, 512)


@dataclasses.dataclass(frozen=True)
class PackedPassages:
    """Passages that are embedded together.

    members  [streams, capacity] int64  positions in the list of lengths; -1 marks empty slots
    longest  width that holds every passage; with the capacity it determines the compiled shape
    """

    members: np.ndarray
    longest: int


def default_tokens_per_batch(backend: str, max_tokens: int) -> int:
    """Returns the number of tokens that a device of this kind ('cpu', 'tpu', …) encodes at a time,
    for passages of up to max_tokens.
    """
    return max(_TOKENS_PER_BATCH.get(backend, _TOKENS_PER_BATCH['tpu']), 4 * max_tokens)


def encoder_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Returns the mesh of an index build: one token stream per device, weights replicated.

    The devices lie on the axis `data`. On `fsdp` the layers would split the weights, which every
    device holds already, and gather them again.
    """
    return partitioning.make_mesh((len(devices), 1, 1), devices)


def pack_passages(lengths: np.ndarray, streams: int, stream_tokens: int,
                  max_tokens: int) -> Iterator[PackedPassages]:
    """Packs passages of known lengths into token streams of few shapes, with little padding.

    Args:
      lengths: [n] int, each at most max_tokens.
      streams: streams in a pack, one per device.
      stream_tokens: tokens a stream holds, at least max_tokens.
      max_tokens: the largest width.

    Yields:
      Packs, longest passages first; every passage is in exactly one.
    """
    widths = [width for width in WIDTHS if width < max_tokens] + [max_tokens]
    # Passages of similar lengths share a pack, because its rows are as wide as its longest passage.
    order = np.argsort(lengths, kind='stable')
    # shortest first: the longest are taken from the end
    sizes, passages = lengths[order].tolist(), order.tolist()
    while sizes:
        number = int(np.searchsorted(widths, sizes[-1]))
        members = np.full((streams, _capacity(widths, number, stream_tokens)), -1, np.int64)
        for stream in members:
            taken = _take(sizes, passages, len(stream), stream_tokens)
            stream[:len(taken)] = taken
        yield PackedPassages(members, widths[number])


def _capacity(widths: Sequence[int], number: int, stream_tokens: int) -> int:
    """Returns the number of passages that a stream of this width holds if they are the shortest
    that need this width.
    """
    shortest = widths[number - 1] + 1 if number else max(1, widths[0] // 2)
    return max(1, stream_tokens // shortest)


def _take(sizes: list[int], passages: list[int], capacity: int, stream_tokens: int) -> list[int]:
    """Removes the passages of one stream from both lists, always the longest that fits, and returns
    them.
    """
    taken: list[int] = []
    room = stream_tokens
    while len(taken) < capacity and (place := bisect.bisect_right(sizes, room) - 1) >= 0:
        room -= sizes.pop(place)
        taken.append(passages.pop(place))
    return taken


@functools.partial(jax.jit,
                   static_argnames=('config', 'segments', 'stream_tokens', 'longest', 'mesh'))
def embed_pack(params: Any, part: types.TokenTable, real: Array, *,
               config: contriever.ContrieverConfig, segments: tuple[formats.Segment, ...],
               stream_tokens: int, longest: int, mesh: Mesh) -> tuple[Array, Array]:
    """Embeds one pack, one stream per device. This is the compiled step of index building.

    Args:
      params: the encoder's parameters, replicated on every device.
      part: the pack's rows of the table, [streams, capacity, ...].
      real: [streams, capacity] bool, False in empty slots.
      config: the encoder's configuration, without dropout.
      segments: the retriever's format.
      stream_tokens: tokens a stream holds.
      longest: width of the attention rows; no passage is longer.
      mesh: result of encoder_mesh, with as many devices as there are streams.

    Returns:
      Embeddings [streams, capacity, dim] float32 and lengths [streams, capacity] int32, 0 in empty
      slots.
    """
    with partitioning.on_mesh(mesh):  # keeps each stream on its device, in the loop over layers too
        # [streams * capacity, ...]
        flat = jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), part)
        # The assembly expects a query. The format has none, so a query of length 0 serves.
        no_query = jnp.zeros((flat.lengths.shape[0], 1), jnp.int32)
        tokens, lengths = assembly.assemble(segments, no_query, jnp.zeros_like(no_query[:, 0]),
                                            flat, longest)
        lengths = jnp.where(real, lengths.reshape(real.shape), 0)
        # [streams * capacity, longest] -> [streams, capacity, longest]
        stream = token_stream.pack(tokens.reshape(*real.shape, longest), lengths, stream_tokens,
                                   longest)
        encode = nn.apply(lambda encoder, stream: encoder(stream, deterministic=True),
                          contriever.Contriever(config))
        return encode({'params': params}, stream), lengths


class PassageEmbedder:
    """A retriever's passage encoder with its input format.

    dim         numbers in an embedding
    max_tokens  limit of a passage with its special tokens
    """

    def __init__(self, config: contriever.ContrieverConfig, params: Any,
                 segments: Sequence[formats.Segment], max_tokens: int,
                 tokens_per_batch: int | None = None, passage_format: str = ''):
        """Puts the parameters on every local device.

        Args:
          config: the encoder's configuration.
          params: its parameters, a nested dict of arrays.
          segments: the retriever's format, special tokens included; literals, title and text.
          max_tokens: longer passages are cut at the end of their text.
          tokens_per_batch: tokens that each device encodes at a time; None chooses by the kind of
            device.
          passage_format: text of the format, for messages.

        Raises:
          ConfigError: max_tokens exceeds the encoder's positions or tokens_per_batch, or the format
            has a query.
        """
        if max_tokens > config.max_positions:
            raise errors.ConfigError(f'passages may have {max_tokens} tokens, but the retriever '
                                     f'has {config.max_positions} positions; '
                                     f'set the limit to {config.max_positions} or less')
        if tokens_per_batch is None:
            tokens_per_batch = default_tokens_per_batch(jax.default_backend(), max_tokens)
        if max_tokens > tokens_per_batch:
            raise errors.ConfigError(f'tokens_per_batch {tokens_per_batch} must hold a passage of '
                                     f'max_tokens {max_tokens}; raise it')
        if any(segment.kind == 'query' for segment in segments):
            raise errors.ConfigError('the retriever format has a {query}; passages are embedded '
                                     'without one: use {title} and {text}')
        # Two models that differ only in dropout embed alike, so no fingerprint contains it.
        self._config = dataclasses.replace(config, dropout_rate=0.0)
        self._segments, self.max_tokens, self._stream_tokens = tuple(
            segments), max_tokens, tokens_per_batch
        self._passage_format = passage_format
        self.dim = config.embedding_dim
        # Local devices: every process embeds its own shards.
        self._mesh = encoder_mesh(jax.local_devices())
        self._params = jax.device_put(hosts.to_host(nn.meta.unbox(params)),
                                      partitioning.replicated(self._mesh))

    @functools.cached_property
    def record(self) -> embedded_by.EmbeddedBy:
        """The record of everything that changes an embedding."""
        config = self._config
        # Leaves out what has its own field in the record, and what belongs to queries.
        sizes = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(contriever.BertConfig)
            if field.name != 'dtype'}
        tokens: list[int | str] = []
        for segment in self._segments:
            tokens += segment.ids if segment.kind == 'literal' else [segment.kind]
        return embedded_by.EmbeddedBy(weights=checksum.fingerprint(sizes, self._params),
                                      dtype=config.dtype, pooling=config.pooling,
                                      normalize=config.normalize, dim=self.dim,
                                      passage_format=self._passage_format,
                                      passage_tokens=json.dumps(tokens), max_tokens=self.max_tokens)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything that changes an embedding."""
        return self.record.fingerprint

    def old_limit(self, fingerprint: str) -> int | None:
        """See embedded_by.Embedder."""
        # Such a fingerprint was the hash of the configuration's text, with the fields of that time,
        # and of the weights.
        if self._config.truncate_dim is not None:
            return None
        config = _OldConfig(**{
            field.name: getattr(self._config, field.name)
            for field in dataclasses.fields(_OldConfig)})
        # The limit is part of the hash, so the usual limits are tried.
        limits = dict.fromkeys((self.max_tokens, *_OLD_LIMITS))
        return next(
            (limit for limit in limits
             if checksum.fingerprint((config, self._segments, limit), self._params) == fingerprint),
            None)

    def whole_lengths(self, title_lengths: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the number of tokens of each uncut passage in the encoder's format, [n] int64.

        Both arguments are [n] int, as in a TokenTable.
        """
        by_kind = {'title': title_lengths, 'text': lengths - title_lengths}
        return np.zeros(len(lengths), np.int64) + sum(
            by_kind.get(segment.kind, len(segment.ids)) for segment in self._segments)

    def truncated(self, title_lengths: np.ndarray, lengths: np.ndarray) -> int:
        """Counts the passages longer than the limit, whose texts are cut.

        Both are [n] int as in a TokenTable, uncut.
        """
        return int((self.whole_lengths(title_lengths, lengths) > self.max_tokens).sum())

    def rows_of(self, store: PassageStore, first: int,
                stop: int) -> Callable[[np.ndarray, tqdm.tqdm | None], np.ndarray]:
        """Returns `embed` for the rows first to stop of a store. It takes rows [n] counted from
        `first`. Raises StoreError.
        """
        return functools.partial(
            self.embed, store.retriever_table(max_tokens=self.max_tokens, rows=(first, stop)))

    def embed(self, table: types.TokenTable, rows: np.ndarray,
              progress: tqdm.tqdm | None = None) -> np.ndarray:
        """Embeds passages.

        Args:
          table: the store's token ids, numpy arrays; may be cut at max_tokens.
          rows: [n] int, the table's rows to embed.
          progress: a bar to advance by passages.

        Returns:
          [n, dim] float32 in the order of `rows`.

        Raises:
          StoreError: the encoder does not have one of the token ids.
        """
        lengths = self._assembled_lengths(table, rows)
        embeddings = np.empty((len(rows), self.dim), np.float32)

        def run(pack: PackedPassages) -> np.ndarray:
            part, real = self._pack_inputs(table, rows, pack)
            values, encoded = embed_pack(self._params, part, real, config=self._config,
                                         segments=self._segments, stream_tokens=self._stream_tokens,
                                         longest=pack.longest, mesh=self._mesh)
            is_member = pack.members >= 0
            members = pack.members[is_member]
            # A longer passage than expected would have been cut silently.
            np.testing.assert_array_equal(np.asarray(encoded)[is_member], lengths[members])
            embeddings[members] = np.asarray(values)[is_member]
            return members

        with futures.ThreadPoolExecutor(_PACKS_AT_ONCE) as threads:
            for members in threads.map(
                    run,
                    pack_passages(lengths, self._mesh.size, self._stream_tokens, self.max_tokens)):
                if progress is not None:
                    progress.update(len(members))
        return embeddings

    def _assembled_lengths(self, table: types.TokenTable, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens of each passage in the encoder's format, cut to the limit, [n]."""
        return np.minimum(
            self.whole_lengths(
                np.asarray(table.title_lengths)[rows],
                np.asarray(table.lengths)[rows]), self.max_tokens)

    def _pack_inputs(self, table: types.TokenTable, rows: np.ndarray,
                     pack: PackedPassages) -> tuple[types.TokenTable, Array]:
        """Puts a pack on the devices, one stream on each; returns `part` and `real` of embed_pack.
        """
        real = pack.members >= 0
        # Empty slots hold the pack's first passage; `real` gives them length 0.
        chosen = rows[np.where(real, pack.members, pack.members.flat[0])]
        part = jax.tree.map(lambda column: np.asarray(column)[chosen], table)
        if part.tokens.max(initial=0) >= self._config.vocab_size:
            raise errors.StoreError(f'the passages have token id {part.tokens.max()}, the '
                                    f'retriever only {self._config.vocab_size} ids; '
                                    'build the store with the tokenizer of this retriever')
        return jax.device_put((part, real), partitioning.sharding(self._mesh, 'streams'))
