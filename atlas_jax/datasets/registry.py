"""All published data sets that `atlas-jax data` converts, by name."""

from atlas_jax.datasets.corpora import beir
from atlas_jax.datasets.source import Source

_MODULES = (beir,)

SOURCES: dict[str, Source] = {source.name: source for module in _MODULES for source in module.SOURCES}
