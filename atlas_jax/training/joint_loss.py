"""The joint loss: the reader's loss on fused passages, plus the retriever's loss, distilled from
the reader's judgement of each passage.
"""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import distill, reader_xent
from atlas_jax.models import t5
from atlas_jax.steps import read, retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import gold_scores as gold_scores_lib

Array = jax.Array
Params = dict[str, Any]
Judged = tuple[Array, dict[str, Array]]  # logits, and recorded attention by kind


def joint_loss(params: Params, batch: types.Batch, inputs: types.ReaderInputs,
               spec: spec_lib.StepSpec, level: int, dropout_key: Array | None = None,
               updates_done: Array | int | None = None) -> tuple[Array, dict[str, Array]]:
    """Returns reader loss plus retriever loss (paper section 2.2) at one level of the stream
    capacities.

    Args:
      params: {'reader', 'retriever'}, and 'passage_encoder' where it is trained.
      batch: targets, their weights and the queries.
      inputs: the assembled passages; every stream fits `level`.
      spec: static side of the step.
      level: index into spec's capacities.
      dropout_key: key for dropout; None switches dropout off.
      updates_done: scalar int32; below freeze_retriever_steps the retriever's loss does not count.
        None lets it count.

    Returns:
      The loss, and a dict with the scalar `reader_loss`, and where the retriever is trained with
      the scalars `retriever_loss` and `agreement` (the share of examples for which retriever and
      reader rank the same passage first) and with `scores` and `gold_scores` [batch, n].
    """
    # Three keys, so that reader and retriever draw independent dropout.
    reader_key, query_key, passage_key = (None, ) * 3 if dropout_key is None else jax.random.split(
        dropout_key, 3)
    # Teacher forcing: the decoder sees the target shifted right behind the start token.
    decoder_inputs = t5.shift_right(batch.decoder_target_tokens,
                                    spec.config.reader.decoder_start_id)
    with jax.named_scope('read'):
        passages = read.encode(params['reader'], inputs.reader_tokens[:, :spec.passages_read],
                               inputs.reader_lengths[:, :spec.passages_read], spec,
                               spec.read[level], reader_key)
        decoder_key = None if reader_key is None else jax.random.fold_in(reader_key, 1)
        decoded, judged = _decode(params['reader'], decoder_inputs, passages, spec, decoder_key)
        nll = reader_xent.token_nll(decoded[0], batch.decoder_target_tokens)
        reader_loss = reader_xent.reader_loss(nll, batch.decoder_loss_weights)
    metrics = {'reader_loss': reader_loss}
    if not spec.passages_scored:
        return reader_loss, metrics
    with jax.named_scope('distil'):
        scores = _retriever_scores(params, batch, inputs, spec, level, query_key, passage_key)
        if judged is None and not spec.distillation.from_file:
            # The teacher is not trained by the retriever's loss: gold scores are constants (paper
            # section 2.2).
            frozen_reader, frozen_passages = jax.lax.stop_gradient((params['reader'], passages))
            scored = gold_scores_lib.scored_passages(frozen_reader, frozen_passages, inputs, spec,
                                                     level)
            judged = gold_scores_lib.judge(frozen_reader, scored, decoder_inputs, spec)
        retriever_loss, gold_scores = _taught(judged or decoded, scores, batch, inputs, spec)
    metrics |= {'retriever_loss': retriever_loss, 'scores': scores, 'gold_scores': gold_scores,
                'agreement': _agreement(scores, gold_scores)}
    # A factor, not another program: nothing compiles again when the retriever starts to train.
    if updates_done is not None and spec.distillation.freeze_retriever_steps:
        retriever_loss = jnp.where(updates_done < spec.distillation.freeze_retriever_steps, 0.0,
                                   retriever_loss)
    return reader_loss + retriever_loss, metrics


