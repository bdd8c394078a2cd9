"""The evaluation step: how likely the reader finds each target, and which passages it attended to,
in one compiled program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import errors, types
from atlas_jax.losses import attention_scores, reader_xent
from atlas_jax.models import t5
from atlas_jax.steps import buckets, read, retrieve
from atlas_jax.steps.compile import compile_step
from atlas_jax.steps.spec import StepSpec

EvalStep = Callable[..., 'Evaluated']
Params = dict[str, Any]


class Evaluated(struct.PyTreeNode):
    """The quantities behind perplexity and the agreement of reader and retriever.

    nll            [batch] float32  negative log likelihood, summed over the target tokens
    target_tokens  [batch] float32  number of target tokens; 0 for a filler example
    retrieved      Retrieved with top_k = n_context, the retriever's scores; None without a search
    attention      {name: [batch, n_context] float32}  each passage's cross attention, by each
                                                       requested statistic
    """

    nll: jax.Array
    target_tokens: jax.Array
    retrieved: types.Retrieved | None
    attention: dict[str, jax.Array]


def make_eval_step(spec: StepSpec, cross_attention_statistics: Sequence[str] = ()) -> EvalStep:
    """Returns the compiled step `(params, batch, knowledge, retrieved=None) -> Evaluated`, without
    dropout. It retrieves like the answer step.

    Args:
      spec: static side of the step; its distill is None.
      cross_attention_statistics: names of losses/attention_scores.STATISTICS to compute.

    Raises:
      ConfigError: an unknown statistic.
    """
    # Tracing would find an unknown name only after the model was loaded.
    unknown = [
        name for name in cross_attention_statistics if name not in attention_scores.STATISTICS]
    if unknown:
        raise errors.ConfigError(f'cross_attention_statistics names "{unknown[0]}"; choose from '
                                 f'{", ".join(attention_scores.STATISTICS)}')

    return compile_step(eval_step, spec, tuple(cross_attention_statistics))


def eval_step(spec: StepSpec, statistics: tuple[str, ...], params: Params, batch: types.Batch,
              knowledge: types.Knowledge | None,
              retrieved: types.Retrieved | None = None) -> Evaluated:
    """Retrieves and reads the targets, in graph; `make_eval_step` compiles it."""
    inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec, retrieved,
                                            params.get('passage_encoder'))
    level = read.capacity_level(inputs, spec)
    branches = [
        functools.partial(_read, batch=batch, inputs=inputs, spec=spec, capacity=capacity,
                          names=statistics) for capacity in spec.read]
    nll, attention = jax.lax.switch(level, branches, params['reader'])
    return Evaluated(nll=nll, target_tokens=jnp.sum(batch.decoder_loss_weights, axis=-1),
                     retrieved=inputs.retrieved, attention=attention)


def _read(params: Any, batch: types.Batch, inputs: types.ReaderInputs, spec: StepSpec,
          capacity: buckets.Capacity,
          names: Sequence[str]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the targets' negative log likelihoods [batch] float32, and each statistic [batch,
    n_context] float32.
    """
    n = spec.passages_read
    decoder_inputs = t5.shift_right(batch.decoder_target_tokens,
                                    spec.config.reader.decoder_start_id)
    passages = read.encode(params, inputs.reader_tokens[:, :n], inputs.reader_lengths[:, :n], spec,
                           capacity, None)
    statistics = {name: attention_scores.STATISTICS[name] for name in names}
    # Several statistics reduce the same kind of attention, which is recorded once.
    kinds = tuple(sorted({statistic.kind for statistic in statistics.values()}))
    logits, recorded = read.decode_recording(params, decoder_inputs, passages, spec, kinds)
    nll = jnp.sum(
        reader_xent.token_nll(logits, batch.decoder_target_tokens) * batch.decoder_loss_weights,
        axis=-1)
    return nll, {
        name: read.attended(recorded, statistic, batch, inputs, spec)
        for name, statistic in statistics.items()}
