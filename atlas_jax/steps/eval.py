"""The evaluation step: how likely the reader finds each target, and which passages it looked at, in one jitted program."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import errors, partitioning, types
from atlas_jax.losses import attention_scores, reader_xent
from atlas_jax.models import fid, t5
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import gold_scores, train_step

EvalStep = Callable[..., 'Evaluated']


@struct.dataclass
class Evaluated:
    """What perplexity and the agreement of reader and retriever are made of.

    nll            [batch] float32              sum over the target tokens of their negative log likelihood
    target_tokens  [batch] float32              their number; 0 for a filler example
    retrieved      Retrieved with top_k = n_context, the retriever's scores; None where nothing was searched for
    attention      {name: [batch, n_context] float32}  what each passage got of the decoder's cross attention, by each statistic asked for
    """

    nll: jax.Array
    target_tokens: jax.Array
    retrieved: types.Retrieved | None
    attention: dict[str, jax.Array]


def make_eval_step(spec: spec_lib.StepSpec, cross_attention_statistics: Sequence[str] = ()) -> EvalStep:
    """The jitted step `(params, batch, knowledge, retrieved=None) -> Evaluated`, without dropout; retrieves as the answer step does.

    Args:
      spec: static side; its distill is None.
      cross_attention_statistics: names of losses/attention_scores.STATISTICS; what is not asked for costs nothing.

    Raises:
      ConfigError: an unknown statistic.
    """
    unknown = [name for name in cross_attention_statistics if name not in attention_scores.STATISTICS]
    if unknown:
        raise errors.ConfigError(f'cross_attention_statistics names "{unknown[0]}"; choose from {", ".join(attention_scores.STATISTICS)}')

    def eval_step(params, batch: types.Batch, knowledge: types.Knowledge | None, retrieved: types.Retrieved | None = None) -> Evaluated:
        with partitioning.on_mesh(spec.mesh):
            inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec, retrieved, params.get('passage_encoder'))
            level = train_step.capacity_level(inputs, spec)
            branches = [lambda params, size=size: _read(params, batch, inputs, spec, size, cross_attention_statistics)
                        for size in spec.read]
            nll, attention = jax.lax.switch(level, branches, params['reader'])
            return Evaluated(nll=nll, target_tokens=jnp.sum(batch.decoder_loss_weights, axis=-1), retrieved=inputs.retrieved,
                             attention=attention)

    return jax.jit(partitioning.on_mesh(spec.mesh)(eval_step))


def _read(params, batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec, capacity, names: Sequence[str]):
    n = spec.passages_read
    decoder_inputs = t5.shift_right(batch.decoder_target_tokens, spec.config.reader.decoder_start_id)
    read = gold_scores.encode(params, inputs.reader_tokens[:, :n], inputs.reader_lengths[:, :n], spec, capacity, None)
    statistics = {name: attention_scores.STATISTICS[name] for name in names}
    kinds = tuple(sorted({statistic.kind for statistic in statistics.values()}))
    logits, recorded = spec.reader.apply({'params': params}, decoder_inputs, *fid.fuse(*read, decoder_inputs.shape[0]), record=kinds,
                                         method='decode_recording')
    nll = jnp.sum(reader_xent.token_nll(logits, batch.decoder_target_tokens) * batch.decoder_loss_weights, axis=-1)
    return nll, {name: gold_scores.attended(recorded, statistic, batch, inputs, spec) for name, statistic in statistics.items()}
