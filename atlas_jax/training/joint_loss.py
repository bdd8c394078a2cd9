"""The joint loss: the reader's on fused passages, and the retriever's distilled from what each passage alone is worth to the reader."""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import distill, reader_xent
from atlas_jax.models import fid, t5
from atlas_jax.training import retrieve
from atlas_jax.training import spec as spec_lib

Array = jax.Array
Params = dict[str, Any]


def joint_loss(params: Params, batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec, level: int,
               dropout_key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """Reader loss plus retriever loss (paper section 2.2) at one level of the stream capacities.

    Args:
      params: {'reader', 'retriever'}.
      batch: targets, their weights and the queries.
      inputs: the assembled passages; every stream fits `level`.
      spec: static side of the step.
      level: index into spec's capacities.
      dropout_key: None switches dropout off.

    Returns:
      The loss, and scalars `reader_loss`, `retriever_loss`, and `scores`, `gold_scores` [batch, n] where the retriever is trained.
    """
    reader_key, query_key, passage_key = (None,) * 3 if dropout_key is None else jax.random.split(dropout_key, 3)
    decoder_inputs = t5.shift_right(batch.decoder_target_tokens, spec.config.reader.decoder_start_id)
    read = passage_keys_values(params['reader'], inputs.reader_tokens[:, :spec.passages_read],
                               inputs.reader_lengths[:, :spec.passages_read], spec, spec.read[level], reader_key)
    batch_size = decoder_inputs.shape[0]
    logits = decode(params['reader'], decoder_inputs, *fuse(*read, batch_size), spec, reader_key)
    nll = reader_xent.token_nll(logits, batch.decoder_target_tokens)
    reader_loss = reader_xent.reader_loss(nll, batch.decoder_loss_weights)
    metrics = {'reader_loss': reader_loss}
    if not spec.passages_scored:
        return reader_loss, metrics
    frozen_reader, frozen_read = jax.lax.stop_gradient((params['reader'], read))
    gold_scores = _gold_scores(frozen_reader, frozen_read, batch, decoder_inputs, inputs, spec, level)
    scores = _retriever_scores(params['retriever'], batch, inputs, spec, level, query_key, passage_key)
    retriever_loss = distill.distillation_loss(
        scores, gold_scores, temperature_score=spec.distill.temperature_score, temperature_gold=spec.distill.temperature_gold,
        example_weights=(batch.example_ids >= 0).astype(jnp.float32))
    metrics |= {'retriever_loss': retriever_loss, 'scores': scores, 'gold_scores': gold_scores}
    return reader_loss + retriever_loss, metrics


def passage_keys_values(params, tokens: Array, lengths: Array, spec: spec_lib.StepSpec, capacity, dropout_key: Array | None):
    """Encodes passages [batch, n, width] in the flat layout and projects them once to every decoder layer's keys and values.

    Returns:
      (keys, values), each [layers, batch * n, longest, heads, head_dim], and the mask [batch * n, longest] bool.
    """
    stream = retrieve.pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest)
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    encoded = spec.reader.apply({'params': params}, stream, deterministic=dropout_key is None, rngs=rngs, method='encode')
    keys_values = spec.reader.apply({'params': params}, encoded, method='cross_keys_values')
    return fid.passage_rows(stream, keys_values)


def fuse(keys_values, mask: Array, batch_size: int):
    """Passages of one example side by side: [batch, n * longest, ...], Fusion-in-Decoder (Izacard and Grave 2021)."""
    return fid.fuse(keys_values, mask, batch_size)


def decode(params, decoder_inputs: Array, keys_values, mask: Array, spec: spec_lib.StepSpec, dropout_key: Array | None = None) -> Array:
    """Logits [batch, target_length, vocab] float32."""
    rngs = None if dropout_key is None else {'dropout': jax.random.fold_in(dropout_key, 1)}
    return spec.reader.apply({'params': params}, decoder_inputs, keys_values, mask, deterministic=dropout_key is None, rngs=rngs,
                             method='decode')


def _gold_scores(params, read, batch: types.Batch, decoder_inputs: Array, inputs: types.ReaderInputs, spec: spec_lib.StepSpec,
                 level: int) -> Array:
    """pdist: minus the mean loss of the target with the decoder seeing one passage alone, [batch, n]; no gradient.

    The passages that are read share the training forward's encoder states; the others are encoded here, forward only.
    """
    scored, from_read = spec.passages_scored, min(spec.passages_read, spec.passages_scored)
    parts = [_passage_nll(params, read, decoder_inputs, batch, spec.passages_read, spec)[:, :from_read]]
    if scored > from_read:
        rest = passage_keys_values(params, inputs.reader_tokens[:, from_read:scored], inputs.reader_lengths[:, from_read:scored], spec,
                                   spec.scored[level], None)
        parts.append(_passage_nll(params, rest, decoder_inputs, batch, scored - from_read, spec))
    nll = jnp.concatenate(parts, axis=1)  # [batch, n, target_length]
    return jax.lax.stop_gradient(distill.pdist_gold_scores(nll, batch.decoder_loss_weights))


def _passage_nll(params, rows, decoder_inputs: Array, batch: types.Batch, n: int, spec: spec_lib.StepSpec) -> Array:
    logits = decode(params, jnp.repeat(decoder_inputs, n, axis=0), *rows, spec)  # [batch * n, target_length, vocab]
    nll = reader_xent.token_nll(logits, jnp.repeat(batch.decoder_target_tokens, n, axis=0))
    return nll.reshape(-1, n, nll.shape[-1])


def _retriever_scores(params, batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec, level: int,
                      query_key: Array | None, passage_key: Array | None) -> Array:
    """query . passage / sqrt(dim) [batch, n] float32; -inf where nothing was retrieved."""
    queries = retrieve.embed_queries(params, batch, spec, query_key)
    n = spec.passages_scored
    if inputs.passage_embeddings is not None:
        passages = inputs.passage_embeddings
    else:
        capacity = spec.embedded[level]
        stream = retrieve.pack(inputs.retriever_tokens, inputs.retriever_lengths, spec, capacity.stream_tokens, capacity.longest)
        passages = retrieve.embed(params, stream, spec, passage_key).reshape(queries.shape[0], n, -1)
    scores = jnp.einsum('bd,bnd->bn', queries, passages) / jnp.sqrt(jnp.float32(queries.shape[-1]))  # b batch, n passages, d dim
    return scores if inputs.retrieved is None else jnp.where(jnp.isfinite(inputs.retrieved.scores[:, :n]), scores, -jnp.inf)
