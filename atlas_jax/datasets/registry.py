"""All published data sets that `atlas-jax data` converts, by name."""

from atlas_jax.datasets.corpora import beir, wikipedia
from atlas_jax.datasets.source import Source

_MODULES = (beir, wikipedia)

SOURCES: dict[str, Source] = {source.name: source for module in _MODULES for source in module.SOURCES}
