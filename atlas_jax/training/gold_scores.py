"""Gold scores: the reader's judgement of each passage, which the retriever learns. They carry no
gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import distill, reader_xent
from atlas_jax.models import fid, readings
from atlas_jax.steps import read
from atlas_jax.steps import spec as spec_lib

Array = jax.Array


def beside_training(passages_read: read.EncodedPassages, batch_size: int,
                    spec: spec_lib.StepSpec) -> readings.Beside | None:
    """Returns the teacher's reading as one that shares the training forward's loop over layers, or
    None if it needs a pass of its own.

    It needs its own pass if it scores passages that are not read, and in the mode `loop`.
    """
    distillation, mask = spec.distillation, passages_read[1]
    here = spec.encoded_for_gold
    if here.start != here.stop or distillation.from_training_forward:
        return None
    if distillation.gold_score_mode in ('loop', 'file'):
        return None
    if distillation.attention is not None:
        return fid.together(mask, batch_size, spec.passages_scored, (distillation.attention.kind,))
    return fid.alone(mask, batch_size, spec.passages_scored)


def scored_passages(params: Any, passages_read: read.EncodedPassages, inputs: types.ReaderInputs,
                    spec: spec_lib.StepSpec, level: int) -> read.EncodedPassages:
    """Returns the scored passages, encoded.

    Passages that are read share the training forward's states, unless gold_scores is "exact". The
    others are encoded here, forward only and without dropout.
    """
    # A slice: the passages that are read come first.
    batch, here = inputs.reader_tokens.shape[0], spec.encoded_for_gold
    if here.start == here.stop:
        return fid.first_passages(*passages_read, batch, spec.passages_scored)
    encoded = read.encode(params, inputs.reader_tokens[:, here], inputs.reader_lengths[:, here],
                          spec, spec.scored[level], None)
    return fid.join_passages(passages_read, encoded, batch) if here.start else encoded


def judge(params: Any, scored: read.EncodedPassages, decoder_inputs: Array,
          spec: spec_lib.StepSpec) -> tuple[Array, dict[str, Array]]:
    """Reads the scored passages in a pass of its own, in the way of the gold score mode.

    Args:
      params: the reader's parameters.
      scored: passages from `scored_passages`.
      decoder_inputs: targets shifted right.
      spec: static side of the step.

    Returns:
      Logits and recorded attention, as read.decode_recording returns them. The logits are those of
      each passage alone, [batch, n, target_length, vocab] float32; in the mode `loop` those of all
      but one; in the attention modes those of all together, [batch, target_length, vocab].
    """
    if spec.distillation.attention is not None:
        return read.decode_recording(params, decoder_inputs, scored, spec,
                                     (spec.distillation.attention.kind, ))
    loop = spec.distillation.gold_score_mode == 'loop'
    logits_of = fid.leave_one_out if loop else fid.passage_logits
    return logits_of(spec.reader, params, *scored, decoder_inputs), {}


def passage_log_likelihoods(logits: Array, batch: types.Batch, spec: spec_lib.StepSpec) -> Array:
    """Returns the log likelihood of each target token given one passage alone, [batch, n,
    target_length] float32 (emdr).

    The logits [batch, n, target_length, vocab] are divided by the gold temperature first.
    """
    return -_nll(logits / spec.distillation.temperature_gold, batch)


def gold_scores(judged: tuple[Array, dict[str, Array]], batch: types.Batch,
                inputs: types.ReaderInputs, spec: spec_lib.StepSpec) -> Array:
    """Returns the gold scores [batch, n] float32, in every mode except emdr.

    Args:
      judged: logits and recorded attention, as `judge` returns them.
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
    """Returns the negative log likelihood of each target token, [batch, n, target_length] float32.
    """
    targets = jnp.broadcast_to(batch.decoder_target_tokens[:, None], logits.shape[:-1])
    return reader_xent.token_nll(logits, targets)
