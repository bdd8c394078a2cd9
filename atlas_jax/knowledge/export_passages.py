"""Writes the passages of an index as JSON lines for pre-training, and holds some back for
evaluation.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import index_manifest
from atlas_jax.io import jsonl
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import progress

TRAIN_FILE, HELD_BACK_FILE = 'passages.jsonl', 'held_back.jsonl'
HELD_BACK_ROWS = 1000


def write(index_dir: str, folder: pathlib.Path, held_back: int = HELD_BACK_ROWS,
          seed: int = 0) -> tuple[int, int]:
    """Writes passages.jsonl and held_back.jsonl into a folder, in the order of the index and
    without deleted passages.

    Args:
      index_dir: the index; its store is found through it.
      folder: folder of the two files.
      held_back: passages to hold back, at most a tenth.
      seed: Seeds the choice of these passages.

    Returns (passages to train on, passages held back).

    Raises IndexFolderError, StoreError: missing or damaged, or fewer than two passages.
    DiskFullError.
    """
    where = Folder(index_dir)
    manifest = index_manifest.read(where)
    store = PassageStore.open(index_manifest.store_path(where, manifest))
    # Deleted passages stay in the store until the index is compacted; they must not be learnt.
    rows = np.flatnonzero(~index_manifest.read_tombstones(where, manifest))
    if len(rows) < 2:
        raise errors.IndexFolderError(f'{index_dir}: {len(rows)} passages; pre-training needs at '
                                      'least 2')
    count = max(1, min(held_back, len(rows) // 10))
    held = set(np.random.default_rng(seed).choice(rows, count, replace=False).tolist())

    def passages(chosen: Iterable[int], total: int, label: str) -> Iterator[dict[str, Any]]:
        with progress.bar(total, label, 'passages') as bar:
            for row in chosen:
                passage = store[row]
                yield {
                    'id': passage.docid, 'title': passage.title, 'section': passage.section,
                    'text': passage.text}
                bar.update(1)

    # A generator, because there may be 33 million rows.
    kept = (row for row in map(int, rows) if row not in held)
    jsonl.write(folder / TRAIN_FILE, passages(kept, len(rows) - count, 'Passages'))
    jsonl.write(folder / HELD_BACK_FILE, passages(sorted(held), count, 'Held back'))
    return len(rows) - count, count
