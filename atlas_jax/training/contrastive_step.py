"""The contrastive step: one compiled program from pairs of token rows to an updated retriever, its
momentum encoder and its queue.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from atlas_jax import partitioning, types
from atlas_jax.losses import info_nce as losses
from atlas_jax.models import contriever
from atlas_jax.nn import token_stream
from atlas_jax.steps import buckets, retrieve
from atlas_jax.steps.compile import compile_step, first_that_fits
from atlas_jax.training import model_flops
from atlas_jax.training import optimizer as optimizer_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training.contrastive import ContrastiveSpec
from atlas_jax.training.state import ContrastiveState

Array = jax.Array
Metrics = dict[str, Array]
ContrastiveStep = Callable[..., tuple[ContrastiveState, Metrics]]

# the step's scopes, into which a profile is divided (report/run_profile.py)
PARTS = ('keys', 'contrast', 'update')
_ROUNDING = 1  # folded into the seed: the stream of random numbers that rounds bfloat16 parameters


def make_contrastive_step(spec: ContrastiveSpec, config: optimizer_lib.OptimizerConfig,
                          seed: int = 0) -> ContrastiveStep:
    """Returns the compiled step `(state, batch) -> (state, metrics)`; it donates the state. Metrics
    are scalars.

    With MoCo, the momentum encoder embeds the passages. The step compares the queries with them and
    with the queue, updates the retriever, moves the momentum encoder, and puts the passages'
    embeddings into the queue.
    """
    def computing_again(remat: str) -> ContrastiveStep:
        given = dataclasses.replace(spec, step=dataclasses.replace(spec.step, remat=remat))
        return compile_step(contrastive_step, given, config, seed, donate=(0, ),
                            out_shardings=_out_shardings)

    return first_that_fits(spec, computing_again)


@functools.lru_cache(maxsize=8)  # the same object, so that programs compiled with it are reused
def optimizer_for(config: optimizer_lib.OptimizerConfig) -> optax.GradientTransformation:
    """Returns the optimiser of a retriever alone: the retriever's learning rate, clipped by its own
    gradient's norm.
    """
    return optimizer_lib.make_optimizer(config)


def contrastive_step(spec: ContrastiveSpec, config: optimizer_lib.OptimizerConfig, seed: int,
                     state: ContrastiveState,
                     batch: types.ContrastiveBatch) -> tuple[ContrastiveState, Metrics]:
    """Embeds, compares and updates, in graph; `make_contrastive_step` compiles it."""
    # Folded from the step's number, not carried along: a resumed run draws the same numbers.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    gradients, keys, metrics = gradients_of(spec, state, batch,
                                            key if spec.config.dropout_rate > 0 else None)
    metrics |= {
        'retriever_learning_rate': optimizer_lib.learning_rates(
            config, state.step)['retriever_learning_rate'],
        'gradient_norm': optax.tree.norm(gradients), 'model_flops': flops_of(spec, batch),
        'retriever_tokens': batch.query_lengths.sum() + batch.passage_lengths.sum()}
    with jax.named_scope('update'):
        updates, moments = optimizer_for(config).update(gradients, state.optimizer_state,
                                                        state.params)
        params = optimizer_lib.apply_updates(state.params, updates,
                                             jax.random.fold_in(key, _ROUNDING))
        after = state.replace(step=state.step + 1, params=params, optimizer_state=moments)
        if spec.contrastive.moco:
            momentum = momentum_at(spec, config.schedule_steps, state.step)
            queue, pointer = losses.enqueue(state.queue, state.queue_pointer, types.required(keys))
            # Towards the updated encoder (He et al. 2019, algorithm 1).
            slow = losses.momentum_update(state.momentum_encoder, params['retriever'], momentum)
            after = after.replace(momentum_encoder=slow, queue=queue, queue_pointer=pointer)
            metrics['momentum'] = momentum
    return after, metrics


def momentum_at(spec: ContrastiveSpec, schedule_steps: int, updates_done: Array | int) -> Array:
    """Returns the momentum of the update after `updates_done`, scalar float32: constant, or rising
    to 1 over half a cosine.
    """
    options = spec.contrastive
    if options.momentum_schedule == 'constant':
        return jnp.float32(options.momentum)
    done = jnp.clip(jnp.asarray(updates_done, jnp.float32) / schedule_steps, 0.0, 1.0)
    return 1.0 - (1.0 - options.momentum) * (jnp.cos(math.pi * done) + 1.0) / 2.0


def gradients_of(spec: ContrastiveSpec, state: ContrastiveState, batch: types.ContrastiveBatch,
                 dropout_key: Array | None = None) -> tuple[dict[str, Any], Array | None, Metrics]:
    """Returns gradients shaped like the parameters, MoCo's keys [batch, dim], and scalar metrics,
    at the smallest capacities that fit.
    """
    # Before the switch: all chunks' streams must fit the level.
    chunked = _chunks(spec, batch, dropout_key)

    def branch(level: int):
        return lambda: _at_level(spec, state, batch, chunked, level)

    # Chosen outside the gradient: differentiating through the switch would keep every branch's
    # residuals.
    level = buckets.level([
        (chunked['query_lengths'].reshape(-1, chunked['query_lengths'].shape[-1]), spec.queries),
        (chunked['passage_lengths'].reshape(-1,
                                            chunked['passage_lengths'].shape[-1]), spec.passages)])
    gradients, keys, metrics = jax.lax.switch(
        level, [branch(number) for number in range(len(spec.queries))])
    return gradients, keys, metrics | {'capacity_level': level}


def _at_level(spec: ContrastiveSpec, state: ContrastiveState, batch: types.ContrastiveBatch,
              chunks: dict[str, Array], level: int) -> tuple[dict[str, Any], Array | None, Metrics]:
    options = spec.contrastive

    def queries_of(params: Any, chunk: dict[str, Array]) -> Array:
        found = _embed(spec, params, chunk, 'query', spec.queries[level])
        return contriever.unit_length(found) if options.normalize_query else found

    def passages_of(params: Any, chunk: dict[str, Array]) -> Array:
        found = _embed(spec, params, chunk, 'passage', spec.passages[level])
        return contriever.unit_length(found) if options.normalize_passage else found

    settings = {'temperature': options.temperature, 'label_smoothing': options.label_smoothing}
    if not options.moco:
        # Both sides have gradients.
        def compare(embeddings: tuple[Array, Array]) -> tuple[Array, Array]:
            queries, passages = (_joined(spec, part) for part in embeddings)
            passages = passages.reshape(spec.batch_size, spec.passages_each, -1)
            return losses.in_batch_loss(queries, passages, batch.identities, batch.positives,
                                        **settings)

        def encode(params: Any, chunk: dict[str, Array]) -> tuple[Array, Array]:
            return queries_of(params['retriever'], chunk), passages_of(params['retriever'], chunk)

        with jax.named_scope('contrast'):
            (value, accuracy), gradients = chunked_gradients(
                encode, compare, state.params, chunks)
        return gradients, None, {'loss': value, 'accuracy': accuracy}
    # Keys have no gradient. They are computed by chunks too, since all at once may not fit.
    with jax.named_scope('keys'):
        keys = _joined(
            spec, jax.lax.map(lambda chunk: passages_of(state.momentum_encoder, chunk), chunks))

    def compare_with_queue(queries: Array) -> tuple[Array, Array]:
        return losses.moco_loss(_joined(spec, queries), keys, state.queue, **settings)

    with jax.named_scope('contrast'):
        (value, accuracy), gradients = chunked_gradients(
            lambda params, chunk: queries_of(params['retriever'], chunk), compare_with_queue,
            state.params, chunks)
    return gradients, keys, {'loss': value, 'accuracy': accuracy}


def _embed(spec: ContrastiveSpec, params: dict[str, Any], chunk: dict[str, Array], side: str,
           capacity: buckets.Capacity) -> Array:
    """Embeds a chunk's queries or passages, [streams, n, dim]."""
    tokens = partitioning.constrain(chunk[f'{side}_tokens'], spec.mesh, 'streams')
    stream = token_stream.pack(tokens, chunk[f'{side}_lengths'], capacity.stream_tokens,
                               capacity.longest)
    key = None
    if 'key' in chunk:  # a different key for each side
        key = jax.random.fold_in(jax.random.wrap_key_data(chunk['key']), side == 'passage')
    return retrieve.embed(params, stream, spec, key)


