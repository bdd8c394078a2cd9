"""Gold scores: the reader's judgement of each passage, for the retriever to learn. No gradient flows into them."""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import distill, reader_xent
from atlas_jax.models import fid, t5
from atlas_jax.steps import read
from atlas_jax.steps import spec as spec_lib

Array = jax.Array


def beside_training(passages_read: read.EncodedPassages, batch_size: int, spec: spec_lib.StepSpec) -> t5.Beside | None:
    """Describes what the teacher reads as a reading beside that of the training forward; None where it needs one of its own.

    It needs its own where the scored passages are more or others than those that are read, and where each is left out in turn.
    """
    distillation, mask = spec.distillation, passages_read[1]
    here = spec.encoded_for_gold
    if here.start != here.stop or distillation.from_training_forward or distillation.gold_score_mode in ('loop', 'file'):
        return None
    if distillation.attention is not None:
        return fid.together(mask, batch_size, spec.passages_scored, (distillation.attention.kind,))
    return fid.alone(mask, batch_size, spec.passages_scored)


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


def judge(params: Any, scored: read.EncodedPassages, batch: types.Batch, decoder_inputs: Array,
          spec: spec_lib.StepSpec) -> tuple[Array, dict[str, Array]]:
    """Reads the scored passages as the mode wants them read, where no reading beside the training forward has done so.

    Args:
      params: the reader's.
      scored: of `scored_passages`.
      batch, decoder_inputs: targets, and targets shifted right.
      spec: static side of the step.

    Returns:
      Logits [batch, n, target_length, vocab] float32 of each passage alone, or in the mode `loop` of all but one; in the modes of attention
      those of all together, [batch, target_length, vocab]. And the recorded attention, as of read.decode_recording.
    """
    if spec.distillation.attention is not None:
        return read.decode_recording(params, decoder_inputs, scored, spec, (spec.distillation.attention.kind,))
    # Leave-one-out reads all passages but one, so no pass over single ones helps.
    logits_of = fid.leave_one_out if spec.distillation.gold_score_mode == 'loop' else fid.passage_logits
    return logits_of(spec.reader, params, *scored, decoder_inputs), {}


def passage_log_likelihoods(logits: Array, batch: types.Batch, spec: spec_lib.StepSpec) -> Array:
    """Returns the log likelihood of each target token given one passage alone, [batch, n, target_length] float32 (emdr).

    The logits [batch, n, target_length, vocab] are divided by the gold temperature first.
    """
    return -_nll(logits / spec.distillation.temperature_gold, batch)


def gold_scores(judged: tuple[Array, dict[str, Array]], batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec) -> Array:
    """Returns [batch, n] float32 in every mode but emdr.

    Args:
      judged: logits and recorded attention, as of `judge`.
      batch: the targets.
      inputs: the assembled passages.
      spec: static side of the step.
    """
    logits, recorded = judged
    if spec.distillation.attention is not None:
        return read.attended(recorded, spec.distillation.attention, batch, inputs, spec)
    if spec.distillation.gold_score_mode == 'loop':
        return distill.loop_gold_scores(_nll(logits, batch), batch.decoder_loss_weights)
    return distill.pdist_gold_scores(_nll(logits, batch), batch.decoder_loss_weights)


def _nll(logits: Array, batch: types.Batch) -> Array:
    """Returns the negative log likelihood of each target token, [batch, n, target_length] float32."""
    targets = jnp.broadcast_to(batch.decoder_target_tokens[:, None], logits.shape[:-1])
    return reader_xent.token_nll(logits, targets)
