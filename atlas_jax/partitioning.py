"""The device mesh, the table from logical axis names to mesh axes, and the gathering of weights for
a layer.

Logical names are T5X's, plus ours: `streams` (token streams), `batch`, `passages` (index rows).
Tokens stay on their device. Weights are stored sharded over `fsdp` and `model`, and gathered layer
by layer (docs/tpu.md). The decoder's layers can be `split`: they gather over `fsdp` only, and each
device of `model` computes its own heads and its part of the MLP for the examples of all of them.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from atlas_jax import errors

MESH_AXES = ('data', 'fsdp', 'model')
# Examples are spread over these axes in split layers, and in batches smaller than the mesh.
_EXAMPLE_AXES = MESH_AXES[:2]
_SPLIT_SIDES = ('TPU v5 lite', 'TPU v5e')
# Given everywhere: jax 0.12 makes Explicit axes by default, on which a constraint only asserts.
_AXIS_TYPES = (AxisType.Auto,) * len(MESH_AXES)
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar('platform', default=None)

# logical axis -> mesh axes. Streams and index rows are spread over all devices, batches by
# `batch_axes`. Weights are sharded in `embed` over fsdp, and in heads, mlp and vocab over model.
RULES = (
    ('streams', MESH_AXES),
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


def make_mesh(shape: Sequence[int] | None = None,
              devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh with axes data, fsdp, model.

    TPU slices that are joined by the data-centre network are placed along `data`: weights are
    gathered inside a slice, and the network carries gradients and candidates of a search.

    Args:
      shape: size of each axis; None puts the slices on `data` and each slice's devices on `fsdp`.
      devices: the devices to use; None takes all.

    Raises:
      ConfigError: there are not three sizes, their product is not the number of devices, `data` is
        not a multiple of the number of slices, the slices differ in size, or an axis of the mesh is
        not a product of sides of the TPU's torus, so that its devices would not be neighbours.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = _slices(devices)
    # All devices on fsdp by default: it shards weights and moments, which run out of memory first.
    shape = (len(slices), len(devices) // len(slices), 1) if shape is None else tuple(shape)
    if len(shape) != len(MESH_AXES) or math.prod(shape) != len(devices):
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model) needs '
                                 f'{math.prod(shape)} devices, but there are '
                                 f'{len(devices)}; choose three sizes whose product is '
                                 f'{len(devices)}')
    if len({len(slice_) for slice_ in slices}) > 1:
        raise errors.ConfigError(f'the {len(slices)} slices have '
                                 f'{", ".join(str(len(slice_)) for slice_ in slices)} devices; a '
                                 'mesh needs slices of one size')
    if shape[0] % len(slices):
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model): data is {shape[0]}, '
                                 f'and there are {len(slices)} slices; choose a multiple of '
                                 f'{len(slices)}, since fsdp and model lie inside a slice')
    inside = (shape[0] // len(slices), *shape[1:])
    try:
        # jax.make_mesh refuses devices of several slices. Only on v5e it splits a side of the torus
        # over two axes.
        parts = [
            mesh_utils.create_device_mesh(
                inside, slice_, allow_split_physical_axes=slice_[0].device_kind in _SPLIT_SIDES)
            for slice_ in slices]
    except NotImplementedError as error:
        sides = [
            max(places) + 1 for places in zip(*(device.coords for device in devices), strict=True)]
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model) does not lie on the '
                                 f'torus of {"x".join(map(str, sides))} chips: '
                                 'the size of each axis must be a side of it, or the product of '
                                 'several sides') from error
    return Mesh(np.concatenate(parts), MESH_AXES, axis_types=_AXIS_TYPES)


def make_abstract_mesh(shape: Sequence[int]) -> AbstractMesh:
    """Makes a mesh with axes data, fsdp, model that has sizes only, for shapes and layouts without
    devices.
    """
    return AbstractMesh(tuple(shape), MESH_AXES, axis_types=_AXIS_TYPES)


def _slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """Groups devices by slice, in the order of the slices' numbers."""
    found: dict[int, list[jax.Device]] = {}
    for device in devices:
        found.setdefault(_slice_of(device), []).append(device)
    return [found[number] for number in sorted(found)]


