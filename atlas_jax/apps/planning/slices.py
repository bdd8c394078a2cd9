"""TPU slices by name, a chip's figures, and the environment for their compiler on a machine without
a TPU.
"""

import dataclasses
import itertools
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.planning import compiled, gpus

# These must be in the environment before jax starts. Otherwise libtpu asks a metadata server for
# the TPU that this machine lacks. The accelerator type is that of one host; `devices` states the
# topology.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_ACCELERATOR_TYPE': 'v4-8',
    'TPU_WORKER_HOSTNAMES': 'localhost', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
_HOST_SIDES = (2, 2, 1)  # chips of a host along each side
SMALLEST_FIRST = ('v4:2x2x1', 'v4:2x2x2', 'v4:2x2x4', 'v4:2x4x4', 'v4:4x4x4', 'v4:4x4x8',
                  'v4:4x8x8', 'v4:8x8x8')


@dataclasses.dataclass(frozen=True)
class Generation:
    """A chip and its network.

    Attributes:
      dimensions: sides of a slice, which is a torus or a part of one.
      wraps_at: a torus of three dimensions is closed if every side is a multiple of this; one of
        two dimensions is closed along each side of this size.
      hbm_gib: memory of a chip that programs may use, as stated by the compiler.
      flops: bfloat16 operations a second of a chip, as in runtime/accelerators.py.
      link_bytes: bytes a second that a chip sends over one link, to one neighbour.
      network_bytes: bytes a second of a chip's share of its host's data-centre network, each way.
      hbm_bytes: bytes a second that a chip reads from its memory.
      flops_a_cycle: bfloat16 operations of all matrix units in a cycle.
      configuration: the compiler's name for a chip whose cores are one device.
    """

    dimensions: int
    wraps_at: int
    hbm_gib: float
    flops: float
    link_bytes: float
    network_bytes: float
    hbm_bytes: float
    flops_a_cycle: int
    configuration: str

    @property
    def cycles_a_second(self) -> float:
        """Cycles of the clock in a second."""
        return self.flops / self.flops_a_cycle


