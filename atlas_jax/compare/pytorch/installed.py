"""Whether PyTorch is there; imports nothing heavy."""

import importlib.util

from atlas_jax import errors


def require() -> None:
    """Raises ConfigError, naming the extra, where PyTorch or transformers is missing."""
    missing = [name for name in ('torch', 'transformers') if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.ConfigError(f'{" and ".join(missing)} not installed, and the PyTorch side needs it; pip install "atlas-jax[torch]"')
