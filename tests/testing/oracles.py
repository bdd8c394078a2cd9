"""Packages that are imported when a test first uses them: each worker collects every file, and PyTorch alone takes seconds to import."""

import importlib
import importlib.util
from typing import Any

import pytest


class _Lazy:
    """Stands for a module that is not imported yet."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith('_'):  # pytest looks at everything in a file of tests
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def lazily(name: str) -> Any:
    """Returns what stands for a module. A test that uses it is marked with `needed`, where the module or what it imports may be missing."""
    return _Lazy(name)


def needed(*names: str) -> pytest.MarkDecorator:
    """Returns the mark that skips a test where a package is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f'not installed: {", ".join(missing)}')
