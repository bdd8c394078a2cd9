"""Model FLOPs: the FLOPs that a step's models need for its tokens, to measure utilisation (MFU).

Only matrix products count: two FLOPs per multiply-add, and a backward pass of twice the forward
pass. Padding, recomputation, the search and re-ranked candidates do not count.
"""

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.models import contriever, t5
from atlas_jax.steps import spec as spec_lib

Array = jax.Array
_TRAINED = 3  # forward and backward, in forward passes


def of_step(spec: spec_lib.StepSpec, batch: types.Batch, inputs: types.ReaderInputs) -> Array:
    """Returns the FLOPs of the joint loss, its gradients and the embedding of the search's queries
    for one (micro-)batch, scalar float32.
    """
    reader = spec.config.reader
    # [batch]
    targets = jnp.sum(batch.decoder_loss_weights > 0, axis=-1, dtype=jnp.float32)
    read = inputs.reader_lengths[:, :spec.passages_read]
    only_scored = inputs.reader_lengths[:, spec.encoded_for_gold]
    # The backward pass of a product is two products of its size.
    total = _TRAINED * (of_passages(reader, read) +
                        of_decoder(reader, targets, jnp.sum(read, axis=-1)))
    queries = of_retriever(spec.config.retriever, batch.retriever_query_lengths)
    # A searcher of the host embeds queries in another program.
    if not spec.closed_book and not spec.search.on_host:
        total += queries
    if not spec.passages_scored:
        return total
    if spec.embeds_passages:
        total += _TRAINED * of_retriever(spec.config.retriever,
                                         types.required(inputs.retriever_lengths))
    scored = inputs.reader_lengths[:, :spec.passages_scored]
    return total + _TRAINED * queries + of_passages(reader, only_scored) + _of_gold_scores(
        spec, targets, scored)


def _of_gold_scores(spec: spec_lib.StepSpec, targets: Array, scored: Array) -> Array:
    """Returns the FLOPs of the decoder's passes over the scored passages [batch, n], whose encoder
    states exist already.
    """
    reader, together = spec.config.reader, jnp.sum(scored, axis=-1)
    if spec.distillation.from_training_forward or spec.distillation.from_file:
        return jnp.float32(0)
    if spec.distillation.attention is not None:
        return of_decoder(reader, targets, together)
    contexts = together[:, None] - scored if spec.distillation.gold_score_mode == 'loop' else scored
    return of_decoder(reader, targets[:, None], contexts)


def of_passages(config: t5.T5Config, lengths: Array) -> Array:
    """Returns the FLOPs of the encoder's forward pass over passages of these lengths, and of the
    keys and values that the decoder's layers read.
    """
    joined = config.num_heads * config.head_dim
    weights = 4 * config.emb_dim * joined + _of_mlp(config)
    keys_values = config.num_decoder_layers * 2 * config.emb_dim * joined
    return _of_layers(config.num_encoder_layers, weights, joined,
                      lengths) + 2.0 * keys_values * jnp.sum(lengths, dtype=jnp.float32)


def of_decoder(config: t5.T5Config, targets: Array, contexts: Array) -> Array:
    """Returns the FLOPs of the decoder's forward pass over sequences of `targets` tokens that read
    `contexts` tokens each; the shapes broadcast.
    """
    joined = config.num_heads * config.head_dim
    # `of_passages` counts the keys and values of the passages.
    layer = 6 * config.emb_dim * joined + _of_mlp(config)
    targets, contexts = jnp.broadcast_arrays(jnp.asarray(targets, jnp.float32),
                                             jnp.asarray(contexts, jnp.float32))
    # A float: at 11B the number exceeds an int32.
    per_token = float(config.num_decoder_layers * layer + config.emb_dim * config.vocab_size)
    attention = config.num_decoder_layers * 2 * joined * (targets + contexts)
    return 2.0 * jnp.sum(targets * (per_token + attention))


def of_retriever(config: contriever.ContrieverConfig, lengths: Array) -> Array:
    """Returns the FLOPs of the retriever's forward pass over inputs of these lengths [...] int."""
    weights = 4 * config.emb_dim**2 + 2 * config.emb_dim * config.mlp_dim
    return _of_layers(config.num_layers, weights, config.emb_dim, lengths)


def _of_mlp(config: t5.T5Config) -> int:
    return (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim


def _of_layers(layers: int, weights: int, joined: int, lengths: Array) -> Array:
    lengths = jnp.asarray(lengths, jnp.float32)
    return 2.0 * layers * jnp.sum(lengths * (weights + 2 * joined * lengths))
