"""All published data sets that `atlas-jax data` converts, by name."""

from atlas_jax.apps.datasets import tfds
from atlas_jax.apps.datasets.corpora import beir, passage_files, wikipedia, wikipedia_versions
from atlas_jax.apps.datasets.examples import (
    fever,
    kilt,
    mmlu,
    natural_questions,
    open_questions,
    passage_questions,
    retrieved,
    templama,
)
from atlas_jax.apps.datasets.source import Source

_MODULES = (wikipedia, passage_files, wikipedia_versions, beir, natural_questions, open_questions,
            passage_questions, retrieved, fever, kilt, mmlu, templama, tfds)

SOURCES: dict[str, Source] = {
    source.name: source for module in _MODULES for source in module.SOURCES}
