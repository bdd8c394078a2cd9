"""The train state of a retriever alone: parameters, moments, and MoCo's momentum encoder and queue; how it starts and lies on the mesh."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from atlas_jax import partitioning
from atlas_jax.models import contriever, parameters
from atlas_jax.nn import layer_scan
from atlas_jax.runtime import hosts
from atlas_jax.steps.compile import compile_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.contrastive import ContrastiveSpec


class ContrastiveState(struct.PyTreeNode):
    """All that a contrastive step changes.

    step              scalar int32, updates done
    params            {'retriever'}, float32 master weights, or bfloat16 by StepConfig.param_dtype
    optimizer_state   optax
    momentum_encoder  MoCo's second encoder, float32: in bfloat16 its small steps would be lost; None without a queue
    queue             [queue_size, dim] float32, rows spread over the mesh; None without
    queue_pointer     scalar int32, the oldest row of the queue; None without
    """

    step: Any  # an array, its shape or its sharding: the state's tree carries all three
    params: dict[str, Any]
    optimizer_state: optax.OptState
    momentum_encoder: Any = None
    queue: Any = None
    queue_pointer: Any = None


def create(params: dict[str, Any], spec: ContrastiveSpec, optimizer: optax.GradientTransformation, seed: int = 0) -> ContrastiveState:
    """Makes a state at step 0 on the spec's mesh.

    Args:
      params: {'retriever'} as unboxed arrays (host or device); they are copied.
      spec: retriever, mesh and method.
      optimizer: its moments are laid out like the parameters they belong to.
      seed: of the queue's first rows, which stand for passages until keys take their places (He et al. 2019).
    """
    shardings = state_shardings(spec, optimizer)
    # Laid out as the step wants it, or the first call would move everything once.
    placed = state_lib.copy_to_mesh(params, shardings.params, spec.step.param_type)
    moments = compile_step(_init_moments, spec, optimizer, out_shardings=_moments_shardings)(placed)
    made = ContrastiveState(hosts.place(np.zeros((), np.int32), shardings.step), placed, moments)
    if not spec.contrastive.moco:
        return made
    # On the host: the same rows whatever the mesh, so that a run can go on with other devices.
    rows = np.random.default_rng(seed).standard_normal((spec.contrastive.queue_size, spec.config.embedding_dim), np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    # A copy of its own: the step donates both encoders, and a buffer can be donated once.
    slow = state_lib.copy_to_mesh(params['retriever'], shardings.momentum_encoder, jnp.float32)
    return made.replace(momentum_encoder=slow, queue=hosts.place(rows, shardings.queue),
                        queue_pointer=hosts.place(np.zeros((), np.int32), shardings.queue_pointer))


def abstract(spec: ContrastiveSpec, optimizer: optax.GradientTransformation) -> ContrastiveState:
    """Returns the state's shapes with their shardings, to restore into or to compile for."""
    params = _shapes(spec.config, spec.step.param_type)
    shapes = ContrastiveState(jax.ShapeDtypeStruct((), jnp.int32), params, jax.eval_shape(optimizer.init, params))
    if spec.contrastive.moco:
        queue = jax.ShapeDtypeStruct((spec.contrastive.queue_size, spec.config.embedding_dim), jnp.float32)
        shapes = shapes.replace(momentum_encoder=_shapes(spec.config, jnp.float32)['retriever'], queue=queue,
                                queue_pointer=jax.ShapeDtypeStruct((), jnp.int32))
    return parameters.with_shardings(shapes, state_shardings(spec, optimizer))


def state_shardings(spec: ContrastiveSpec, optimizer: optax.GradientTransformation) -> ContrastiveState:
    """Returns the NamedSharding of every leaf of the state."""
    shardings = partitioning.tree_shardings(spec.mesh, _boxed(spec.config))
    whole = partitioning.replicated(spec.mesh)
    moments = state_lib.optimizer_shardings(optimizer, _shapes(spec.config, spec.step.param_type), shardings, spec.mesh)
    found = ContrastiveState(whole, shardings, moments)
    if not spec.contrastive.moco:
        return found
    # As the index's rows lie: each device scores its own part of the queue.
    return found.replace(momentum_encoder=shardings['retriever'], queue=partitioning.sharding(spec.mesh, 'passages', None),
                         queue_pointer=whole)


def to_items(state: ContrastiveState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the state as the items of a checkpoint: (params, optimizer)."""
    items = {'step': state.step, 'moments': state.optimizer_state}
    if state.queue is not None:
        # With the moments, and not the parameters: who loads the retriever has no use for them.
        items |= {'momentum_encoder': state.momentum_encoder, 'queue': state.queue, 'queue_pointer': state.queue_pointer}
    return dict(state.params), items


def from_items(params: dict[str, Any], optimizer: dict[str, Any]) -> ContrastiveState:
    """Makes a state of what `to_items` gave."""
    return ContrastiveState(optimizer['step'], params, optimizer['moments'], optimizer.get('momentum_encoder'), optimizer.get('queue'),
                            optimizer.get('queue_pointer'))


def _boxed(config: contriever.ContrieverConfig) -> dict[str, Any]:
    return layer_scan.stack_layers({'retriever': parameters.abstract_part(config)})


def _shapes(config: contriever.ContrieverConfig, dtype: Any) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), nn.unbox(_boxed(config)))


def _init_moments(_: ContrastiveSpec, optimizer: optax.GradientTransformation, params: Any) -> optax.OptState:
    return optimizer.init(params)


def _moments_shardings(spec: ContrastiveSpec, optimizer: optax.GradientTransformation) -> optax.OptState:
    return state_shardings(spec, optimizer).optimizer_state
