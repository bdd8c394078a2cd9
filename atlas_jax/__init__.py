"""Atlas in JAX: a retriever and a reader trained together, answering from an index that can be
edited.
"""

from typing import Any

__all__ = ['Atlas', 'Answer', 'Index', 'PassageStore']
__version__ = '0.2.0'


def __getattr__(name: str) -> Any:
    # Imported on first use: `atlas-jax --help` need not wait for jax, and the command line sets the
    # allocator before it.
    if name in __all__:
        from atlas_jax.answering import api
        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
