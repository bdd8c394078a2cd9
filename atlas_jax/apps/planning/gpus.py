"""GPUs by name, their figures, and the CPU devices that take their place on a machine without GPUs.

gpu_plan.py plans for them.
"""

import dataclasses
import os
import re
import sys
from typing import ClassVar

from atlas_jax import errors
from atlas_jax.runtime import accelerators

_HOST_GPUS = 8  # GPUs of a DGX or HGX, the reach of NVLink
_PARTS_OF_A_HOST = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU and its network.

    Attributes:
      jax_name: its name in jax, as in runtime/accelerators.py.
      hbm_bytes: memory, in the maker's decimal gigabytes. A card has up to 7 % more, which the CUDA
        context needs.
      hbm_rate: bytes a second that it reads from its memory.
      nvlink_rate: bytes a second that it sends to the other GPUs of its host.
      network_rate: bytes a second that it sends to other hosts, its share of the host's network
        cards.
    """

    jax_name: str
    hbm_bytes: float
    hbm_rate: float
    nvlink_rate: float
    network_rate: float

    @property
    def flops(self) -> float:
        """Dense bfloat16 operations a second."""
        return accelerators.peak_flops(self.jax_name) or 0.0


# NVIDIA's data sheets of the SXM cards. They state NVLink for both directions together: 600 and 900
# GB/s. A DGX A100 has 8 network cards of 200 Gb/s, a DGX H100 or H200 has 8 of 400 Gb/s.
GPUS = {
    'a100': Gpu('NVIDIA A100', 80e9, 2.039e12, 300e9, 25e9),
    'a100-40gb': Gpu('NVIDIA A100', 40e9, 1.555e12, 300e9, 25e9),
    'h100': Gpu('NVIDIA H100', 80e9, 3.35e12, 450e9, 50e9),
    'h200': Gpu('NVIDIA H200', 141e9, 4.8e12, 450e9, 50e9),
}


@dataclasses.dataclass(frozen=True)
class GpuHosts:
    """GPUs of one kind: a part of one host, or hosts of 8.

    Attributes:
      name: such as h100:16.
      chips: number of GPUs, named as in slices.Slice.
      gpu: their kind.
    """

    name: str
    chips: int
    gpu: Gpu
    count: ClassVar[int] = 1  # number of slices, as in slices.Slice

    @property
    def host_chips(self) -> int:
        """GPUs of a host."""
        return min(self.chips, _HOST_GPUS)

    def rate(self, span: int) -> float:
        """Returns the bytes a second that each GPU of a group sends; the group lies within `span`
        neighbouring GPUs.
        """
        return self.gpu.nvlink_rate if span <= _HOST_GPUS else self.gpu.network_rate


def is_gpu(topology: str) -> bool:
    """Tells if a topology names GPUs, such as h100:8; other names belong to planning.slices."""
    return topology.split(':')[0] in GPUS


def parse(name: str) -> GpuHosts:
    """Returns the GPUs that `name` means, such as a100:8 or h200:16.

    Raises:
      ConfigError: an unknown GPU, no number, or one that is not 1, 2, 4 or a multiple of 8.
    """
    kind, _, number = name.partition(':')
    chips = int(number) if re.fullmatch(r'\d{1,4}', number) else 0
    if kind not in GPUS or chips < 1 or (chips not in _PARTS_OF_A_HOST and chips % _HOST_GPUS):
        raise errors.ConfigError(f'topology "{name}": write a GPU ({", ".join(GPUS)}) and how '
                                 f'many: 1, 2, 4 or a multiple of {_HOST_GPUS}, such as h100:8')
    return GpuHosts(name, chips, GPUS[kind])


def prepare_environment(hosts: GpuHosts) -> None:
    """Sets the variables that make jax start with as many CPU devices as there are GPUs.

    Raises:
      RuntimeError: jax was imported before, with fewer devices.
    """
    if 'jax' in sys.modules:  # jax reads the variables once, when it starts
        if len(sys.modules['jax'].devices()) < hosts.chips:
            raise RuntimeError('jax was imported before planning.gpus.prepare_environment()')
        return
    # If XLA_FLAGS has the option twice, the last one counts.
    option = f'--xla_force_host_platform_device_count={hosts.chips}'
    flags = f'{os.environ.get("XLA_FLAGS", "")} {option}'
    os.environ.update(JAX_PLATFORMS='cpu', XLA_FLAGS=flags.strip())
