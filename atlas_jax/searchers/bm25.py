"""BM25 over the texts of a passage store, with the library bm25s (Lu 2024). Saved beside the index.
"""

import collections
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.io import untrusted
from atlas_jax.runtime import hosts
from atlas_jax.searchers import host_searcher
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved

FOLDER = 'bm25'
KIND = host_searcher.saved_kind(host_searcher.SavedFiles, 'a BM25 searcher')
_STOPWORDS = 'en'  # leaves English words such as "the" out of passages and questions


class BM25:
    """A SavedSearcher by words. It does not find passages without any word of the question.

    valid  [rows] bool, False for deleted rows
    """

    needs_embeddings = False

    def __init__(self, library_index: Any, valid: np.ndarray):
        self._index, self.valid = library_index, np.asarray(valid)

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Returns the best passages by BM25 score; see HostSearcher."""
        rows = [
            self._one(text, top_k, None if excluded is None else excluded[number])
            for number, text in enumerate(queries.texts)]
        if not rows:
            return host_searcher.nothing(top_k)
        return HostRetrieved(scores=np.concatenate([row.scores for row in rows]),
                             passage_ids=np.concatenate([row.passage_ids for row in rows]))

    def _one(self, text: str, top_k: int, excluded: np.ndarray | None) -> HostRetrieved:
        """Finds the passages of one question; excluded [n] int, -1 in unused slots."""
        words = _package().tokenize([text], stopwords=_STOPWORDS, return_ids=False,
                                    show_progress=False)[0]
        known = self._index.get_tokens_ids(words)  # without words that no passage has
        scores = self._index.get_scores_from_ids(known) if known else np.zeros(
            len(self.valid), np.float32)
        scores = np.where(self.valid & (scores > 0), scores, -np.inf)
        # -1 would index the last row.
        if excluded is not None:
            scores[excluded[excluded >= 0]] = -np.inf
        return host_searcher.best_of_all(scores, top_k)

    def save(self, folder: pathlib.Path, digest: str) -> None:
        """Writes the searcher of the store version `digest`, whole or not at all.

        Raises DiskFullError.
        """
        host_searcher.write_saved(
            folder, KIND, lambda place: self._index.save(place, show_progress=False), digest=digest)


@dataclasses.dataclass(frozen=True)
class Words:
    """Word counts of some passages.

    tokenized    result of bm25s: the word ids of each passage, and the vocabulary
    frequencies  [words] int64, number of passages with each word, by id
    total        number of words in all passages
    passages     number of passages
    """

    tokenized: Any
    frequencies: np.ndarray
    total: int
    passages: int


def count(texts: Iterable[str]) -> Words:
    """Counts the words of passages, title and text of each.

    Raises ConfigError: bm25s is not installed.
    """
    tokenized = _package().tokenize(list(texts), stopwords=_STOPWORDS, show_progress=False)
    # A passage counts once per word, however often it has the word.
    distinct = [np.unique(ids) for ids in tokenized.ids]
    flat = np.concatenate([np.zeros(0, np.int64), *distinct]).astype(np.int64)
    return Words(tokenized, np.bincount(flat, minlength=len(tokenized.vocab)),
                 sum(map(len, tokenized.ids)), len(tokenized.ids))


def of_all(own: Words) -> Words:
    """Returns the words of this process's passages with the counts over all processes. All
    processes must call it together.

    A passage's score depends on how many passages have a word, and on how long passages are. With
    the counts of all passages, every process computes the scores that a single process would.
    """
    # In the order of the ids, as the frequencies.
    vocab = sorted(own.tokenized.vocab, key=own.tokenized.vocab.__getitem__)
    sums: collections.Counter[str] = collections.Counter()
    for counts in hosts.gather_bytes(
            json.dumps(dict(zip(vocab, own.frequencies.tolist(), strict=True))).encode()):
        sums.update(untrusted.parse_json(counts))
    total, passages = hosts.gather(np.array([own.total, own.passages],
                                            np.int64)).sum(axis=0).tolist()
    return Words(own.tokenized, np.array([sums[word] for word in vocab], np.int64), total, passages)


def build(words: Words, valid: np.ndarray) -> BM25 | None:
    """Returns the searcher of counted passages; None if these passages have no words but those of
    other processes do.

    Args:
      words: words of the passages, one passage per row; the counts may cover more passages.
      valid: [rows] bool, False for deleted rows.

    Raises:
      ConfigError: bm25s is not installed, or no passage of any process has a word.
    """
    if not words.total:
        raise errors.ConfigError('BM25 needs passages with words in them, and these have none; '
                                 'choose searcher "exact"')
    if not words.tokenized.vocab:
        return None
    index = _package().BM25()
    # The library's door for an index that is built in another way: by its own way it would count
    # the passages that it is given.
    index.build_index_from_ids = lambda **_: _scores(words, index.k1, index.b, index.dtype)
    index.nonoccurrence_array = None
    # A copy: the library adds a word to it.
    index.index((words.tokenized.ids, dict(words.tokenized.vocab)), show_progress=False)
    return BM25(index, valid)


def _scores(words: Words, k1: float, b: float, dtype: str) -> dict[str, Any]:
    """Returns the scores of all words in all passages, in the layout of bm25s: Lucene's formula (Lu
    2024, section 2), by word, then by row.
    """
    ids, rows = words.tokenized.ids, len(words.tokenized.ids)
    lengths = np.array([len(each) for each in ids], np.int64)
    # One number for each word in each row, word first: sorted, they are the columns of a sparse
    # matrix.
    places = np.concatenate([np.asarray(each, np.int64)
                             for each in ids]) * rows + np.repeat(np.arange(rows), lengths)
    places, times = np.unique(places, return_counts=True)
    word, row = np.divmod(places, rows)
    # Rounds where the library rounds.
    rarity = np.log(1 + (words.passages - words.frequencies + 0.5) /
                    (words.frequencies + 0.5)).astype(dtype)
    norms = k1 * (1 - b + b * lengths * (words.passages / words.total))
    starts = np.searchsorted(word, np.arange(len(words.tokenized.vocab) + 1))
    return {
        'data': (rarity[word] * (times / (norms[row] + times))).astype(dtype),
        'indices': row.astype(np.int32), 'indptr': starts, 'num_docs': rows}


def open_saved(folder: pathlib.Path, digest: str, valid: np.ndarray) -> BM25 | None:
    """Opens a saved searcher, memory-mapped; None if there is none for this store version, or it is
    damaged. `valid` is [rows] bool.

    Raises:
      ConfigError: bm25s is not installed.
    """
    if host_searcher.read_saved(folder, KIND, digest=digest) is None:
        return None
    return BM25(_package().BM25.load(folder, mmap=True, load_corpus=False), valid)


def _package() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise errors.ConfigError('the searchers "bm25" and "hybrid" need the package bm25s: pip '
                                 'install "atlas-jax[lexical]" '
                                 f'({error})') from error
    logging.getLogger('bm25s').setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s