# FLOP/s, HBM and its rate, and links are Google's figures (cloud.google.com/tpu/docs, system
# architecture). A matrix unit of n x n does 2n² operations a cycle: eight of 128 x 128 on v4 and
# v5p, four on v5e, four of 256 x 256 on v6e; the compiler's cycles for a product of
# 8192 x 8192 are within 8 % of that on v4, 10 % on v5p, 12 % on v5e. Closed tori: v4 and v5p are
# made of cubes of 4 x 4 x 4. The data-centre network: 50 Gbit/s a chip on v5p, 6.4 and 25.6 Tbit/s
# for 256 chips on v5e and v6e. Google gives none for v4: v5p's is assumed, as both have 4 chips a
# host.
GENERATIONS = {
    'v4': Generation(3, 4, 30.75, 275e12, 50e9, 6.25e9, 1.2e12, 8 * 2 * 128**2, 'megacore'),
    'v5p': Generation(3, 4, 95.73, 459e12, 100e9, 6.25e9, 2.765e12, 8 * 2 * 128**2, 'megacore'),
    'v5e': Generation(2, 16, 15.75, 197e12, 50e9, 3.125e9, 0.82e12, 4 * 2 * 128**2, 'default'),
    'v6e': Generation(2, 16, 31.24, 918e12, 100e9, 12.5e9, 1.64e12, 4 * 2 * 256**2, 'default'),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of TPU chips, or several of one shape that the data-centre network joins.

    Attributes:
      name: such as v4:4x4x4 or v6e:8x8; 2xv4:4x4x4 for two slices.
      sides: chips along each side.
      generation: kind of its chips.
      count: number of slices.
    """

    name: str
    sides: tuple[int, ...]
    generation: Generation
    count: int = 1

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.count * math.prod(self.sides)

    @property
    def topology(self) -> str:
        """The name of one slice."""
        return self.name.removeprefix(f'{self.count}x')

    @property
    def host(self) -> 'Slice':
        """The smallest slice: the chips of one host."""
        if math.prod(self.sides) == 1:
            return parse(self.topology)
        sides = 'x'.join(str(side) for side in _HOST_SIDES[:self.generation.dimensions])
        return parse(f'{self.topology.split(":")[0]}:{sides}')

    @property
    def rates(self) -> compiled.Rates:
        """Rates of a chip, which time the schedule of a compiled program."""
        chip = self.generation
        return compiled.Rates(chip.cycles_a_second, chip.flops_a_cycle, chip.hbm_bytes,
                              chip.network_bytes, self.count)

    def wraps(self, side: int) -> bool:
        """Returns True if the chips at both ends of this side (a number from 0) are neighbours."""
        if self.generation.dimensions == 3:
            return all(length % self.generation.wraps_at == 0 for length in self.sides)
        return self.sides[side] == self.generation.wraps_at

    def bandwidth(self, coordinates: Sequence[Sequence[int]]) -> float:
        """Returns the most bytes a second that each chip of a group sends while all similar groups
        send too.

        A ring along a closed side sends both ways, so it has twice a link. Along an open side data
        goes back and forth on the same links, so it has one link. A group that spans several sides
        uses the links of all.

        Args:
          coordinates: the place of each chip of the group in its slice.
        """
        total, spanned = 0.0, 1
        for side in range(self.generation.dimensions):
            places = sorted({coordinate[side] for coordinate in coordinates})
            spanned *= len(places)
            if len(places) == 1:
                continue
            stride = max(after - before for before, after in itertools.pairwise(places))
            if len(places) == self.sides[side]:
                links = 2 if self.wraps(side) and len(places) > 2 else 1
                total += links * self.generation.link_bytes
            else:  # interleaved groups share the links
                links = 2 if self.wraps(side) and stride > 1 else 1
                total += links * self.generation.link_bytes / stride
        # A group that is not a box of the torus: its ring's path is unknown, but it has at least
        # one link.
        return total if spanned == len(coordinates) and total else self.generation.link_bytes


def parse(name: str) -> Slice:
    """Returns the slice of a name such as v4:4x4x4 or v5e:4x8, or several slices: 2xv4:4x4x4 means
    two.

    Raises:
      ConfigError: an unknown generation, not a slice's name, a wrong number of sides, or a side
        that is not a multiple of a host's chips along it.
    """
    match = re.fullmatch(r'(?:([1-9]\d{0,2})x)?([a-z]\w*):(\d{1,4}(?:x\d{1,4})*)', name)
    generation = GENERATIONS.get(match.group(2)) if match else None
    if match is None or generation is None:
        raise errors.ConfigError(f'topology "{name}" is unknown; write a generation '
                                 f'({", ".join(GENERATIONS)}) and the sides, such as '
                                 f'{", ".join(SMALLEST_FIRST[:3])}, v5p:4x4x4, v5e:4x8 or '
                                 'v6e:8x8; 2xv4:4x4x4 means two slices, and GPUs '
                                 'are h100:8 and the like')
    sides = tuple(int(side) for side in match.group(3).split('x'))
    if len(sides) != generation.dimensions:
        raise errors.ConfigError(f'topology "{name}" has {len(sides)} sides; {match.group(2)} has '
                                 f'{generation.dimensions}: write '
                                 f'{match.group(2)}:{"x".join("ABC"[:generation.dimensions])}')
    for axis, side, chips in zip('ABC', sides, _HOST_SIDES, strict=False):
        # A machine with one chip has a slice of its own.
        if side < 1 or side % chips and math.prod(sides) != 1:
            raise errors.ConfigError(f'topology "{name}": side {axis} is {side}, not a multiple '
                                     f'of the {chips} chips that a host has there')
    count = int(match.group(1) or 1)
    return Slice(name if count > 1 else name.removeprefix('1x'), sides, generation, count)


def prepare_environment() -> None:
    """Sets the variables that the TPU compiler needs.

    Raises:
      ConfigError: libtpu is not installed.
      RuntimeError: jax was imported before, without these variables.
    """
    # Not imported: importing libtpu would read the environment before it is set.
    import importlib.util
    if importlib.util.find_spec('libtpu') is None:
        raise errors.ConfigError('planning needs the TPU compiler: pip install "atlas-jax[plan]" '
                                 '(libtpu)')
    if 'jax' in sys.modules and any(
            os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # libtpu reads them once, when jax starts its backends. Setting them later has no effect.
        raise RuntimeError('jax was imported before planning.slices.prepare_environment()')
    os.environ.update(ENVIRONMENT)


def devices(slice_: Slice) -> list[Any]:
    """Returns the chips of the slices as jax devices. Programs can be compiled for them, not run.
    """
    from jax.experimental import topologies
    bounds = _HOST_SIDES if math.prod(slice_.sides) > 1 else (1, 1, 1)
    description = topologies.get_topology_desc(platform='tpu', topology_name=slice_.topology,
                                               num_slices=slice_.count,
                                               chip_config_name=slice_.generation.configuration,
                                               chips_per_host_bounds=bounds)
    return list(description.devices)


def check_mesh(mesh_shape: tuple[int, int, int] | None,
               slice_: Slice | gpus.GpuHosts) -> tuple[int, int, int]:
    """Returns the mesh shape (data, fsdp, model); None puts the slices on data and the chips of
    each slice on fsdp.

    Raises:
      ConfigError: the mesh does not use exactly the slice's chips, or its data axis is not a
        multiple of the slices; the message names the axis.
    """
    if mesh_shape is None:
        return slice_.count, slice_.chips // slice_.count, 1
    if len(mesh_shape) != 3:
        raise errors.ConfigError(f'mesh {mesh_shape} has {len(mesh_shape)} sizes; it needs three: '
                                 'data, fsdp, model')
    if mesh_shape[0] % slice_.count:
        raise errors.ConfigError(f'mesh {mesh_shape}: axis data is {mesh_shape[0]}, not a '
                                 f'multiple of the {slice_.count} slices of '
                                 f'{slice_.name}; fsdp and model lie inside a slice')
    left = slice_.chips  # chips for this axis and the following ones
    for axis, size in zip(('data', 'fsdp', 'model'), mesh_shape, strict=True):
        if size < 1 or left % size:
            raise errors.ConfigError(f'mesh {mesh_shape}: axis {axis} is {size}, which does not '
                                     f'divide the {left} chips that are left of '
                                     f'{slice_.name} ({slice_.chips} chips)')
        left //= size
    if left != 1:
        fitting = (mesh_shape[0], mesh_shape[1] * left, mesh_shape[2])
        raise errors.ConfigError(f'mesh {mesh_shape} uses {slice_.chips // left} of the '
                                 f'{slice_.chips} chips of {slice_.name}; take {fitting}')
    return mesh_shape
