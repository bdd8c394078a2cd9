"""Mesh, the one table from logical axis names to mesh axes, and how a layer gets its weights.

Logical names are T5X's, plus ours: `streams` (token streams), `batch`, `passages` (index rows). Tokens stay on their device; weights lie
split over `fsdp` and `model` and are gathered where they are used, layer by layer (docs/tpu.md).
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from atlas_jax import errors

MESH_AXES = ('data', 'fsdp', 'model')
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar('platform', default=None)

# logical axis -> mesh axes. Streams, batches and index rows are spread over every device; weights are split in `embed` over fsdp and
# in heads, mlp and vocab over model.
RULES = (
    ('streams', MESH_AXES),
    ('batch', MESH_AXES),
    ('passages', MESH_AXES),
    ('embed', 'fsdp'),
    ('mlp', 'model'),
    ('heads', 'model'),
    ('joined_kv', 'model'),
    ('vocab', 'model'),
    ('kv', None),
    ('length', None),
    ('layers', None),
    ('relpos_buckets', None),
)


def make_mesh(shape: Sequence[int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes data, fsdp, model.

    Args:
      shape: size of each axis; None puts every device on `fsdp`.
      devices: the devices to use; None takes all.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = (1, len(devices), 1) if shape is None else tuple(shape)
    if len(shape) != len(MESH_AXES) or int(np.prod(shape)) != len(devices):
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model) needs {int(np.prod(shape))} devices, but there are '
                                 f'{len(devices)}; choose three sizes whose product is {len(devices)}')
    return jax.make_mesh(shape, MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """The NamedSharding of an array whose dimensions have these logical names; None is not sharded."""
    rules = dict(RULES)
    return NamedSharding(mesh, PartitionSpec(*(None if axis is None else rules[axis] for axis in logical_axes)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The NamedSharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(value: jax.Array, mesh: Mesh, *logical_axes: str | None) -> jax.Array:
    """Asks the compiler to lay `value` out by its logical axes; trailing dimensions may be left out."""
    return jax.lax.with_sharding_constraint(value, sharding(mesh, *logical_axes))


def tree_shardings(mesh: Mesh, boxed: Any) -> Any:
    """NamedShardings of a tree of arrays or shapes boxed by `nn.with_logical_partitioning`.

    A dimension that its mesh axes do not divide stays whole.
    """
    def resolve(leaf: Any, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, _stored(mesh, leaf.shape, tuple(spec)))

    return jax.tree.map(resolve, unboxed_shapes(boxed), nn.get_partition_spec(boxed), is_leaf=lambda x: isinstance(x, PartitionSpec))


def unboxed_shapes(boxed: Any) -> Any:
    """The tree without its boxes; unlike `nn.unbox` it asks for no layout, so it works on shapes inside `on_mesh`."""
    return jax.tree.map(lambda leaf: leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf, boxed,
                        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """Inside a traced function: `whole`, `spread` and `platform` refer to this mesh. On one device the first two do nothing, as outside."""
    token = _platform.set(mesh.devices.flat[0].platform)
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh.size > 1 else contextlib.nullcontext():
            yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """Where what is being traced will run, as jax names it: the mesh's platform; outside of `on_mesh` this machine's."""
    return _platform.get() or jax.default_backend()


def whole(param: jax.Array, axes: Sequence[str | None], dtype: Any = None) -> jax.Array:
    """A parameter as a layer computes with it: of `dtype` (None: its own), and gathered from where it is stored.

    Two stages, over `fsdp` and then over `model`: a group that spans a whole slice turns gathers into all-reduces of twice the bytes. The
    gradient goes back the same way, so that it is scattered as it is summed.

    Args:
      param: any shape; `axes` are the logical names of its dimensions.
    """
    dtype = jnp.dtype(dtype or param.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    stored = PartitionSpec() if mesh.empty else _stored(mesh, param.shape, axes)
    if not any(stored):
        return param.astype(dtype)
    return _gather(param, stored, dtype, param.dtype)


def spread(states: jax.Array) -> jax.Array:
    """States [streams or batch, ...] held to one part a device, inside a loop too, where the compiler would otherwise gather them all."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or states.shape[0] % mesh.size:
        return states
    return jax.lax.with_sharding_constraint(states, PartitionSpec(MESH_AXES))


def _stored(mesh: Any, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    """Where the table puts an array with these logical axes; what its mesh axes do not divide stays whole."""
    rules, parts = dict(RULES), []
    for size, name in zip(shape, (*axes, *[None] * (len(shape) - len(axes))), strict=True):
        target = rules[name] if name is not None else None
        count = int(np.prod([mesh.shape[axis] for axis in ([target] if isinstance(target, str) else target or [])]))
        parts.append(target if size % count == 0 else None)
    return PartitionSpec(*parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(param: jax.Array, stored: PartitionSpec, dtype: Any, _: Any) -> jax.Array:
    value = jax.lax.with_sharding_constraint(param.astype(dtype), stored)
    value = jax.lax.optimization_barrier(jax.lax.with_sharding_constraint(value, _halfway(stored)))
    return jax.lax.with_sharding_constraint(value, PartitionSpec())


def _gather_forward(param, stored, dtype, own_dtype):
    return _gather(param, stored, dtype, own_dtype), None


def _gather_backward(stored, _, own_dtype, __, gradient):
    gradient = jax.lax.with_sharding_constraint(gradient, _halfway(stored))
    return (jax.lax.with_sharding_constraint(gradient, stored).astype(own_dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def _halfway(stored: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(*(axis if axis == 'model' else None for axis in stored))
