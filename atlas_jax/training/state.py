"""The states that training steps change: parameters, optimiser moments, step; how they start, and
how they lie on the mesh.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from atlas_jax import errors, partitioning
from atlas_jax.models import parameters
from atlas_jax.nn import layer_scan
from atlas_jax.runtime import hosts
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step
from atlas_jax.training.contrastive import ContrastiveSpec

_LARGEST = float(np.sqrt(np.finfo(np.float32).max))


class TrainState(struct.PyTreeNode):
    """Everything that a step of joint training changes, and the frozen passage encoder beside it.

    step             scalar int32, updates done
    params           {'reader', 'retriever'} and 'passage_encoder' where that is trained too,
                     float32 master weights, or bfloat16 by StepConfig.param_dtype
    optimizer_state  optax
    passage_encoder  the encoder that made the index, where only the query side is trained; else
                     None
    """

    step: Any  # an array, its shape or its sharding: the state's tree carries all three
    params: dict[str, Any]
    optimizer_state: optax.OptState
    passage_encoder: Any = None


class ContrastiveState(struct.PyTreeNode):
    """Everything that a step of contrastive training changes.

    step              scalar int32, updates done
    params            {'retriever'}, float32 master weights, or bfloat16 by StepConfig.param_dtype
    optimizer_state   optax
    momentum_encoder  MoCo's second encoder, float32: in bfloat16 its small steps would be lost;
                      None without a queue
    queue             [queue_size, dim] float32, rows spread over the mesh; None without a queue
    queue_pointer     scalar int32, the oldest row of the queue; None without a queue
    """

    step: Any  # an array, its shape or its sharding: the state's tree carries all three
    params: dict[str, Any]
    optimizer_state: optax.OptState
    momentum_encoder: Any = None
    queue: Any = None
    queue_pointer: Any = None


def create(params: dict[str, Any], spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation,
           passage_encoder: Any = None) -> TrainState:
    """Makes a state at step 0 on the spec's mesh.

    Args:
      params: {'reader', 'retriever'} as unboxed arrays (host or device); they are copied.
      spec: model, mesh, and whether a passage encoder is kept or trained.
      optimizer: the optimiser; its moments are laid out like the parameters they belong to.
      passage_encoder: the encoder that made the index, if it differs from the retriever; the spec
        decides whether it is kept or trained.
    """
    # Laid out as the step wants it, or the first call would move everything once.
    shardings = state_shardings(spec, optimizer)
    encoder = params['retriever'] if passage_encoder is None else passage_encoder
    if spec.trains_passage_encoder:
        params = params | {'passage_encoder': encoder}
    placed = _copy_to_mesh(params, shardings.params, spec.step.param_type)
    frozen = None
    if spec.keeps_passage_encoder:
        frozen = _copy_to_mesh(encoder, shardings.passage_encoder, spec.step.param_type)
    # Replicated explicitly: a scalar on one device would not be a global array on a pod.
    return TrainState(hosts.place(np.zeros((), np.int32), shardings.step), placed,
                      _new_moments(placed, spec, optimizer), frozen)


def create_contrastive(params: dict[str, Any], spec: ContrastiveSpec,
                       optimizer: optax.GradientTransformation, seed: int = 0) -> ContrastiveState:
    """Makes a contrastive state at step 0 on the spec's mesh.

    Args:
      params: {'retriever'} as unboxed arrays (host or device); they are copied.
      spec: retriever, mesh and method.
      optimizer: the optimiser; its moments are laid out like the parameters they belong to.
      seed: seeds the queue's first rows, random passages until keys replace them (He et al. 2019).
    """
    shardings = contrastive_shardings(spec, optimizer)
    placed = _copy_to_mesh(params, shardings.params, spec.step.param_type)
    made = ContrastiveState(hosts.place(np.zeros((), np.int32), shardings.step), placed,
                            _new_moments(placed, spec, optimizer))
    if not spec.contrastive.moco:
        return made
    # On the host: the same rows on any mesh, so that a run can continue on other devices.
    rows = np.random.default_rng(seed).standard_normal(
        (spec.contrastive.queue_size, spec.config.embedding_dim), np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    # A second copy: the step donates both encoders, and a buffer can be donated once.
    slow = _copy_to_mesh(params['retriever'], shardings.momentum_encoder, jnp.float32)
    return made.replace(momentum_encoder=slow, queue=hosts.place(rows, shardings.queue),
                        queue_pointer=hosts.place(np.zeros((), np.int32), shardings.queue_pointer))


def check_encoders(params: dict[str, Any], spec: spec_lib.StepSpec) -> None:
    """Raises ConfigError: the model has a second encoder, which training by the spec would lose."""
    if 'passage_encoder' in params and not (spec.keeps_passage_encoder
                                            or spec.trains_passage_encoder):
        raise errors.ConfigError('the model has an encoder for passages of its own, which this '
                                 'training would lose; give retriever_training "untied" or '
                                 '"query_side", and read passages')


def divergence(params: Any, spec: spec_lib.Layout) -> str:
    """Names the first parameter that is not finite, or whose square exceeds float32.

    Returns '' without such a parameter. Every process of a run must call it.
    """
    # One program: many small ones wait for each other's collectives forever on a CPU with several
    # devices.
    extremes = hosts.fetch(compile_step(_extremes, spec, out_shardings=_replicated)(params))
    for path, (most, least) in jax.tree_util.tree_leaves_with_path(
            extremes, is_leaf=lambda node: isinstance(node, tuple)):
        # Norms and products of two such numbers are infinite.
        if not max(abs(float(most)), abs(float(least))) < _LARGEST or np.isnan(float(least)):
            return f'{"/".join(str(key.key) for key in path)} reaches {float(most):.3g}'
    return ''


def _extremes(_: spec_lib.Layout, params: Any) -> Any:
    # Reduced in place: nothing as large as a parameter is made.
    return jax.tree.map(lambda leaf: (jnp.max(leaf), jnp.min(leaf)), params)


def _replicated(spec: spec_lib.Layout) -> jax.sharding.NamedSharding:
    return partitioning.replicated(spec.mesh)


def abstract(spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state's shapes with their shardings, to restore into or to compile for."""
    params = _param_shapes(spec, spec.step.param_type)
    shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params,
                        jax.eval_shape(optimizer.init, params),
                        params['retriever'] if spec.keeps_passage_encoder else None)
    return parameters.with_shardings(shapes, state_shardings(spec, optimizer))