def _slice_of(device: jax.Device) -> int:
    """Returns the number of a TPU's slice, 0 if there is only one.

    On other platforms jax numbers hosts in the same attribute.
    """
    return getattr(device, 'slice_index', 0) if device.platform == 'tpu' else 0


def sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """Returns the NamedSharding of an array whose dimensions have these logical names; a dimension
    named None is not sharded.

    Raises KeyError: a name is not in RULES.
    """
    rules = dict(RULES)
    return NamedSharding(
        mesh, PartitionSpec(*(None if axis is None else rules[axis] for axis in logical_axes)))


def batch_axes(mesh: Mesh | AbstractMesh, examples: int) -> tuple[str, ...]:
    """Returns the mesh axes over which a batch is spread: all axes, or `data` and `fsdp` if the
    batch is too small.

    A batch that neither choice divides gets all axes. No step is made for it (steps/spec.py), and
    jax refuses to place it.
    """
    over_all, over_some = (math.prod(mesh.shape[axis]
                                     for axis in axes)
                           for axes in (MESH_AXES, _EXAMPLE_AXES))
    return _EXAMPLE_AXES if examples % over_all and not examples % over_some else MESH_AXES


def batch_sharding(mesh: Mesh, examples: int, leading: int = 0) -> NamedSharding:
    """Returns the NamedSharding of a batch's arrays [examples, ...]; `leading` dimensions before
    the examples are not sharded.
    """
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, batch_axes(mesh, examples)))


def is_one_cpu(mesh: Mesh | AbstractMesh) -> bool:
    """Returns whether a mesh is a single CPU."""
    return isinstance(mesh, Mesh) and mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the NamedSharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(value: jax.Array, mesh: Mesh, *logical_axes: str | None) -> jax.Array:
    """Constrains the layout of `value` [...] to its logical axes; trailing axes may be left out."""
    return jax.lax.with_sharding_constraint(value, sharding(mesh, *logical_axes))


def tree_shardings(mesh: Mesh | AbstractMesh, boxed: Any) -> Any:
    """Returns the NamedShardings of a tree of arrays or shapes that are boxed by
    `nn.with_logical_partitioning`.

    A dimension that its mesh axes do not divide is not sharded. An abstract mesh needs no devices.
    """
    def resolve(leaf: Any, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, _stored(mesh, leaf.shape, tuple(spec)))

    return jax.tree.map(resolve, unboxed_shapes(boxed), nn.get_partition_spec(boxed),
                        is_leaf=lambda x: isinstance(x, PartitionSpec))


def unboxed_shapes(boxed: Any) -> Any:
    """Unboxes the leaves of a tree.

    Unlike `nn.unbox` this constrains no layout, so it works on shapes inside `on_mesh`.
    """
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf, boxed,
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


@contextlib.contextmanager
def on_mesh(mesh: Mesh, lower_for: str | None = None) -> Iterator[None]:
    """Makes `whole`, `spread` and `platform` refer to this mesh while a function is traced.

    On one device `whole` and `spread` change no layout, as outside this context.

    Args:
      mesh: the devices for which the function is traced.
      lower_for: platform for which the function is lowered, if it is not the mesh's; None takes the
        mesh's platform.
    """
    # A context variable, since threads trace different programs at once (searches beside training).
    token = _platform.set(lower_for or mesh.devices.flat[0].platform)
    try:
        with jax.sharding.use_abstract_mesh(
                mesh.abstract_mesh) if mesh.size > 1 else contextlib.nullcontext():
            yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """Returns the platform on which the traced program will run: 'cpu', 'gpu' or 'tpu'.

    Inside `on_mesh` it is the mesh's platform or `lower_for`, outside it is this machine's.
    """
    return _platform.get() or jax.default_backend()


