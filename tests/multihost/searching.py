"""Passages that searchers find for a batch, and the answers read from them: equal in one process and in several."""

import pathlib

import jax
import numpy as np

from atlas_jax.answering import api, prepare
from atlas_jax.runtime import hosts
from atlas_jax.searchers.config import SearchConfig
from tests.testing import tiny_run

SEARCHERS = ('exact', 'codes', 'bm25', 'scann', 'hybrid')


def found(folder: pathlib.Path, mesh: jax.sharding.Mesh) -> dict[str, list]:
    """By searcher: rows and scores of five examples, two of them without themselves, and the tokens that are read of them."""
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=mesh)
    index, results, examples = api.Index.open(folder / 'index'), {}, tiny_run.examples(atlas, 5)
    for number in (0, 3):
        object.__setattr__(examples[number], 'own_docid', f'd{number}')
    for searcher in SEARCHERS:
        search = SearchConfig(searcher, tokens='host', rescore='host', rescore_candidates=23)
        prepared = prepare.prepare_examples(atlas, examples, index, 4, 8, search=search)
        asked, read = [], prepared.token_rows.read
        prepared.token_rows.read = lambda rows, asked=asked, read=read: asked.append(len(rows)) or read(rows)
        _, retrieved = prepared.batch(examples, 8, atlas.device_params())
        assert asked == [8 // jax.process_count()]  # its own examples' alone
        retrieved = hosts.to_host(retrieved)
        results[searcher] = [retrieved.passage_ids[:5].tolist(), np.round(retrieved.scores[:5].astype(float), 4).clip(-1e9).tolist(),
                             retrieved.reader_rows.tokens[:5].sum(axis=-1).tolist()]
    return results
