"""BM25 over the texts of a passage store, by the library bm25s (Lu 2024); saved beside the index."""

import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.searchers import host_searcher
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved

FOLDER = 'bm25'
_STOPWORDS = 'en'  # English words such as "the" are left out of passages and questions alike


class BM25:
    """A SavedSearcher by words: a passage without any word of the question is not found.

    valid  [rows] bool, False for deleted rows
    """

    needs_embeddings = False

    def __init__(self, library_index: Any, valid: np.ndarray):
        self._index, self.valid = library_index, np.asarray(valid)

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best passages by BM25's scores; see HostSearcher."""
        rows = [self._one(text, top_k, None if excluded is None else excluded[number]) for number, text in enumerate(queries.texts)]
        if not rows:
            return host_searcher.nothing(top_k)
        return HostRetrieved(scores=np.concatenate([row.scores for row in rows]),
                             passage_ids=np.concatenate([row.passage_ids for row in rows]))

    def _one(self, text: str, top_k: int, excluded: np.ndarray | None) -> HostRetrieved:
        """Finds the passages of one question; excluded [n] int, -1 at unused places."""
        words = _package().tokenize([text], stopwords=_STOPWORDS, return_ids=False, show_progress=False)[0]
        known = self._index.get_tokens_ids(words)  # words that no passage has are left out
        scores = self._index.get_scores_from_ids(known) if known else np.zeros(len(self.valid), np.float32)
        scores = np.where(self.valid & (scores > 0), scores, -np.inf)
        # -1 would be the last row.
        if excluded is not None:
            scores[excluded[excluded >= 0]] = -np.inf
        return host_searcher.best_of_all(scores, top_k)

    def save(self, folder: pathlib.Path, digest: str) -> None:
        """Writes the searcher of the store version `digest`, whole or not at all. Raises DiskFullError."""
        host_searcher.write_saved(folder, {'digest': digest}, lambda place: self._index.save(place, show_progress=False))


def build(texts: Iterable[str], valid: np.ndarray) -> BM25:
    """Counts the words of every passage.

    Args:
      texts: title and text of each row.
      valid: [rows] bool, False for deleted rows.

    Raises:
      ConfigError: bm25s is not installed, or no passage has a word.
    """
    library = _package()
    words = library.tokenize(list(texts), stopwords=_STOPWORDS, show_progress=False)
    if not words.vocab:
        raise errors.ConfigError('BM25 needs passages with words in them, and these have none; choose searcher "exact"')
    index = library.BM25()
    index.index(words, show_progress=False)
    return BM25(index, valid)


def open_saved(folder: pathlib.Path, digest: str, valid: np.ndarray) -> BM25 | None:
    """Opens the searcher that `save` wrote, memory-mapped; None if there is none for this store version. `valid` is [rows] bool.

    Raises:
      ConfigError: bm25s is not installed.
    """
    if host_searcher.read_saved(folder, {'digest': digest}, {}) is None:
        return None
    return BM25(_package().BM25.load(folder, mmap=True, load_corpus=False), valid)


def _package() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise errors.ConfigError('the searchers "bm25" and "hybrid" need the package bm25s: pip install "atlas-jax[lexical]" '
                                 f'({error})') from error
    logging.getLogger('bm25s').setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s
