"""Without PyTorch one line names the extra; variants by name."""

import importlib.util

import pytest

from atlas_jax import errors
from atlas_jax.apps.compare.pytorch import variants


def test_names_what_is_missing_and_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'torch' else object())
    with pytest.raises(errors.ConfigError, match=r'^torch not installed.*pip install "atlas-jax\[torch\]"$'):
        variants.require_torch()
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
    variants.require_torch()


def test_unknown_variant():
    with pytest.raises(errors.ConfigError, match='"tunde" is unknown; choose one of original_512'):
        variants.variant('tunde')
    assert variants.variant('original_512').pad_to == 512 and not variants.variant('original_512').share_states
