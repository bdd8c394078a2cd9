"""The train step: one jitted program from query tokens to updated reader and retriever (docs/design.md, section 1)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from atlas_jax import partitioning, types
from atlas_jax.training import buckets, joint_loss, retrieve
from atlas_jax.training import optimizer as optimizer_lib
from atlas_jax.training import spec as spec_lib
from atlas_jax.training import state as state_lib

TrainStep = Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]


@functools.lru_cache(maxsize=8)
def make_train_step(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig, seed: int = 0) -> TrainStep:
    """The jitted step `(state, batch, knowledge) -> (state, metrics)`; it donates the state.

    Inside: embed queries, search the index, gather passage tokens, assemble reader inputs, pick the stream capacities that fit, reader and
    retriever loss with gradients, clip, update. Metrics are scalars. The same arguments give the same function, so nothing compiles twice.
    """
    optimizer = optimizer_for(spec, config)

    def train_step(state: state_lib.TrainState, batch: types.Batch, knowledge: types.Knowledge | None):
        inputs = jax.lax.stop_gradient(retrieve.retrieve_and_assemble(state.params['retriever'], batch, knowledge, spec))
        key = jax.random.fold_in(jax.random.key(seed), state.step) if _has_dropout(spec) else None
        gradients, metrics = loss_and_gradients(state.params, batch, inputs, spec, key)
        metrics['learning_rate'] = config.learning_rate * optimizer_lib.schedule_factor(config, state.step)
        return apply_gradients(state, gradients, optimizer), metrics | {'truncated_passages': inputs.truncated_passages}

    # The state goes out as it came in, or the second call would compile again for another layout.
    return jax.jit(train_step, donate_argnums=0, out_shardings=(state_lib.state_shardings(spec, optimizer), None))


def optimizer_for(spec: spec_lib.StepSpec, config: optimizer_lib.OptimizerConfig) -> optax.GradientTransformation:
    """The optimiser that fits the spec: the retriever's part does nothing where the retriever is not trained."""
    return optimizer_lib.make_optimizer(config, train_retriever=spec.passages_scored > 0)


def loss_and_gradients(params, batch: types.Batch, inputs: types.ReaderInputs, spec: spec_lib.StepSpec,
                       dropout_key: jax.Array | None = None) -> tuple[dict, dict[str, jax.Array]]:
    """Gradients and metrics of the joint loss at the smallest stream capacities that fit.

    The gradient is taken inside each branch of the switch: differentiating through the switch would keep every branch's residuals.
    """
    def branch(level: int):
        def run(params):
            differentiate = jax.value_and_grad(joint_loss.joint_loss, has_aux=True)
            (loss, metrics), gradients = differentiate(params, batch, inputs, spec, level, dropout_key)
            return gradients, {'loss': loss, **_summary(metrics)}
        return run

    level = capacity_level(inputs, spec)
    gradients, metrics = jax.lax.switch(level, [branch(i) for i in range(len(spec.read))], params)
    metrics |= {'gradient_norm': optax.tree.norm(gradients), 'capacity_level': level,
                'reader_tokens': inputs.reader_lengths[:, :spec.passages_read].sum()}
    return gradients, metrics


def capacity_level(inputs: types.ReaderInputs, spec: spec_lib.StepSpec) -> jax.Array:
    """The smallest level at which all streams fit, scalar int32."""
    def by_stream(lengths):
        return lengths.reshape(spec.streams, -1)

    read, scored = spec.passages_read, spec.passages_scored
    streams = [(by_stream(inputs.reader_lengths[:, :read]), spec.read)]
    if spec.scored:
        streams.append((by_stream(inputs.reader_lengths[:, read:scored]), spec.scored))
    if spec.embedded:
        streams.append((by_stream(inputs.retriever_lengths), spec.embedded))
    return buckets.level(streams)


def apply_gradients(state: state_lib.TrainState, gradients, optimizer: optax.GradientTransformation) -> state_lib.TrainState:
    """One optimiser update."""
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
    return state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates), optimizer_state=optimizer_state)


def _summary(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Scalars of a step; scores become the agreement of retriever and reader: how often both rank the same passage first."""
    scores, gold_scores = metrics.pop('scores', None), metrics.pop('gold_scores', None)
    if scores is not None:
        metrics['agreement'] = jnp.mean(jnp.argmax(scores, axis=-1) == jnp.argmax(gold_scores, axis=-1))
    return metrics


def _has_dropout(spec: spec_lib.StepSpec) -> bool:
    return spec.config.reader.dropout_rate > 0 or spec.config.retriever.dropout_rate > 0


@functools.cache
def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """How a batch lies on the mesh: examples over every axis."""
    return partitioning.sharding(mesh, 'batch')