def _decode(params: Any, decoder_inputs: Array, passages: read.EncodedPassages,
            spec: spec_lib.StepSpec, key: Array | None) -> tuple[Judged, Judged | None]:
    """Returns logits and recorded attention of the training forward, and those of the teacher if
    they come from the same loop over layers.
    """
    if not spec.passages_scored:
        return read.decode_recording(params, decoder_inputs, passages, spec, (), key), None
    if spec.distillation.from_training_forward:
        # The std modes use the attention of this pass, dropout included.
        kinds = (types.required(spec.distillation.attention).kind, )
        decoded = read.decode_recording(params, decoder_inputs, passages, spec, kinds, key)
        return decoded, decoded
    # The teacher reads the same passages without dropout.
    beside = gold_scores_lib.beside_training(passages, len(decoder_inputs), spec)
    if beside is None:
        return read.decode_recording(params, decoder_inputs, passages, spec, (), key), None
    return read.decode_both(params, decoder_inputs, passages, spec, (), beside, key)


def _taught(judged: Judged, scores: Array, batch: types.Batch, inputs: types.ReaderInputs,
            spec: spec_lib.StepSpec) -> tuple[Array, Array]:
    """Returns the retriever's loss, and gold scores [batch, n], from the teacher's logits and
    attention.
    """
    logits, recorded = judged
    # The examples may bring more passages than the loss scores.
    if spec.distillation.from_file:
        gold_scores = types.required(batch.passage_gold_scores)[:, :scores.shape[1]]
        return _distilled(scores, gold_scores, batch, spec), gold_scores
    if spec.distillation.attention is None:  # each passage's own, [batch, n, target_length, vocab]
        judged = logits.reshape(len(scores), -1, *logits.shape[-2:]), recorded
    if spec.distillation.gold_score_mode != 'emdr':
        gold_scores = gold_scores_lib.gold_scores(judged, batch, inputs, spec)
        return _distilled(scores, gold_scores, batch, spec), gold_scores
    log_likelihoods = gold_scores_lib.passage_log_likelihoods(judged[0], batch, spec)
    loss = distill.emdr_loss(scores, log_likelihoods, batch.decoder_loss_weights,
                             temperature_score=spec.distillation.temperature_score)
    return loss, distill.pdist_gold_scores(-log_likelihoods, batch.decoder_loss_weights)


def _agreement(scores: Array, gold_scores: Array) -> Array:
    # An empty slot's gold score is 0, and could be the highest: log-likelihoods are below 0.
    gold_scores = jnp.where(jnp.isneginf(scores), -jnp.inf, gold_scores)
    return jnp.mean(jnp.argmax(scores, axis=-1) == jnp.argmax(gold_scores, axis=-1))


def _distilled(scores: Array, gold_scores: Array, batch: types.Batch,
               spec: spec_lib.StepSpec) -> Array:
    return distill.distillation_loss(scores, jax.lax.stop_gradient(gold_scores),
                                     temperature_score=spec.distillation.temperature_score,
                                     temperature_gold=spec.distillation.temperature_gold,
                                     example_weights=(batch.example_ids >= 0).astype(jnp.float32))


def _retriever_scores(params: Params, batch: types.Batch, inputs: types.ReaderInputs,
                      spec: spec_lib.StepSpec, level: int, query_key: Array | None,
                      passage_key: Array | None) -> Array:
    """Returns query . passage / sqrt(dim), [batch, n] float32; -inf marks empty slots."""
    queries = retrieve.embed_queries(params['retriever'], batch, spec, query_key)
    n = spec.passages_scored
    if inputs.passage_embeddings is not None:
        passages = inputs.passage_embeddings
    else:
        capacity = spec.embedded[level]
        tokens = types.required(inputs.retriever_tokens)
        lengths = types.required(inputs.retriever_lengths)
        stream = retrieve.pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest)
        encoder = params['passage_encoder'] if spec.trains_passage_encoder else params['retriever']
        passages = retrieve.embed(encoder, stream, spec,
                                  passage_key).reshape(queries.shape[0], n, -1)
    # b batch, n passages, d dim
    scores = jnp.einsum('bd,bnd->bn', queries, passages) / jnp.sqrt(jnp.float32(queries.shape[-1]))
    return scores if inputs.retrieved is None else jnp.where(
        jnp.isfinite(inputs.retrieved.scores[:, :n]), scores, -jnp.inf)