def _chunks(spec: ContrastiveSpec, batch: types.ContrastiveBatch,
            key: Array | None) -> dict[str, Array]:
    """Cuts a batch into chunks with an equal part of every device's rows: arrays [chunks, streams,
    n, ...], and a key for each chunk.
    """
    count = spec.contrastive.chunks

    def cut(rows: Array) -> Array:
        # [batch, ...] -> [streams, chunks, batch / streams / chunks, ...] -> [chunks, streams,
        # ...]: no row leaves its device
        rows = rows.reshape(spec.streams, count, -1, *rows.shape[1:])
        return jnp.swapaxes(rows, 0, 1)

    def of_passages(rows: Array) -> Array:
        # [chunks, streams, examples, n, ...] -> [chunks, streams, examples * n, ...]
        return rows.reshape(*rows.shape[:2], -1, *rows.shape[4:])

    found = {
        'query_tokens': cut(batch.query_tokens), 'query_lengths': cut(batch.query_lengths),
        'passage_tokens': of_passages(cut(batch.passage_tokens)),
        'passage_lengths': of_passages(cut(batch.passage_lengths))}
    if key is not None:
        # As numbers, which a loop can carry.
        found['key'] = jax.random.key_data(jax.random.split(key, count))
    return found


def _joined(spec: ContrastiveSpec, embeddings: Array) -> Array:
    """Returns embeddings [chunks, streams, n, dim] in the order of the batch, replicated on every
    device: [batch * passages, dim].
    """
    rows = jnp.swapaxes(embeddings, 0, 1).reshape(-1, embeddings.shape[-1])
    # A few megabytes go to every device; the much larger queue stays where it is.
    return jax.lax.with_sharding_constraint(rows, partitioning.replicated(spec.mesh))


