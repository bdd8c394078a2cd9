"""The device mesh, the table from logical axis names to mesh axes, and the gathering of weights for a layer.

Logical names are T5X's, plus ours: `streams` (token streams), `batch`, `passages` (index rows). Tokens stay on their device. Weights are
stored split over `fsdp` and `model`, and gathered where they are used, layer by layer (docs/tpu.md). A layer that is `split`, as the
decoder's are, gathers over `fsdp` alone: each device of `model` computes its own heads and its part of the MLP, for all their examples.
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
_EXAMPLE_AXES = MESH_AXES[:2]  # examples of split layers lie over these, and those of a batch that is smaller than the mesh
_SPLIT_SIDES = ('TPU v5 lite', 'TPU v5e')
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar('platform', default=None)

# logical axis -> mesh axes. Streams and index rows are spread over every device, and batches as `batch_axes` says; weights are split in
# `embed` over fsdp and in heads, mlp and vocab over model.
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


def make_mesh(shape: Sequence[int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh with axes data, fsdp, model.

    Slices of TPUs that the data-centre network joins lie one behind the other on `data`: weights are gathered inside a slice, and the
    network carries gradients and candidates of a search.

    Args:
      shape: size of each axis; None puts the slices on `data` and the devices of each on `fsdp`.
      devices: the devices to use; None takes all.

    Raises:
      ConfigError: there are not three sizes, their product is not the number of devices, `data` is no multiple of the slices, the slices
        differ in size, or an axis of the mesh is no product of sides of the TPU's torus, so that its devices would not be neighbours.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = _slices(devices)
    # fsdp takes all: it splits weights and moments, which is what runs out of memory first.
    shape = (len(slices), len(devices) // len(slices), 1) if shape is None else tuple(shape)
    if len(shape) != len(MESH_AXES) or math.prod(shape) != len(devices):
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model) needs {math.prod(shape)} devices, but there are '
                                 f'{len(devices)}; choose three sizes whose product is {len(devices)}')
    if len({len(slice_) for slice_ in slices}) > 1:
        raise errors.ConfigError(f'the {len(slices)} slices have {", ".join(str(len(slice_)) for slice_ in slices)} devices; a mesh needs '
                                 'slices of one size')
    if shape[0] % len(slices):
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model): data is {shape[0]}, and there are {len(slices)} slices; choose '
                                 f'a multiple of {len(slices)}, since fsdp and model lie inside a slice')
    inside = (shape[0] // len(slices), *shape[1:])
    try:
        # jax.make_mesh refuses devices of several slices, and splits a side of the torus over two axes on v5e alone.
        parts = [mesh_utils.create_device_mesh(inside, slice_, allow_split_physical_axes=slice_[0].device_kind in _SPLIT_SIDES)
                 for slice_ in slices]
    except NotImplementedError as error:
        sides = [max(places) + 1 for places in zip(*(device.coords for device in devices), strict=True)]
        raise errors.ConfigError(f'mesh shape {shape} (data, fsdp, model) does not lie on the torus of {"x".join(map(str, sides))} chips: '
                                 'the size of each axis must be a side of it, or the product of several sides') from error
    return Mesh(np.concatenate(parts), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """Groups devices by the slice that they lie in, in the order of the slices' numbers."""
    found: dict[int, list[jax.Device]] = {}
    for device in devices:
        found.setdefault(_slice_of(device), []).append(device)
    return [found[number] for number in sorted(found)]


def _slice_of(device: jax.Device) -> int:
    """Returns the number of a TPU's slice, 0 if there is one alone. jax numbers other machines' hosts in the same attribute."""
    return getattr(device, 'slice_index', 0) if device.platform == 'tpu' else 0


def sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """Returns the NamedSharding of an array whose dimensions have these logical names; a dimension named None is not sharded.

    Raises KeyError: a name is not in RULES.
    """
    rules = dict(RULES)
    return NamedSharding(mesh, PartitionSpec(*(None if axis is None else rules[axis] for axis in logical_axes)))


def batch_axes(mesh: Mesh | AbstractMesh, examples: int) -> tuple[str, ...]:
    """Returns the mesh axes that a batch of so many examples lies over: all, or where it is too small `data` and `fsdp`.

    A batch that neither divides lies over all; no step is made for it (steps/spec.py), and jax refuses to place it.
    """
    over_all, over_some = (math.prod(mesh.shape[axis] for axis in axes) for axes in (MESH_AXES, _EXAMPLE_AXES))
    return _EXAMPLE_AXES if examples % over_all and not examples % over_some else MESH_AXES


