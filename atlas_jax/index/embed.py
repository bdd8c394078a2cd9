"""Passages to embeddings: assembled, packed into token streams, encoded on every local device."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from atlas_jax import errors, partitioning, types
from atlas_jax.index import packing
from atlas_jax.io import checksum
from atlas_jax.models import contriever
from atlas_jax.nn import assembly, token_stream
from atlas_jax.runtime import hosts
from atlas_jax.tokenizers import formats

Array = jax.Array

# Packs under way at a time, each from a thread of its own: an accelerator never waits for the host, and where one program has work for a
# single core, the other cores have the other program's (MiniLM, 512 passages, two cores of a Xeon: 8.5 s one by one, 7.7 s by two).
_PACKS_AT_ONCE = 2
# On CPU activations should stay in the cache (MiniLM, two packs at once: 8.0 s at 1024 tokens, 7.7 at 2048); an accelerator wants enough
# work at a time.
_TOKENS_PER_BATCH = {'cpu': 2048, 'tpu': 16384}


def default_tokens_per_batch(backend: str, max_tokens: int) -> int:
    """Tokens that a device of this kind encodes at a time."""
    return max(_TOKENS_PER_BATCH.get(backend, _TOKENS_PER_BATCH['tpu']), 4 * max_tokens)


@functools.partial(jax.jit, static_argnames=('config', 'segments', 'stream_tokens', 'longest'))
def embed_pack(params: Any, part: types.TokenTable, real: Array, *, config: contriever.ContrieverConfig,
               segments: tuple[formats.Segment, ...], stream_tokens: int, longest: int) -> tuple[Array, Array]:
    """The compiled step of index building: embeds one pack, a stream a device.

    Args:
      params: the encoder's, on every device.
      part: the pack's rows of the table, [streams, capacity, ...].
      real: [streams, capacity] bool, False where a stream has fewer passages.
      config: of the encoder, without dropout.
      segments: the retriever's format.
      stream_tokens: tokens a stream holds.
      longest: width of the attention rows; no passage is longer.

    Returns:
      Embeddings [streams, capacity, dim] float32 and lengths [streams, capacity] int32, 0 where not real.
    """
    flat = jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), part)  # [streams * capacity, ...]
    no_query = jnp.zeros((flat.lengths.shape[0], 1), jnp.int32)
    tokens, lengths = assembly.assemble(segments, no_query, jnp.zeros_like(no_query[:, 0]), flat, longest)
    lengths = jnp.where(real, lengths.reshape(real.shape), 0)
    stream = token_stream.pack(tokens.reshape(*real.shape, longest), lengths, stream_tokens, longest)
    return contriever.Contriever(config).apply({'params': params}, stream, deterministic=True), lengths


class PassageEmbedder:
    """A retriever's passage encoder with its input format.

    dim         numbers in an embedding
    max_tokens  limit of a passage with its special tokens
    """

    def __init__(self, config: contriever.ContrieverConfig, params: Any, segments: Sequence[formats.Segment], max_tokens: int,
                 tokens_per_batch: int | None = None):
        """Puts the parameters on every local device.

        Args:
          config: of the encoder.
          params: its parameters, a nested dict of arrays.
          segments: the retriever's format, special tokens included; literals, title and text.
          max_tokens: longer passages are cut at the end of their text.
          tokens_per_batch: tokens each device encodes at a time; None chooses by the kind of device.

        Raises:
          ConfigError: max_tokens exceeds the encoder's positions or tokens_per_batch, or the format has a query.
        """
        if max_tokens > config.max_positions:
            raise errors.ConfigError(f'passages of up to {max_tokens} tokens, but the retriever has {config.max_positions} positions; '
                                     f'set the limit to {config.max_positions} or less')
        if tokens_per_batch is None:
            tokens_per_batch = default_tokens_per_batch(jax.default_backend(), max_tokens)
        if max_tokens > tokens_per_batch:
            raise errors.ConfigError(f'tokens_per_batch {tokens_per_batch} must hold a passage of max_tokens {max_tokens}; raise it')
        if any(segment.kind == 'query' for segment in segments):
            raise errors.ConfigError('the retriever format has a {query}; passages are embedded without one: use {title} and {text}')
        # Dropout is off here: it must not make two models out of one.
        self._config = dataclasses.replace(config, dropout_rate=0.0)
        self._segments, self.max_tokens, self._stream_tokens = tuple(segments), max_tokens, tokens_per_batch
        self.dim = config.emb_dim
        self._mesh = partitioning.make_mesh(devices=jax.local_devices())
        self._params = jax.device_put(hosts.to_host(nn.meta.unbox(params)), partitioning.replicated(self._mesh))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything that changes an embedding."""
        return checksum.fingerprint((self._config, self._segments, self.max_tokens), self._params)

    def truncated(self, title_lengths: np.ndarray, lengths: np.ndarray) -> int:
        """How many passages are longer than the limit; their texts are cut. Both [n] int as in a TokenTable, uncut."""
        return int((self._whole_lengths(title_lengths, lengths) > self.max_tokens).sum())

    def embed(self, table: types.TokenTable, rows: np.ndarray, progress: tqdm.tqdm | None = None) -> np.ndarray:
        """Embeds passages.

        Args:
          table: token ids of the store, numpy arrays; may be cut at max_tokens.
          rows: [n] int, the table's rows to embed.
          progress: a bar to advance by passages.

        Returns:
          [n, dim] float32 in the order of `rows`.

        Raises:
          StoreError: a token id that the encoder does not have.
        """
        lengths = self._assembled_lengths(table, rows)
        embeddings = np.empty((len(rows), self.dim), np.float32)

        def run(pack: packing.PackedPassages) -> np.ndarray:
            values, encoded = embed_pack(self._params, *self._pack_inputs(table, rows, pack), config=self._config,
                                         segments=self._segments, stream_tokens=self._stream_tokens, longest=pack.longest)
            real = pack.members >= 0
            members = pack.members[real]
            # A length that differs from the one packed for would have been cut without a word.
            np.testing.assert_array_equal(np.asarray(encoded)[real], lengths[members])
            embeddings[members] = np.asarray(values)[real]
            return members

        with futures.ThreadPoolExecutor(_PACKS_AT_ONCE) as threads:
            for members in threads.map(run, packing.pack(lengths, self._mesh.size, self._stream_tokens, self.max_tokens)):
                if progress is not None:
                    progress.update(len(members))
        return embeddings

    def _assembled_lengths(self, table: types.TokenTable, rows: np.ndarray) -> np.ndarray:
        """[n] tokens of each passage in the encoder's format, cut to the limit."""
        return np.minimum(self._whole_lengths(np.asarray(table.title_lengths)[rows], np.asarray(table.lengths)[rows]), self.max_tokens)

    def _whole_lengths(self, title_lengths: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """[n] tokens of each passage in the encoder's format."""
        by_kind = {'title': title_lengths, 'text': lengths - title_lengths}
        return np.zeros(len(lengths), np.int64) + sum(by_kind.get(segment.kind, len(segment.ids)) for segment in self._segments)

    def _pack_inputs(self, table: types.TokenTable, rows: np.ndarray, pack: packing.PackedPassages) -> tuple[types.TokenTable, Array]:
        """The pack's rows of the table, [streams, capacity, ...], and which of them are real, one stream a device."""
        real = pack.members >= 0
        chosen = rows[np.where(real, pack.members, pack.members.flat[0])]
        part = jax.tree.map(lambda column: np.asarray(column)[chosen], table)
        if part.tokens.max(initial=0) >= self._config.vocab_size:
            raise errors.StoreError(f'the passages have token id {part.tokens.max()}, the retriever only {self._config.vocab_size} ids; '
                                    'build the store with the tokenizer of this retriever')
        return jax.device_put((part, real), partitioning.sharding(self._mesh, 'streams'))
