"""Build an index: what `atlas-jax index build` and runs/build_index.gin do."""

from typing import Any

from atlas_jax import api, evaluate
from atlas_jax.models import atlas as atlas_lib


def build_index(store_dir: str, index_dir: str, model_dir: str | None = None, reader_dir: str | None = None,
                retriever_dir: str | None = None, inputs: atlas_lib.InputConfig | None = None, dtype: str = 'float32') -> dict[str, Any]:
    """Embeds every passage of a store with a model's passage encoder; a killed build goes on when it is run again.

    Args:
      store_dir: passages, from `atlas-jax data passages`.
      index_dir: folder to write, on a disk or gs://….
      model_dir: a folder that train wrote; or reader_dir and retriever_dir, Hugging Face folders.
      inputs: formats and limits, where they are to differ from the model's own; training and answering need the same.
      dtype: of the embeddings on disk and on the devices: float32, bfloat16 or int8.

    Returns:
      The index's description: rows, dim, bytes, fingerprints; and `truncated`, how many passages were longer than the model's limit.

    Raises:
      UserError: anything the user can mend, before the first passage is embedded.
    """
    store = api.PassageStore.open(store_dir)
    atlas = evaluate.load_model(model_dir, reader_dir, retriever_dir, inputs, None)
    built = api.Index.build(store, atlas, index_dir, dtype=dtype)
    truncated = atlas.embedder().truncated(built.store.retriever_title_lengths, built.store.retriever_lengths)
    return {**built.index.info(), 'truncated': truncated}
