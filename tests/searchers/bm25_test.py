"""BM25 against its formula; deletions, exclusions, saving."""

import dataclasses
import math
import re
import sys
from collections import Counter

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.searchers import bm25
from atlas_jax.searchers.host_searcher import HostQueries
from tests.searchers.host_searcher_test import by_sorting_scores

TEXTS = ('radium was discovered by Marie Curie', 'the Seine flows through Paris', 'Marie wrote of radium and radium', 'nothing at all here',
         'Paris is a city', 'Curie street in Paris', 'radium glows')
VALID = np.array([True, True, False, True, True, True, True])


def lucene_bm25(query, texts):
    """The formula of bm25s's default method, from the paper (Lu 2024, section 2)."""
    words = [[word for word in re.findall(r'\b\w\w+\b', text.lower()) if word not in {'was', 'by', 'the', 'at', 'is', 'in', 'of', 'and'}]
             for text in texts]
    mean, scores = np.mean([len(row) for row in words]), []
    for row in words:
        counts, total = Counter(row), 0.0
        for word in query.lower().split():
            containing = sum(word in other for other in words)
            idf = math.log(1 + (len(texts) - containing + 0.5) / (containing + 0.5))
            total += idf * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * len(row) / mean))
        scores.append(total)
    return np.array(scores, np.float32)


def test_bm25_follows_its_formula_and_leaves_out_what_is_deleted(tmp_path):
    pytest.importorskip('bm25s')
    built = bm25.build(bm25.count(TEXTS), VALID)
    built.save(tmp_path / 'bm25', 'store-1')
    opened = bm25.open_saved(tmp_path / 'bm25', 'store-1', VALID)
    questions = HostQueries(['radium curie', 'unheard', 'paris', ''], None)
    for searcher in (built, opened):
        found = searcher.search(questions, 4)
        expected = np.stack([lucene_bm25(question, TEXTS) for question in questions.texts])
        best, order = by_sorting_scores(np.where(expected > 0, expected, -np.inf), VALID, 4)
        np.testing.assert_allclose(found.scores, best, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.passage_ids, order)
        excluded = searcher.search(questions, 4, np.array([[0], [0], [4], [-1]]))
        assert 0 not in excluded.passage_ids[0, :1] and excluded.passage_ids[2, 0] != 4
    assert bm25.open_saved(tmp_path / 'bm25', 'store-2', VALID) is None
    assert searcher.search(HostQueries([], None), 4).scores.shape == (0, 4)
    with pytest.raises(errors.ConfigError, match='words in them'):
        bm25.build(bm25.count(['', '.']), np.ones(2, bool))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'bm25s', None)
    with pytest.raises(errors.ConfigError, match=r'atlas-jax\[lexical\]'):
        bm25.count(TEXTS)


def test_the_scores_are_the_librarys_to_the_bit():
    library = pytest.importorskip('bm25s')
    texts = [f'{" ".join(f"word{(row * k) % 97}" for k in range(1, 5 + row % 40))} text' for row in range(300)]
    index = library.BM25()
    index.index(library.tokenize(texts, stopwords='en', show_progress=False), show_progress=False)
    built = bm25.build(bm25.count(texts), np.ones(300, bool))
    for query in (['word3', 'text'], ['word96', 'word1', 'word50']):
        np.testing.assert_array_equal(built._index.get_scores(query), index.get_scores(query))


def test_a_share_has_the_scores_of_the_whole():
    pytest.importorskip('bm25s')
    whole, question = bm25.count(TEXTS), HostQueries(['radium curie paris'], None)
    shares = [bm25.count(texts) for texts in (TEXTS[:3], TEXTS[3:])]
    found = []
    for share, valid in zip(shares, (VALID[:3], VALID[3:]), strict=True):
        # What `of_all` sums up over processes, which tests/multihost starts.
        frequencies = np.array([whole.frequencies[whole.tokenized.vocab[word]] for word in share.tokenized.vocab])
        found.append(bm25.build(dataclasses.replace(share, frequencies=frequencies, total=whole.total, passages=whole.passages), valid))
    expected = bm25.build(whole, VALID).search(question, 7)
    scores = [searcher.search(question, 7).scores[0] for searcher in found]
    np.testing.assert_array_equal(np.sort(np.concatenate(scores))[::-1][:7], expected.scores[0])
    # Words of a whole may all stand in other passages.
    empty = dataclasses.replace(bm25.count(['']), total=whole.total, passages=whole.passages)
    assert bm25.build(empty, np.ones(1, bool)) is None and bm25.of_all(whole).frequencies.tolist() == whole.frequencies.tolist()
