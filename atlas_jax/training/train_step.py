"""The train step: one compiled program from query tokens to updated reader and retriever (docs/design.md, section 1)."""

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

PARTS = ('retrieve', 'read', 'distil', 'update')  # the step's scopes, by which a profile is taken apart (report/run_profile.py)
_ROUNDING = 1  # folded into the seed: the stream of random numbers that rounds bfloat16 parameters


def make_train_step(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig, seed: int = 0) -> TrainStep:
    """Returns the compiled step `(state, batch, knowledge, retrieved=None) -> (state, metrics)`; it donates the state.

    Inside: embed queries, search the index, gather passage tokens, assemble reader inputs, pick the stream capacities that fit, reader and
    retriever loss with gradients, clip, update. A batch holds `accumulation_steps` micro-batches one after another; each retrieves for
    itself, and there is one update. `retrieved` is what a searcher of the host has found instead. Metrics are scalars.
    """
    def computing_again(remat: str) -> TrainStep:
        given = dataclasses.replace(spec, step=dataclasses.replace(spec.step, remat=remat))
        # The state goes out as it came in, or the second call would compile again for another layout.
        return compile_step(train_step, given, config, seed, donate=(0,), out_shardings=_out_shardings)

    return first_that_fits(spec, computing_again)


def train_step(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig, seed: int, state: state_lib.TrainState, batch: types.Batch,
               knowledge: types.Knowledge | None, retrieved: types.Retrieved | None = None) -> tuple[state_lib.TrainState, Metrics]:
    """Retrieves, reads, distils and updates, in graph; `make_train_step` compiles it."""
    # From the step's number, not from a carried key: a resumed run draws what the first one would have.
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def micro_step(part: tuple[types.Batch, types.Retrieved | None], key: jax.Array | None) -> tuple[dict, Metrics]:
        batch, retrieved = part
        passage_encoder = state.params.get('passage_encoder', state.passage_encoder)
        with jax.named_scope('retrieve'):
            # Passage numbers have no gradient; without this the backward pass would carry the index's scores.
            inputs = jax.lax.stop_gradient(retrieve.retrieve_and_assemble(state.params['retriever'], batch, knowledge, spec, retrieved,
                                                                          passage_encoder))
        gradients, metrics = loss_and_gradients(state.params, batch, inputs, spec, key, state.step)
        return gradients, metrics | {'truncated_passages': jnp.asarray(inputs.truncated_passages),
                                     'model_flops': model_flops.of_step(spec, batch, inputs)}

    gradients, metrics = accumulate(micro_step, (batch, retrieved), spec, key if _has_dropout(spec) else None)
    # Of this step, before its update.
    metrics |= optimizer_lib.learning_rates(config, state.step)
    return apply_gradients(state, gradients, optimizer_for(spec, config), jax.random.fold_in(key, _ROUNDING)), metrics


def _out_shardings(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig, _: int) -> tuple[state_lib.TrainState, None]:
    return state_lib.state_shardings(spec, optimizer_for(spec, config)), None


@functools.lru_cache(maxsize=8)  # the same object, so that what was compiled with it is found again
def optimizer_for(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig) -> optax.GradientTransformation:
    """Returns the optimiser that fits the spec: the retriever's part does nothing where the retriever is not trained."""
    # A retriever that is not trained has no moments to freeze.
    freeze = spec.distillation.freeze_retriever_steps if spec.passages_scored else 0
    return optimizer_lib.make_optimizer(config, spec.passages_scored > 0, freeze)


def accumulate(compute: Callable[[Any, jax.Array | None], tuple[Any, Metrics]], examples: Any, spec: spec_lib.StepSpec,
               key: jax.Array | None = None) -> tuple[Any, Metrics]:
    """Sums gradients over the micro-batches, as the original sums them, or averaged by option; one micro-batch is in memory at a time.

    Args:
      compute: (micro-batch, dropout key) -> (gradients, scalar metrics).
      examples: a tree of arrays [accumulation_steps * micro-batch, ...], one micro-batch after another.
      key: None switches dropout off.

    Returns:
      The gradients, and the metrics: numbers of tokens, passages and FLOPs are summed, the capacity level is the greatest, the rest is
      averaged; and `gradient_norm`, of what the optimiser gets.
    """
    steps = spec.step.accumulation_steps
    if steps == 1:
        gradients, metrics = compute(examples, key)
        return gradients, metrics | {'gradient_norm': _norm(gradients)}
    parts = jax.tree.map(lambda leaf: _micro_batches(leaf, steps, spec), examples)
    keys = None if key is None else jax.random.split(key, steps)
    # The sum starts from zeros of the gradients' own types: bfloat16 parameters have bfloat16 gradients.
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


def loss_and_gradients(params, batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec,
                       dropout_key: jax.Array | None = None, updates_done: jax.Array | None = None) -> tuple[dict, Metrics]:
    """Returns gradients and metrics of the joint loss at the smallest stream capacities that fit.

    Inputs are assembled: reader_tokens [batch, n, width] int32. Gradients are shaped like `params`, metrics are scalars [].
    The gradient is taken inside each branch of the switch: differentiating through the switch would keep every branch's residuals.
    """
    def branch(level: int):
        def run(params):
            differentiate = jax.value_and_grad(joint_loss.joint_loss, has_aux=True)
            (loss, metrics), gradients = differentiate(params, batch, inputs, spec, level, dropout_key, updates_done)
            return gradients, {'loss': loss, **_summary(metrics)}
        return run

    # Chosen outside of the gradient, for the same reason.
    level = read.capacity_level(inputs, spec)
    gradients, metrics = jax.lax.switch(level, [branch(i) for i in range(len(spec.read))], params)
    metrics |= {'capacity_level': level, 'reader_tokens': inputs.reader_lengths[:, :spec.passages_read].sum()}
    return gradients, metrics


def apply_gradients(state: state_lib.TrainState, gradients, optimizer: optax.GradientTransformation,
                    rounding_key: jax.Array | None = None) -> state_lib.TrainState:
    """Makes one optimiser update; gradients are shaped like the parameters, [...] each. bfloat16 parameters need the key."""
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
    # Micro-batches follow one another in the batch, so that each is the batch of a run without accumulation.
    leaf = leaf.reshape(steps, -1, *leaf.shape[1:])
    return jax.lax.with_sharding_constraint(leaf, partitioning.batch_sharding(spec.mesh, leaf.shape[1], leading=1))


def _over_micro_batches(name: str, values: jax.Array) -> jax.Array:
    # Counts add up over micro-batches; losses and rates are means of equally large parts.
    if name in ('reader_tokens', 'truncated_passages', 'model_flops'):
        return jnp.sum(values)
    return jnp.max(values) if name == 'capacity_level' else jnp.mean(values)


def _summary(metrics: Metrics) -> Metrics:
    """Returns scalars of a step; scores become the agreement of retriever and reader: how often both rank the same passage first."""
    if 'scores' in metrics:
        scores, gold_scores = metrics.pop('scores'), metrics.pop('gold_scores')
        # A gold score of an empty place means nothing, and may be the highest: log-likelihoods are below its 0.
        gold_scores = jnp.where(jnp.isneginf(scores), -jnp.inf, gold_scores)
        metrics['agreement'] = jnp.mean(jnp.argmax(scores, axis=-1) == jnp.argmax(gold_scores, axis=-1))
    return metrics


def _has_dropout(spec: spec_lib.StepSpec) -> bool:
    return spec.config.reader.dropout_rate > 0 or spec.config.retriever.dropout_rate > 0
