"""Gold scores: the reader's judgement of each passage, for the retriever to learn. No gradient flows into them."""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import distill, reader_xent
from atlas_jax.models import fid
from atlas_jax.steps import read
from atlas_jax.steps import spec as spec_lib

Array = jax.Array


def scored_passages(params: Any, passages_read: read.EncodedPassages, inputs: types.ReaderInputs, spec: spec_lib.StepSpec,
                    level: int) -> read.EncodedPassages:
    """Returns the passages that are scored, encoded.

    Those that are read share the training forward's states, unless the gold scores are to be exact; the others are encoded here, forward
    only and without dropout.
    """
    # A slice: what is read comes first, so the rest is what is missing.
    batch, here = inputs.reader_tokens.shape[0], spec.encoded_for_gold
    if here.start == here.stop:
        return fid.first_passages(*passages_read, batch, spec.passages_scored)
    encoded = read.encode(params, inputs.reader_tokens[:, here], inputs.reader_lengths[:, here], spec, spec.scored[level], None)
    return fid.join_passages(passages_read, encoded, batch) if here.start else encoded


def passage_log_likelihoods(params: Any, scored: read.EncodedPassages, batch: types.Batch, decoder_inputs: Array,
                            spec: spec_lib.StepSpec) -> Array:
    """Returns the log likelihood of each target token given one passage alone, [batch, n, target_length] float32 (emdr).

    The logits are divided by the gold temperature first.
    """
    logits = fid.passage_logits(spec.reader, params, *scored, decoder_inputs)
    return -_nll(logits / spec.distillation.temperature_gold, batch)


def gold_scores(params: Any, scored: read.EncodedPassages, batch: types.Batch, decoder_inputs: Array, inputs: types.ReaderInputs,
                spec: spec_lib.StepSpec) -> Array:
    """Returns [batch, n] float32 in every mode but emdr and those that take the training forward's attention (read.attended).

    Args:
      params: the reader's.
      scored: of `scored_passages`.
      batch, decoder_inputs: targets, and targets shifted right.
      inputs: the assembled passages.
      spec: static side of the step.
    """
    if spec.distillation.attention is not None:
        statistic = spec.distillation.attention
        _, recorded = read.decode_recording(params, decoder_inputs, scored, spec, (statistic.kind,))
        return read.attended(recorded, statistic, batch, inputs, spec)
    # Leave-one-out reads all passages but one, so no pass over single ones helps.
    if spec.distillation.gold_score_mode == 'loop':
        logits = fid.leave_one_out_logits(spec.reader, params, *scored, decoder_inputs)
        return distill.loop_gold_scores(_nll(logits, batch), batch.decoder_loss_weights)
    logits = fid.passage_logits(spec.reader, params, *scored, decoder_inputs)
    return distill.pdist_gold_scores(_nll(logits, batch), batch.decoder_loss_weights)


def _nll(logits: Array, batch: types.Batch) -> Array:
    """Returns the negative log likelihood of each target token, [batch, n, target_length] float32."""
    targets = jnp.broadcast_to(batch.decoder_target_tokens[:, None], logits.shape[:-1])
    return reader_xent.token_nll(logits, targets)
