"""TPU slices by name, a chip's figures, and how the compiler for them starts on a machine without a TPU."""

import dataclasses
import math
import os
import re
import sys
from typing import Any

from atlas_jax import errors

# Must be in the environment before jax starts: libtpu would otherwise ask a metadata server for the TPU that this machine lacks.
# The accelerator type is that of one host; the topology is given when its devices are described.
ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_ACCELERATOR_TYPE': 'v4-8', 'TPU_WORKER_HOSTNAMES': 'localhost',
               'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
_HOST_SIDES = (2, 2, 1)  # chips of a host along each side
SMALLEST_FIRST = ('v4:2x2x1', 'v4:2x2x2', 'v4:2x2x4', 'v4:2x4x4', 'v4:4x4x4', 'v4:4x4x8', 'v4:4x8x8', 'v4:8x8x8')


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of TPU v4.

    Attributes:
      name: such as v4:4x4x4.
      sides: chips along each side.
      hbm_gib: memory of a chip that programs may use; of 32 GiB the compiler keeps the rest.
      flops: bfloat16 operations a second of a chip, as in runtime/accelerators.py.
      link_bytes: bytes a second that a chip sends over all its links together.
      hbm_bytes: bytes a second that a chip reads from its memory.
    """

    name: str
    sides: tuple[int, int, int]
    # 275 TFLOP/s and 1.2 TB/s are Google's figures for TPU v4; a chip has six links of 50 GB/s. The compiler names 30.75 GiB as its limit.
    hbm_gib: float = 30.75
    flops: float = 275e12
    link_bytes: float = 300e9
    hbm_bytes: float = 1.2e12

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.sides)


def parse(name: str) -> Slice:
    """Returns the slice that `name` (such as v4:4x4x4) means.

    Raises:
      ConfigError: another generation, or a side that is no multiple of a host's 2 x 2 x 1 chips.
    """
    match = re.fullmatch(r'v4:(\d+)x(\d+)x(\d+)', name)
    if match is None:
        raise errors.ConfigError(f'topology "{name}" is unknown; write v4:AxBxC, such as {", ".join(SMALLEST_FIRST[:5])}')
    sides = int(match.group(1)), int(match.group(2)), int(match.group(3))
    for axis, side, chips in zip('ABC', sides, _HOST_SIDES, strict=True):
        if side < 1 or side % chips:
            raise errors.ConfigError(f'topology "{name}": side {axis} is {side}, not a multiple of the {chips} chips that a host has there')
    return Slice(name, sides)


def prepare_environment() -> None:
    """Sets the variables that the TPU compiler needs.

    Raises:
      ConfigError: libtpu is not installed.
      RuntimeError: jax was imported before, without these variables.
    """
    # Found and not imported: importing libtpu would read the environment before it is set.
    import importlib.util
    if importlib.util.find_spec('libtpu') is None:
        raise errors.ConfigError('planning needs the TPU compiler: pip install "atlas-jax[plan]" (libtpu)')
    if 'jax' in sys.modules and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # libtpu reads them once, when jax starts its backends; setting them later would change nothing.
        raise RuntimeError('jax was imported before planning.slices.prepare_environment()')
    os.environ.update(ENVIRONMENT)


def devices(slice_: Slice) -> list[Any]:
    """Returns the slice's chips as jax devices. Programs compile for them and cannot run on them."""
    from jax.experimental import topologies
    # A v4 chip is one jax device of two cores, which the compiler calls megacore.
    description = topologies.get_topology_desc(platform='tpu', topology_name=slice_.name, chip_config_name='megacore',
                                               chips_per_host_bounds=_HOST_SIDES)
    return list(description.devices)


def check_mesh(mesh_shape: tuple[int, int, int] | None, slice_: Slice) -> tuple[int, int, int]:
    """Returns the mesh shape (data, fsdp, model); None puts every chip on fsdp.

    Raises:
      ConfigError: the mesh does not use exactly the slice's chips; the message names the axis.
    """
    if mesh_shape is None:
        return 1, slice_.chips, 1
    if len(mesh_shape) != 3:
        raise errors.ConfigError(f'mesh {mesh_shape} has {len(mesh_shape)} sizes; it needs three: data, fsdp, model')
    left = slice_.chips  # chips for this axis and those behind it
    for axis, size in zip(('data', 'fsdp', 'model'), mesh_shape, strict=True):
        if size < 1 or left % size:
            raise errors.ConfigError(f'mesh {mesh_shape}: axis {axis} is {size}, which does not divide the {left} chips that are left of '
                                     f'{slice_.name} ({slice_.chips} chips)')
        left //= size
    if left != 1:
        fitting = (mesh_shape[0], mesh_shape[1] * left, mesh_shape[2])
        raise errors.ConfigError(f'mesh {mesh_shape} uses {slice_.chips // left} of the {slice_.chips} chips of {slice_.name}; take '
                                 f'{fitting}')
    return mesh_shape
