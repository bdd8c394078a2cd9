"""Settings that keep the notices of jax's libraries off the terminal of a machine without an accelerator."""

import glob
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping

# NVIDIA's devices as jax looks for them, AMD's, and a TPU's.
_DEVICES = ('/dev/nvidia0', '/dev/nvidiactl', '/dev/dxg', '/dev/kfd', '/dev/accel*', '/dev/vfio/[0-9]*')
_GOOGLE, _NETWORK_CLASS = '0x1ae0', '0x02'  # network cards of Google's cloud have its vendor number too


def settings(environment: Mapping[str, str], has_accelerator: bool, has_libtpu: bool) -> dict[str, str]:
    """Returns what to add to the environment; what the user has set stays.

    Without a TPU, libtpu complains at length before jax falls back to the CPU: it is not asked. XLA reports a compilation of two minutes as
    a fault to be filed, at the level of errors; on a CPU that is the size of the program. What fails is an exception or aborts the process,
    and both are shown at any level.
    """
    platforms = environment.get('JAX_PLATFORMS', '')
    if has_accelerator and platforms != 'cpu':
        return {}
    added = {} if 'TF_CPP_MIN_LOG_LEVEL' in environment else {'TF_CPP_MIN_LOG_LEVEL': '3'}
    # Only where libtpu would be asked: other plugins of jax may know devices of their own.
    if has_libtpu and not platforms and 'JAX_FORCE_TPU_INIT' not in environment:
        added['JAX_PLATFORMS'] = 'cpu'
    return added


def quiet(verbose: bool = False) -> None:
    """Makes the settings for this process and those it starts. Call it before jax is imported; `verbose` leaves all notices on."""
    if not verbose:
        os.environ.update(settings(os.environ, has_accelerator(), importlib.util.find_spec('libtpu') is not None))


def has_accelerator(devices: Iterable[str] = _DEVICES, pci: str = '/sys/bus/pci/devices') -> bool:
    """Returns whether the machine has a GPU or a TPU, going by its device files. Asking jax would start what is to be kept quiet."""
    if any(glob.glob(pattern) for pattern in devices):
        return True
    return any(_read(place / 'vendor') == _GOOGLE and not _read(place / 'class').startswith(_NETWORK_CLASS)
               for place in map(pathlib.Path, glob.glob(f'{pci}/*')))


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return ''  # a device may go while it is looked at