def abstract_contrastive(spec: ContrastiveSpec,
                         optimizer: optax.GradientTransformation) -> ContrastiveState:
    """Returns the contrastive state's shapes with their shardings, to restore into or to compile
    for.
    """
    params, scalar = _param_shapes(spec, spec.step.param_type), jax.ShapeDtypeStruct((), jnp.int32)
    shapes = ContrastiveState(scalar, params, jax.eval_shape(optimizer.init, params))
    if spec.contrastive.moco:
        size = spec.contrastive.queue_size, spec.config.embedding_dim
        shapes = shapes.replace(momentum_encoder=_param_shapes(spec, jnp.float32)['retriever'],
                                queue=jax.ShapeDtypeStruct(size, jnp.float32), queue_pointer=scalar)
    return parameters.with_shardings(shapes, contrastive_shardings(spec, optimizer))


def state_shardings(spec: spec_lib.StepSpec, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the NamedSharding of every leaf of the state."""
    params = _param_shardings(spec)
    frozen = params['retriever'] if spec.keeps_passage_encoder else None
    return TrainState(partitioning.replicated(spec.mesh), params,
                      _moment_shardings(spec, optimizer), frozen)


def contrastive_shardings(spec: ContrastiveSpec,
                          optimizer: optax.GradientTransformation) -> ContrastiveState:
    """Returns the NamedSharding of every leaf of the contrastive state."""
    params, whole = _param_shardings(spec), partitioning.replicated(spec.mesh)
    shardings = ContrastiveState(whole, params, _moment_shardings(spec, optimizer))
    if not spec.contrastive.moco:
        return shardings
    # Laid out like the index's rows: each device scores its own part of the queue.
    return shardings.replace(momentum_encoder=params['retriever'], queue_pointer=whole,
                             queue=partitioning.sharding(spec.mesh, 'passages', None))


def to_items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the state as the items of a checkpoint: (params, optimizer)."""
    params = dict(state.params)
    if state.passage_encoder is not None:
        params['passage_encoder'] = state.passage_encoder
    return params, {'step': state.step, 'moments': state.optimizer_state}


def from_items(params: dict[str, Any], optimizer: dict[str, Any],
               trains_passage_encoder: bool = False) -> TrainState:
    """Returns the state of the items that `to_items` made; a passage encoder that is not trained
    goes beside the parameters.
    """
    params = dict(params)
    frozen = None if trains_passage_encoder else params.pop('passage_encoder', None)
    return TrainState(optimizer['step'], params, optimizer['moments'], frozen)


def contrastive_items(state: ContrastiveState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the contrastive state as the items of a checkpoint: (params, optimizer)."""
    items = {'step': state.step, 'moments': state.optimizer_state}
    if state.queue is not None:
        # With the moments, not with the parameters: whoever loads the retriever does not use them.
        items |= {
            'momentum_encoder': state.momentum_encoder, 'queue': state.queue,
            'queue_pointer': state.queue_pointer}
    return dict(state.params), items


def contrastive_from_items(params: dict[str, Any], optimizer: dict[str, Any]) -> ContrastiveState:
    """Returns the state of the items that `contrastive_items` made."""
    return ContrastiveState(optimizer['step'], params, optimizer['moments'],
                            optimizer.get('momentum_encoder'), optimizer.get('queue'),
                            optimizer.get('queue_pointer'))


def _boxed(spec: spec_lib.Layout) -> dict[str, Any]:
    """Returns the shapes of the trained parameters, boxed with their logical axis names."""
    if isinstance(spec, ContrastiveSpec):
        return layer_scan.stack_layers({'retriever': parameters.abstract_part(spec.config)})
    assert isinstance(spec, spec_lib.StepSpec)
    boxed = parameters.abstract_params(spec.config)
    # The second encoder has the shapes and the layout of the first.
    return boxed | ({'passage_encoder': boxed['retriever']} if spec.trains_passage_encoder else {})


def _param_shapes(spec: spec_lib.Layout, dtype: Any) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
                        nn.unbox(_boxed(spec)))


def _param_shardings(spec: spec_lib.Layout) -> dict[str, Any]:
    return partitioning.tree_shardings(spec.mesh, _boxed(spec))


def _new_moments(params: Any, spec: spec_lib.Layout,
                 optimizer: optax.GradientTransformation) -> optax.OptState:
    return compile_step(_init_moments, spec, optimizer, out_shardings=_moment_shardings)(params)


def _init_moments(_: spec_lib.Layout, optimizer: optax.GradientTransformation,
                  params: Any) -> optax.OptState:
    return optimizer.init(params)


def _moment_shardings(spec: spec_lib.Layout,
                      optimizer: optax.GradientTransformation) -> optax.OptState:
    return optimizer_shardings(optimizer, _param_shapes(spec, spec.step.param_type),
                               _param_shardings(spec), spec.mesh)


def _copy_to_mesh(tree: Any, shardings: Any, dtype: Any) -> Any:
    """Copies the tree to the mesh into new buffers: the step donates its state, and a buffer can be
    donated once.

    device_put may keep using a shard that is on its device already, even with may_alias=False.
    """
    return jax.tree.map(
        lambda leaf, sharding: jnp.array(hosts.place(leaf, sharding), dtype, copy=True), tree,
        shardings)


def optimizer_shardings(optimizer: optax.GradientTransformation, params: Any, shardings: Any,
                        mesh: jax.sharding.Mesh) -> Any:
    """Returns the shardings of the moments.

    A moment is laid out like the parameter whose path ends its own, a factored moment like the
    dimensions it keeps. Counters are replicated.
    """
    # optax's states hold copies of the parameters' tree somewhere inside. The end of a leaf's path
    # says which parameter it belongs to.
    by_path = {
        jax.tree_util.keystr(path): sharding
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)}
    shapes = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def place(path, leaf):
        for start in range(len(path)):
            tail = jax.tree_util.keystr(path[start:])
            if tail in shapes:
                return _like(leaf.shape, shapes[tail], by_path[tail])
        return partitioning.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, params))


def _like(shape: tuple[int, ...], param_shape: tuple[int, ...],
          sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
    """Returns the sharding of an array of a parameter's shape, or of that shape without one
    dimension; replicated for any other shape.
    """
    if shape == param_shape:
        return sharding
    axes = (*sharding.spec, *[None] * (len(param_shape) - len(sharding.spec)))
    # Adafactor keeps a row and a column mean of a matrix: its shape without one dimension.
    for left_out in reversed(range(len(param_shape))):
        if shape == param_shape[:left_out] + param_shape[left_out + 1:]:
            kept = axes[:left_out] + axes[left_out + 1:]
            return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*kept))
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