def whole(param: jax.Array, axes: Sequence[str | None], dtype: Any = None,
          split: bool = False) -> jax.Array:
    """Gathers a stored parameter for a layer.

    Its gradient goes the same way back: it is scattered while it is summed.

    Args:
      param: [...] float.
      axes: logical names of its dimensions; trailing names may be left out.
      dtype: dtype of the result; None keeps the parameter's.
      split: gathers over `fsdp` only; dimensions sharded over `model` stay sharded.

    Returns:
      [...] of `dtype`, the same shape, whole on all devices or, if split, on those of `fsdp`.
    """
    dtype = jnp.dtype(dtype or param.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    # Without a mesh, in tests and on one device, a layer's weights are whole already.
    stored = PartitionSpec() if mesh.empty else _stored(mesh, param.shape, axes)
    if not any(stored):
        return param.astype(dtype)
    return _gather(param, stored,
                   _keeping(stored, 'model') if split else PartitionSpec(), dtype, param.dtype)


def split_in(*sizes: int) -> int:
    """Returns into how many parts `model` splits layers of these sizes (heads, the MLP's width); 1
    if it does not divide them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.shape['model']
    return parts if all(size % parts == 0 for size in sizes) else 1


def spread(states: jax.Array, split: bool = False) -> jax.Array:
    """Spreads states [streams or batch, ...] over the devices, if these divide them.

    Without it the compiler would gather all states inside a loop. If split, the devices of `model`
    share the same states.
    """
    mesh, axes = jax.sharding.get_abstract_mesh(), _EXAMPLE_AXES if split else MESH_AXES
    # With too few rows for all devices the compiler chooses the layout.
    if mesh.empty or states.shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        return states
    return jax.lax.with_sharding_constraint(states, PartitionSpec(axes))


def copied(states: jax.Array, parts: int) -> jax.Array:
    """Copies states [streams, ...] for split layers: [parts, streams, ...], one copy for each
    device of `model`.

    The copies have their own axis, so that their gradients are added once instead of in every layer
    that reads them.
    """
    copies = jnp.broadcast_to(spread(states, split=True), (parts, *states.shape))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or states.shape[0] % math.prod(mesh.shape[axis] for axis in _EXAMPLE_AXES):
        return copies
    return jax.lax.with_sharding_constraint(copies, PartitionSpec('model', _EXAMPLE_AXES))


def rows_of(table: jax.Array, axes: Sequence[str | None], numbers: jax.Array,
            dtype: Any) -> jax.Array:
    """Gathers a table and takes rows of it: `jnp.take(whole(table, axes, dtype), numbers, axis=0)`.

    The gradient is summed on each device, then scattered to the table's shards. The compiler alone
    would all-reduce whole tables.

    Args:
      table: [rows, features] float.
      axes: logical names of its dimensions.
      numbers: [streams or batch, ...] int32; numbers beyond the table take its last row.
      dtype: dtype of the result.

    Returns:
      [..., features] of `dtype`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or numbers.shape[0] % math.prod(mesh.shape[axis]
                                                  for axis in batch_axes(mesh, numbers.shape[0])):
        # The default mode of jnp.take compares every number with the table's size, to return NaN
        # for numbers beyond it.
        return jnp.take(whole(table, axes), numbers, axis=0, mode='clip').astype(dtype)
    return _rows_of(table, numbers, _stored(mesh, table.shape, axes), jnp.dtype(dtype), table.shape,
                    table.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _rows_of(table: jax.Array, numbers: jax.Array, stored: PartitionSpec, dtype: Any,
             shape: tuple[int, int], own_dtype: Any) -> jax.Array:
    gathered = _gather(table, stored, PartitionSpec(), dtype,
                       own_dtype) if any(stored) else table.astype(dtype)
    return jnp.take(gathered, numbers, axis=0, mode='clip')


def _rows_of_forward(table, numbers, stored, dtype, shape, own_dtype):
    return _rows_of(table, numbers, stored, dtype, shape, own_dtype), numbers


def _rows_of_backward(stored, _, shape, own_dtype, numbers, gradient):
    mesh = jax.sharding.get_abstract_mesh()
    summed = batch_axes(mesh, numbers.shape[0])

    def scatter(numbers: jax.Array, gradient: jax.Array) -> jax.Array:
        """Sums a device's gradients [..., features] by row, and returns its shard of the sum over
        all devices.
        """
        # float32, because a row may be taken thousands of times.
        total = jnp.zeros(shape, jnp.float32).at[numbers].add(gradient.astype(jnp.float32),
                                                              mode='clip')
        # The widest axis first, while the array is largest.
        for mesh_axis in ('fsdp', 'model', 'data'):
            dimension = tuple(stored).index(mesh_axis) if mesh_axis in tuple(stored) else None
            # Devices of an axis that is not summed have the same examples, so each has the sum.
            if mesh_axis not in summed:
                if dimension is not None:
                    size = shape[dimension] // mesh.shape[mesh_axis]
                    total = jax.lax.dynamic_slice_in_dim(total,
                                                         jax.lax.axis_index(mesh_axis) * size, size,
                                                         dimension)
            elif dimension is not None:
                total = jax.lax.psum_scatter(total, mesh_axis, scatter_dimension=dimension,
                                             tiled=True)
            else:
                total = jax.lax.psum(total, mesh_axis)
        return total.astype(own_dtype)

    over_examples = PartitionSpec(summed)
    run = jax.shard_map(scatter, in_specs=(over_examples, over_examples), out_specs=stored,
                        check_vma=False)
    return run(numbers, gradient), None


_rows_of.defvjp(_rows_of_forward, _rows_of_backward)


def _stored(mesh: Mesh | AbstractMesh, shape: Sequence[int],
            axes: Sequence[str | None]) -> PartitionSpec:
    """Returns the sharding of a stored array with these logical axes. A dimension that its mesh
    axes do not divide is not sharded.
    """
    rules = dict(RULES)
    parts: list[str | tuple[str, ...] | None] = []
    missing = len(shape) - len(axes)  # trailing dimensions without a name
    for size, name in zip(shape, [*axes, *[None] * missing], strict=True):
        target = None if name is None else rules[name]
        mesh_axes = (target,) if isinstance(target, str) else target or ()
        devices = math.prod(mesh.shape[axis] for axis in mesh_axes)
        parts.append(target if size % devices == 0 else None)
    return PartitionSpec(*parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(param: jax.Array, stored: PartitionSpec, wanted: PartitionSpec, dtype: Any,
            _: Any) -> jax.Array:
    """Gathers in `dtype` over `model`, unless the layer is split, and then over `fsdp`; keeps the
    shape.
    """
    # Two stages: a group over a whole slice would turn gathers into all-reduces of twice the bytes.
    # The barrier keeps XLA from merging the stages. The last stage moves most bytes, so it goes
    # over the axis with most links.
    value = jax.lax.with_sharding_constraint(param.astype(dtype), stored)
    if wanted == PartitionSpec():
        value = jax.lax.optimization_barrier(
            jax.lax.with_sharding_constraint(value, _keeping(stored, 'fsdp')))
    return jax.lax.with_sharding_constraint(value, wanted)


def _gather_forward(param, stored, wanted, dtype, own_dtype):
    return _gather(param, stored, wanted, dtype, own_dtype), None


def _gather_backward(stored, wanted, _, own_dtype, __, gradient):
    # Back over the same stages, so that sums are scattered instead of all-reduced.
    if wanted == PartitionSpec():
        gradient = jax.lax.with_sharding_constraint(gradient, _keeping(stored, 'fsdp'))
    return (jax.lax.with_sharding_constraint(gradient, stored).astype(own_dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def _keeping(stored: PartitionSpec, kept: str) -> PartitionSpec:
    """Returns the layout `stored` without all mesh axes but one."""
    return PartitionSpec(*(axis if axis == kept else None for axis in stored))
