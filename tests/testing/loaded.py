"""Whole models read from a folder, as (config, params): float32 arrays, layers apart."""

from atlas_jax.conversion import hf, loading, t5x, weights


def _read(opened: weights.Weights) -> tuple:
    return opened.config, opened.params()


def t5(folder) -> tuple:
    """Reads a Hugging Face T5."""
    return _read(hf.open_t5(folder))


def contriever(folder, layer_norm: str | None = None) -> tuple:
    """Reads a Hugging Face BERT or Contriever."""
    return _read(hf.open_contriever(folder, layer_norm))


def reader(path) -> tuple:
    """Reads the reader of a folder of any kind."""
    return _read(loading.open_model(path).reader())


def retriever(path) -> tuple:
    """Reads the retriever of a folder of any kind."""
    return _read(loading.open_model(path).retriever())


def open_t5x(folder) -> weights.Weights:
    """Opens a T5X checkpoint without reading its parameters."""
    return t5x.of_checkpoint(t5x.Checkpoint(folder))
