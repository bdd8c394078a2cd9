"""Settings that silence the notices of jax's libraries on a machine without an accelerator."""

import glob
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping

# The devices of NVIDIA as jax looks for them, those of AMD, and those of a TPU.
_DEVICES = ('/dev/nvidia0', '/dev/nvidiactl', '/dev/dxg', '/dev/kfd', '/dev/accel*',
            '/dev/vfio/[0-9]*')
# Network cards of Google's cloud have Google's vendor number too.
_GOOGLE, _NETWORK_CLASS = '0x1ae0', '0x02'


def settings(environment: Mapping[str, str], has_accelerator: bool,
             has_libtpu: bool) -> dict[str, str]:
    """Returns variables to add to the environment; variables that the user has set are kept.

    Without a TPU, libtpu prints long complaints before jax falls back to the CPU, so jax is told to
    use the CPU. XLA logs a compilation of two minutes as an error to report, but on a CPU large
    programs take that long. Real failures raise an exception or abort the process, and are visible
    at any log level.
    """
    platforms = environment.get('JAX_PLATFORMS', '')
    if has_accelerator and platforms != 'cpu':
        return {}
    added = {} if 'TF_CPP_MIN_LOG_LEVEL' in environment else {'TF_CPP_MIN_LOG_LEVEL': '3'}
    # Only if jax would try libtpu: other plugins of jax may have their own devices.
    if has_libtpu and not platforms and 'JAX_FORCE_TPU_INIT' not in environment:
        added['JAX_PLATFORMS'] = 'cpu'
    return added


def quiet(verbose: bool = False) -> None:
    """Applies the settings to this process and to the processes it starts.

    Call it before importing jax; `verbose` leaves all notices on.
    """
    if not verbose:
        os.environ.update(
            settings(os.environ, has_accelerator(),
                     importlib.util.find_spec('libtpu') is not None))


def has_accelerator(devices: Iterable[str] = _DEVICES, pci: str = '/sys/bus/pci/devices') -> bool:
    """Returns whether the machine has a GPU or a TPU, judged by its device files.

    Asking jax would start the libraries that must stay silent.
    """
    if any(glob.glob(pattern) for pattern in devices):
        return True
    return any(
        _read(place / 'vendor') == _GOOGLE and not _read(place / 'class').startswith(_NETWORK_CLASS)
        for place in map(pathlib.Path, glob.glob(f'{pci}/*')))


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return ''  # a device may disappear meanwhile