def chunked_gradients(encode: Callable[[Any, Any], Any], loss: Callable[[Any], tuple[Array, Any]],
                      params: Any, chunks: Any) -> tuple[tuple[Array, Any], Any]:
    """Returns ((loss, auxiliary), gradients) of a loss over all embeddings of a batch, as
    jax.value_and_grad does, with the activations of one chunk in memory at a time.

    GradCache (Gao et al. 2021, arXiv 2101.06983): embed all chunks without gradient, take the loss
    and its gradient by the embeddings, then encode each chunk again and carry its part of that
    gradient back to the parameters. The parts add up to the gradient of the whole batch.

    Args:
      encode: (params, chunk) -> a tree of embeddings. It is called twice, so anything random in it
        must depend on the chunk alone.
      loss: the embeddings of all chunks, a tree of arrays [chunks, ...] -> (scalar loss, an
        auxiliary tree).
      params: a tree of arrays; the gradients are shaped like it.
      chunks: a tree of arrays [chunks, ...]. One chunk is computed without the second pass.
    """
    if jax.tree.leaves(chunks)[0].shape[0] == 1:
        def whole(params: Any) -> tuple[Array, Any]:
            embeddings = encode(params, jax.tree.map(lambda leaf: leaf[0], chunks))
            return loss(jax.tree.map(lambda leaf: leaf[None], embeddings))

        return jax.value_and_grad(whole, has_aux=True)(params)
    # A loop, so that one chunk is in memory at a time.
    embeddings = jax.lax.map(lambda chunk: encode(params, chunk), chunks)
    value, cached = jax.value_and_grad(loss, has_aux=True)(embeddings)

    def add_chunk(total: Any, part: tuple[Any, Any]) -> tuple[Any, None]:
        chunk, gradient = part
        _, backward = jax.vjp(lambda params: encode(params, chunk), params)
        return jax.tree.map(jnp.add, total, backward(gradient)[0]), None

    # Zeros of the parameters' own types, which gradients have too.
    total, _ = jax.lax.scan(add_chunk, jax.tree.map(jnp.zeros_like, params), (chunks, cached))
    return value, total


def flops_of(spec: ContrastiveSpec, batch: types.ContrastiveBatch) -> Array:
    """Returns the encoder's FLOPs for a batch, forward and backward, scalar float32."""
    queries = model_flops.of_retriever(spec.config, batch.query_lengths)
    passages = model_flops.of_retriever(spec.config, batch.passage_lengths)
    # Forward and backward; keys have no backward pass.
    return 3.0 * queries + (1.0 if spec.contrastive.moco else 3.0) * passages


def _out_shardings(spec: ContrastiveSpec, config: optimizer_lib.OptimizerConfig,
                   _: int) -> tuple[ContrastiveState, None]:
    return state_lib.contrastive_shardings(spec, optimizer_for(config)), None