def batch_sharding(mesh: Mesh, examples: int, leading: int = 0) -> NamedSharding:
    """Returns the NamedSharding of a batch's arrays [examples, ...]; `leading` dimensions before the examples are not sharded."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, batch_axes(mesh, examples)))


def is_one_cpu(mesh: Mesh | AbstractMesh) -> bool:
    """Returns whether a mesh is a single CPU."""
    return isinstance(mesh, Mesh) and mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the NamedSharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(value: jax.Array, mesh: Mesh, *logical_axes: str | None) -> jax.Array:
    """Asks the compiler to lay `value` [...] out by its logical axes; trailing dimensions may be left out."""
    return jax.lax.with_sharding_constraint(value, sharding(mesh, *logical_axes))


def tree_shardings(mesh: Mesh | AbstractMesh, boxed: Any) -> Any:
    """Returns the NamedShardings of a tree of arrays or shapes boxed by `nn.with_logical_partitioning`.

    A dimension that its mesh axes do not divide stays whole. With an abstract mesh no device is needed.
    """
    def resolve(leaf: Any, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, _stored(mesh, leaf.shape, tuple(spec)))

    return jax.tree.map(resolve, unboxed_shapes(boxed), nn.get_partition_spec(boxed), is_leaf=lambda x: isinstance(x, PartitionSpec))


def unboxed_shapes(boxed: Any) -> Any:
    """Takes the boxes off a tree. Unlike `nn.unbox` this asks for no layout, so it works on shapes inside `on_mesh`."""
    return jax.tree.map(lambda leaf: leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf, boxed,
                        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


@contextlib.contextmanager
def on_mesh(mesh: Mesh, lower_for: str | None = None) -> Iterator[None]:
    """Makes `whole`, `spread` and `platform` refer to this mesh while a function is traced.

    On one device `whole` and `spread` change no layout, as outside of this context.

    Args:
      mesh: the devices that the function is traced for.
      lower_for: platform that the caller lowers the function for, where the mesh's devices only stand in for it; None is the mesh's own.
    """
    # A context variable, since threads trace different programs at once (searches beside training).
    token = _platform.set(lower_for or mesh.devices.flat[0].platform)
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh.size > 1 else contextlib.nullcontext():
            yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """Returns the platform that the traced program will run on, as jax names it: 'cpu', 'gpu', 'tpu'.

    Inside of `on_mesh` it is the mesh's or the one that is lowered for, outside this machine's.
    """
    return _platform.get() or jax.default_backend()


def whole(param: jax.Array, axes: Sequence[str | None], dtype: Any = None, split: bool = False) -> jax.Array:
    """Gathers a parameter from where it is stored, as a layer computes with it.

    Its gradient goes back the same way, so that it is scattered as it is summed.

    Args:
      param: [...] float.
      axes: logical names of its dimensions; trailing ones may be left out.
      dtype: of the result; None keeps the parameter's.
      split: leaves what is split over `model` as it is.

    Returns:
      [...] of `dtype`, the same shape, whole on every device of the mesh or, if split, of `fsdp`.
    """
    dtype = jnp.dtype(dtype or param.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    # Outside of a mesh, in tests and on one device, a layer's weights are whole already.
    stored = PartitionSpec() if mesh.empty else _stored(mesh, param.shape, axes)
    if not any(stored):
        return param.astype(dtype)
    return _gather(param, stored, _keeping(stored, 'model') if split else PartitionSpec(), dtype, param.dtype)


def split_in(*sizes: int) -> int:
    """Returns in how many parts `model` splits layers of these sizes (heads, the MLP's width); 1 where it does not divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.shape['model']
    return parts if all(size % parts == 0 for size in sizes) else 1


def spread(states: jax.Array, split: bool = False) -> jax.Array:
    """Holds states [streams or batch, ...] to one part a device, unless the devices do not divide them.

    Inside a loop the compiler would otherwise gather them all. If split, all devices of `model` have the states of all of them.
    """
    mesh, axes = jax.sharding.get_abstract_mesh(), _EXAMPLE_AXES if split else MESH_AXES
    # Too few rows for a part each: the compiler may lay them out as it likes.
    if mesh.empty or states.shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        return states
    return jax.lax.with_sharding_constraint(states, PartitionSpec(axes))


def copied(states: jax.Array, parts: int) -> jax.Array:
    """Copies states [streams, ...] for split layers: [parts, streams, ...], a copy for each device of `model`.

    As an axis of its own, so that the gradients of the copies are added once and not in every layer that reads them.
    """
    copies = jnp.broadcast_to(spread(states, split=True), (parts, *states.shape))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or states.shape[0] % math.prod(mesh.shape[axis] for axis in _EXAMPLE_AXES):
        return copies
    return jax.lax.with_sharding_constraint(copies, PartitionSpec('model', _EXAMPLE_AXES))


def rows_of(table: jax.Array, axes: Sequence[str | None], numbers: jax.Array, dtype: Any) -> jax.Array:
    """Gathers a table and takes rows of it, as `jnp.take(whole(table, axes, dtype), numbers, axis=0)`.

    Its gradient is summed on each device and then scattered to where the table is stored. Left to it, the compiler would all-reduce whole
    tables.

    Args:
      table: [rows, features] float.
      axes: logical names of its dimensions.
      numbers: [streams or batch, ...] int32; those beyond the table take its last row.
      dtype: of the result.

    Returns:
      [..., features] of `dtype`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or numbers.shape[0] % math.prod(mesh.shape[axis] for axis in batch_axes(mesh, numbers.shape[0])):
        # jnp.take's default mode compares every number with the size of the table, to give NaN for those beyond it.
        return jnp.take(whole(table, axes), numbers, axis=0, mode='clip').astype(dtype)
    return _rows_of(table, numbers, _stored(mesh, table.shape, axes), jnp.dtype(dtype), table.shape, table.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _rows_of(table: jax.Array, numbers: jax.Array, stored: PartitionSpec, dtype: Any, shape: tuple[int, int], own_dtype: Any) -> jax.Array:
    gathered = _gather(table, stored, PartitionSpec(), dtype, own_dtype) if any(stored) else table.astype(dtype)
    return jnp.take(gathered, numbers, axis=0, mode='clip')


def _rows_of_forward(table, numbers, stored, dtype, shape, own_dtype):
    return _rows_of(table, numbers, stored, dtype, shape, own_dtype), numbers


def _rows_of_backward(stored, _, shape, own_dtype, numbers, gradient):
    mesh = jax.sharding.get_abstract_mesh()
    summed = batch_axes(mesh, numbers.shape[0])

    def scatter(numbers: jax.Array, gradient: jax.Array) -> jax.Array:
        """Adds up a device's own gradients [..., features] by row, and keeps its part of the sum over all devices."""
        # in float32: a row may be taken thousands of times
        total = jnp.zeros(shape, jnp.float32).at[numbers].add(gradient.astype(jnp.float32), mode='clip')
        # The widest axis first, while there is most to send.
        for mesh_axis in ('fsdp', 'model', 'data'):
            dimension = tuple(stored).index(mesh_axis) if mesh_axis in tuple(stored) else None
            if mesh_axis not in summed:  # its devices have the same examples, so each holds the sum already
                if dimension is not None:
                    size = shape[dimension] // mesh.shape[mesh_axis]
                    total = jax.lax.dynamic_slice_in_dim(total, jax.lax.axis_index(mesh_axis) * size, size, dimension)
            elif dimension is not None:
                total = jax.lax.psum_scatter(total, mesh_axis, scatter_dimension=dimension, tiled=True)
            else:
                total = jax.lax.psum(total, mesh_axis)
        return total.astype(own_dtype)

    over_examples = PartitionSpec(summed)
    run = jax.shard_map(scatter, in_specs=(over_examples, over_examples), out_specs=stored, check_vma=False)
    return run(numbers, gradient), None


_rows_of.defvjp(_rows_of_forward, _rows_of_backward)


def _stored(mesh: Mesh | AbstractMesh, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    """Looks up where an array with these logical axes is stored; a dimension that its mesh axes do not divide stays whole."""
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
def _gather(param: jax.Array, stored: PartitionSpec, wanted: PartitionSpec, dtype: Any, _: Any) -> jax.Array:
    """Gathers over `model`, where that is wanted, and then over `fsdp`, in `dtype`; the shape stays."""
    # A group that spans a whole slice would turn gathers into all-reduces of twice the bytes. The barrier keeps the stages apart; XLA would
    # merge them into one group over all chips. The last stage moves most, so it goes over the axis that has most links.
    value = jax.lax.with_sharding_constraint(param.astype(dtype), stored)
    if wanted == PartitionSpec():
        value = jax.lax.optimization_barrier(jax.lax.with_sharding_constraint(value, _keeping(stored, 'fsdp')))
    return jax.lax.with_sharding_constraint(value, wanted)


def _gather_forward(param, stored, wanted, dtype, own_dtype):
    return _gather(param, stored, wanted, dtype, own_dtype), None


def _gather_backward(stored, wanted, _, own_dtype, __, gradient):
    # Back over the same stages, so that sums are scattered and not all-reduced whole.
    if wanted == PartitionSpec():
        gradient = jax.lax.with_sharding_constraint(gradient, _keeping(stored, 'fsdp'))
    return (jax.lax.with_sharding_constraint(gradient, stored).astype(own_dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def _keeping(stored: PartitionSpec, kept: str) -> PartitionSpec:
    """Returns the layout that is split over one mesh axis alone, where `stored` is."""
    return PartitionSpec(*(axis if axis == kept else None for axis in stored))
