"""The train state: parameters, optimiser moments, step; how it starts and how it lies on the mesh."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from atlas_jax import errors, partitioning
from atlas_jax.models import parameters
from atlas_jax.runtime import hosts
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step

_LARGEST = float(np.sqrt(np.finfo(np.float32).max))


class TrainState(struct.PyTreeNode):
    """All that a step changes, and the frozen passage encoder beside it.

    step             scalar int32, updates done
    params           {'reader', 'retriever'} and 'passage_encoder' where that is trained too, float32 master weights,
                     or bfloat16 by StepConfig.param_dtype
    optimizer_state  optax
    passage_encoder  the encoder that made the index, where only the query side is trained; else None
    """

    step: Any  # an array, its shape or its sharding: the state's tree carries all three
    params: dict[str, Any]
    optimizer_state: optax.OptState
    passage_encoder: Any = None


def create(params: dict[str, Any], spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation,
           passage_encoder: Any = None) -> TrainState:
    """Makes a state at step 0 on the spec's mesh.

    Args:
      params: {'reader', 'retriever'} as unboxed arrays (host or device); they are copied.
      spec: model, mesh, and whether a passage encoder is kept or trained.
      optimizer: its moments are laid out like the parameters they belong to.
      passage_encoder: the encoder that made the index, where it is no longer the same as the retriever; kept or trained by the spec.
    """
    # Laid out as the step wants it, or the first call would move everything once.
    shardings = state_shardings(spec, optimizer)
    if spec.trains_passage_encoder:
        params = params | {'passage_encoder': params['retriever'] if passage_encoder is None else passage_encoder}
    placed = copy_to_mesh(params, shardings.params, spec.step.param_type)
    frozen = None
    if spec.keeps_passage_encoder:
        encoder = params['retriever'] if passage_encoder is None else passage_encoder
        frozen = copy_to_mesh(encoder, shardings.passage_encoder, spec.step.param_type)
    optimizer_state = compile_step(_init_moments, spec, optimizer, out_shardings=_moments_shardings)(placed)
    # Replicated explicitly: a scalar on one device would not be a global array on a pod.
    step = hosts.place(np.zeros((), np.int32), shardings.step)
    return TrainState(step=step, params=placed, optimizer_state=optimizer_state, passage_encoder=frozen)


def check_encoders(params: dict[str, Any], spec: spec_lib.StepSpec) -> None:
    """Raises ConfigError: the model has a second encoder, which training by the spec would lose."""
    if 'passage_encoder' in params and not (spec.keeps_passage_encoder or spec.trains_passage_encoder):
        raise errors.ConfigError('the model has an encoder for passages of its own, which this training would lose; '
                                 'give retriever_training "untied" or "query_side", and read passages')


def divergence(params: Any, spec: spec_lib.Layout) -> str:
    """Names the first parameter that is not finite, or too large for float32 to hold its square; empty if there is none.

    Every process of a run calls it.
    """
    # One program: many small ones side by side wait for each other's collectives on a CPU with several devices, for ever.
    extremes = hosts.fetch(compile_step(_extremes, spec, out_shardings=_replicated)(params))
    for path, (most, least) in jax.tree_util.tree_leaves_with_path(extremes, is_leaf=lambda node: isinstance(node, tuple)):
        # No model computes with such numbers: norms and products of two of them are infinite.
        if not max(abs(float(most)), abs(float(least))) < _LARGEST or np.isnan(float(least)):
            return f'{"/".join(str(key.key) for key in path)} reaches {float(most):.3g}'
    return ''


def _extremes(_: spec_lib.Layout, params: Any) -> Any:
    # Reduced in place: nothing as large as a parameter is made.
    return jax.tree.map(lambda leaf: (jnp.max(leaf), jnp.min(leaf)), params)


def _replicated(spec: spec_lib.Layout) -> jax.sharding.NamedSharding:
    return partitioning.replicated(spec.mesh)


def _init_moments(_: spec_lib.StepSpec, optimizer: optax.GradientTransformation, params: Any) -> optax.OptState:
    return optimizer.init(params)


def _moments_shardings(spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation) -> optax.OptState:
    return state_shardings(spec, optimizer).optimizer_state


def abstract(spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state's shapes with their shardings, to restore into or to compile for."""
    params = _abstract_values(spec)
    shapes = TrainState(step=jax.ShapeDtypeStruct((), jnp.int32), params=params, optimizer_state=jax.eval_shape(optimizer.init, params),
                        passage_encoder=params['retriever'] if spec.keeps_passage_encoder else None)
    return parameters.with_shardings(shapes, state_shardings(spec, optimizer))


