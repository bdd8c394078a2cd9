"""All published data sets that `atlas-jax data` converts, by name."""

from atlas_jax.datasets.corpora import beir, passage_files, wikipedia, wikipedia_versions
from atlas_jax.datasets.source import Source

_MODULES = (wikipedia, passage_files, wikipedia_versions, beir)

SOURCES: dict[str, Source] = {source.name: source for module in _MODULES for source in module.SOURCES}
