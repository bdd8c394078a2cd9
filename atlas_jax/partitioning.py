"""Mesh, and the one table from logical axis names to mesh axes.

Logical names are T5X's, plus ours: `streams` (token streams), `batch`, `passages` (index rows).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from atlas_jax import errors

MESH_AXES = ('data', 'fsdp', 'model')

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
    shapes = nn.unbox(boxed)
    specs = nn.get_partition_spec(boxed)

    def resolve(leaf: Any, spec: PartitionSpec) -> NamedSharding:
        rules, axes = dict(RULES), []
        for size, name in zip(leaf.shape, tuple(spec) + (None,) * (len(leaf.shape) - len(spec)), strict=True):
            target = rules[name] if name is not None else None
            count = int(np.prod([mesh.shape[axis] for axis in ([target] if isinstance(target, str) else target or [])]))
            axes.append(target if size % count == 0 else None)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(resolve, shapes, specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