def state_shardings(spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the NamedSharding of every leaf of the state."""
    shardings = _with_passage_encoder(parameters.param_shardings(spec.config, spec.mesh), spec)
    params = _abstract_values(spec)
    return TrainState(step=partitioning.replicated(spec.mesh), params=shardings,
                      optimizer_state=optimizer_shardings(optimizer, params, shardings, spec.mesh),
                      passage_encoder=shardings['retriever'] if spec.keeps_passage_encoder else None)


def _abstract_values(spec: spec_lib.StepSpec) -> dict[str, Any]:
    """Shapes of the parameters in the dtype that the state keeps them in."""
    boxed = parameters.abstract_params(spec.config)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, spec.step.param_type), nn.unbox(boxed))
    return _with_passage_encoder(shapes, spec)


def _with_passage_encoder(params: dict[str, Any], spec: spec_lib.StepSpec) -> dict[str, Any]:
    """A tree like the retriever's for the second trained encoder, where there is one."""
    return params | {'passage_encoder': params['retriever']} if spec.trains_passage_encoder else params


def copy_to_mesh(tree: Any, shardings: Any, dtype: Any) -> Any:
    """Copies the tree to the mesh, into buffers of its own: the step donates its state, and a buffer can be donated once.

    device_put alone may go on using a shard that lies on its device already, even with may_alias=False.
    """
    return jax.tree.map(lambda leaf, sharding: jnp.array(hosts.place(leaf, sharding), dtype, copy=True), tree, shardings)


def to_items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the state as the items of a checkpoint: (params, optimizer)."""
    params = dict(state.params)
    if state.passage_encoder is not None:
        params['passage_encoder'] = state.passage_encoder
    return params, {'step': state.step, 'moments': state.optimizer_state}


def from_items(params: dict[str, Any], optimizer: dict[str, Any], trains_passage_encoder: bool = False) -> TrainState:
    """Makes a state of what `to_items` gave; a passage encoder that is not trained lies beside the parameters."""
    params = dict(params)
    frozen = None if trains_passage_encoder else params.pop('passage_encoder', None)
    return TrainState(step=optimizer['step'], params=params, optimizer_state=optimizer['moments'], passage_encoder=frozen)


def optimizer_shardings(optimizer: optax.GradientTransformation, params: Any, shardings: Any, mesh: jax.sharding.Mesh) -> Any:
    """Moments lie like the parameter whose path ends theirs, factored ones like its dimensions that they keep; counters are replicated."""
    # optax's states hold copies of the parameters' tree somewhere inside; the end of a leaf's path tells whose it is.
    by_path = {jax.tree_util.keystr(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)}
    shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def place(path, leaf):
        for start in range(len(path)):
            tail = jax.tree_util.keystr(path[start:])
            if tail in shapes:
                return _like(leaf.shape, shapes[tail], by_path[tail])
        return partitioning.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, params))


def _like(shape: tuple[int, ...], param_shape: tuple[int, ...], sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
    """Returns the sharding of an array of a parameter's shape, or of that shape without one dimension; else replicated."""
    if shape == param_shape:
        return sharding
    axes = (*sharding.spec, *[None] * (len(param_shape) - len(sharding.spec)))
    # Adafactor keeps a row and a column mean of a matrix: its shape without one dimension.
    for left_out in reversed(range(len(param_shape))):
        if shape == param_shape[:left_out] + param_shape[left_out + 1:]:
            kept = axes[:left_out] + axes[left_out + 1:]
            return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*kept))
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
