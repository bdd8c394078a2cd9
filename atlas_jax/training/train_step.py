"""The train step: one compiled program from query tokens to updated reader and retriever
(docs/design.md, section 1).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from atlas_jax import partitioning, types
from atlas_jax.steps import read, retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step, first_that_fits
from atlas_jax.training import joint_loss, model_flops
from atlas_jax.training import optimizer as optimizer_lib
from atlas_jax.training import state as state_lib

TrainStep = Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]
Metrics = dict[str, jax.Array]

# the step's scopes, into which a profile is divided (report/run_profile.py)
PARTS = ('retrieve', 'read', 'distil', 'update')
_ROUNDING = 1  # folded into the seed: the stream of random numbers that rounds bfloat16 parameters


def make_train_step(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig,
                    seed: int = 0) -> TrainStep:
    """Returns the compiled step `(state, batch, knowledge, retrieved=None) -> (state, metrics)`; it
    donates the state.

    The step embeds queries, searches the index, gathers passage tokens, assembles reader inputs,
    picks the stream capacities that fit, computes both losses with gradients, clips and updates. A
    batch holds `accumulation_steps` micro-batches one after another: each retrieves for itself, and
    one update follows. `retrieved` are passages that a searcher of the host found. Metrics are
    scalars.
    """
    def computing_again(remat: str) -> TrainStep:
        given = dataclasses.replace(spec, step=dataclasses.replace(spec.step, remat=remat))
        # The state keeps its layout, or the second call would compile again.
        return compile_step(train_step, given, config, seed, donate=(0, ),
                            out_shardings=_out_shardings)

    return first_that_fits(spec, computing_again)


def train_step(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig, seed: int,
               state: state_lib.TrainState, batch: types.Batch, knowledge: types.Knowledge | None,
               retrieved: types.Retrieved | None = None) -> tuple[state_lib.TrainState, Metrics]:
    """Retrieves, reads, distils and updates, in graph; `make_train_step` compiles it."""
    # Folded from the step's number, not carried along: a resumed run draws the same numbers.
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def micro_step(part: tuple[types.Batch, types.Retrieved | None],
                   key: jax.Array | None) -> tuple[dict, Metrics]:
        batch, retrieved = part
        passage_encoder = state.params.get('passage_encoder', state.passage_encoder)
        with jax.named_scope('retrieve'):
            # Passage ids have no gradient; without this the backward pass would carry the index's
            # scores.
            inputs = jax.lax.stop_gradient(
                retrieve.retrieve_and_assemble(state.params['retriever'], batch, knowledge, spec,
                                               retrieved, passage_encoder))
        gradients, metrics = loss_and_gradients(state.params, batch, inputs, spec, key, state.step)
        return gradients, metrics | {'truncated_passages': jnp.asarray(inputs.truncated_passages),
                                     'model_flops': model_flops.of_step(spec, batch, inputs)}

    gradients, metrics = accumulate(micro_step, (batch, retrieved), spec,
                                    key if _has_dropout(spec) else None)
    metrics |= optimizer_lib.learning_rates(config, state.step)
    return apply_gradients(state, gradients, optimizer_for(spec, config),
                           jax.random.fold_in(key, _ROUNDING)), metrics


def _out_shardings(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig,
                   _: int) -> tuple[state_lib.TrainState, None]:
    return state_lib.state_shardings(spec, optimizer_for(spec, config)), None


@functools.lru_cache(maxsize=8)  # the same object, so that programs compiled with it are reused
def optimizer_for(spec: spec_lib.StepSpec,
                  config: optimizer_lib.OptimizerConfig) -> optax.GradientTransformation:
    """Returns the optimiser for the spec. It leaves a retriever that is not trained unchanged."""
    # A retriever that is not trained has no moments to freeze.
    freeze = spec.distillation.freeze_retriever_steps if spec.passages_scored else 0
    return optimizer_lib.make_optimizer(config, spec.passages_scored > 0, freeze)


def accumulate(compute: Callable[[Any, jax.Array | None], tuple[Any, Metrics]], examples: Any,
               spec: spec_lib.StepSpec, key: jax.Array | None = None) -> tuple[Any, Metrics]:
    """Sums gradients over the micro-batches as the original does, or averages them by option, with
    one micro-batch in memory at a time.

    Args:
      compute: (micro-batch, dropout key) -> (gradients, scalar metrics).
      examples: a tree of arrays [accumulation_steps * micro-batch, ...], one micro-batch after
        another.
      spec: static side of the step.
      key: key for dropout; None switches dropout off.

    Returns:
      The gradients, and the metrics. Counts of tokens, passages and FLOPs are summed, the capacity
      level is the largest, all others are averaged; `gradient_norm` is the norm of the result.
    """
    steps = spec.step.accumulation_steps
    if steps == 1:
        gradients, metrics = compute(examples, key)
        return gradients, metrics | {'gradient_norm': _norm(gradients)}
    parts = jax.tree.map(lambda leaf: _micro_batches(leaf, steps, spec), examples)
    keys = None if key is None else jax.random.split(key, steps)
    # Zeros of the gradients' own types: bfloat16 parameters have bfloat16 gradients.
    shapes, _ = jax.eval_shape(compute, *jax.tree.map(lambda leaf: leaf[0], (parts, keys)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def body(total, part):
        gradients, metrics = compute(*part)
        with jax.named_scope('update'):
            return jax.tree.map(jnp.add, total, gradients), metrics

    # A loop, so that one micro-batch's activations are in memory at a time.
    total, metrics = jax.lax.scan(body, zeros, (parts, keys))
    if spec.step.average_accumulated:
        total = jax.tree.map(lambda leaf: leaf / steps, total)
    metrics = {name: _over_micro_batches(name, values) for name, values in metrics.items()}
    return total, metrics | {'gradient_norm': _norm(total)}


def loss_and_gradients(params, batch: types.Batch, inputs: types.ReaderInputs,
                       spec: spec_lib.StepSpec, dropout_key: jax.Array | None = None,
                       updates_done: jax.Array | None = None) -> tuple[dict, Metrics]:
    """Returns gradients and metrics of the joint loss at the smallest stream capacities that fit.

    Inputs are assembled: reader_tokens [batch, n, width] int32. Gradients are shaped like `params`,
    metrics are scalars. Each branch of the switch takes its own gradient: differentiating through
    the switch would keep every branch's residuals.
    """
    branches = [
        functools.partial(jax.value_and_grad(joint_loss.joint_loss, has_aux=True), batch=batch,
                          inputs=inputs, spec=spec, level=level, dropout_key=dropout_key,
                          updates_done=updates_done) for level in range(len(spec.read))]
    # Chosen outside the gradient for the same reason.
    level = read.capacity_level(inputs, spec)
    (loss, metrics), gradients = jax.lax.switch(level, branches, params)
    # The compiler drops results of a switch that nothing reads.
    scalars = {name: value for name, value in metrics.items() if not value.shape}
    return gradients, {
        'loss': loss, **scalars, 'capacity_level': level,
        'reader_tokens': inputs.reader_lengths[:, :spec.passages_read].sum()}


def apply_gradients(state: state_lib.TrainState, gradients, optimizer: optax.GradientTransformation,
                    rounding_key: jax.Array | None = None) -> state_lib.TrainState:
    """Returns the state after one optimiser update.

    Args:
      state: the state before it.
      gradients: a tree shaped like the parameters.
      optimizer: the optimiser of `optimizer_for`.
      rounding_key: key of stochastic rounding, [] key; needed by bfloat16 parameters.
    """
    with jax.named_scope('update'):
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        # Not optax's: bfloat16 parameters are rounded stochastically.
        params = optimizer_lib.apply_updates(state.params, updates, rounding_key)
        return state.replace(step=state.step + 1, params=params, optimizer_state=optimizer_state)


@jax.named_scope('update')
def _norm(gradients: Any) -> jax.Array:
    return optax.tree.norm(gradients)


def _micro_batches(leaf: jax.Array, steps: int, spec: spec_lib.StepSpec) -> jax.Array:
    """[steps * batch, ...] to [steps, batch, ...], every micro-batch spread over the devices."""
    # Micro-batches follow one another, so that each equals a batch of a run without accumulation.
    leaf = leaf.reshape(steps, -1, *leaf.shape[1:])
    return jax.lax.with_sharding_constraint(
        leaf, partitioning.batch_sharding(spec.mesh, leaf.shape[1], leading=1))


def _over_micro_batches(name: str, values: jax.Array) -> jax.Array:
    # Counts add up; losses and rates are means over equally large parts.
    if name in ('reader_tokens', 'truncated_passages', 'model_flops'):
        return jnp.sum(values)
    return jnp.max(values) if name == 'capacity_level' else jnp.mean(values)


def _has_dropout(spec: spec_lib.StepSpec) -> bool:
    return spec.config.reader.dropout_rate > 0 or spec.config.retriever.dropout_rate > 0
