"""Compares the searchers of an index on questions with known passages, and fits hybrid search."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.answering import api, prepare
from atlas_jax.corpus.store import PassageStore
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import retrieval, statistics
from atlas_jax.report import text_table
from atlas_jax.searchers import fitting
from atlas_jax.searchers.config import IN_GRAPH, ON_HOST, SearchConfig
from atlas_jax.searchers.host_searcher import HostRetrieved
from atlas_jax.tasks.task import TaskExample

SEARCHERS = IN_GRAPH + ON_HOST
_BATCH = 64
_RECALLS = (1, 5, 20)


@dataclasses.dataclass(frozen=True)
class SearcherMeasurement:
    """One searcher's results.

    Attributes:
      searcher: Name of the searcher; it tells whether a fit was used.
      ranks: Rank from 0 of each question's first relevant passage; None if not among the top_k.
      seconds: Time to search for all questions, without compiling, building and opening; None if
        it was not measured.
      ready_seconds: Time until the first batch was answered: compiling, building and opening.
    """

    searcher: str
    ranks: tuple[int | None, ...]
    seconds: float | None = None
    ready_seconds: float | None = None

    @property
    def reciprocal_ranks(self) -> list[float]:
        """1 / rank of each question, with ranks from 1; 0 if nothing relevant was found."""
        return [0.0 if rank is None else 1 / (1 + rank) for rank in self.ranks]

    def figures(self, best: 'SearcherMeasurement', top_k: int) -> dict[str, Any]:
        """Returns means with 95 % intervals.

        Recalls have Wilson intervals; MRR and its paired difference to the best have bootstrap
        intervals.
        """
        found: dict[str, Any] = {'searcher': self.searcher}
        for k in (k for k in _RECALLS if k <= top_k):
            hits, count = sum(rank is not None and rank < k for rank in self.ranks), len(self.ranks)
            found |= {f'recall_at_{k}': hits / count,
                      f'recall_at_{k}_interval': statistics.wilson_interval(hits, count)}
        # The paired difference to zeros is the mean itself.
        mean, *interval = statistics.paired_difference([0.0] * len(self.ranks),
                                                       self.reciprocal_ranks)
        behind, *behind_interval = statistics.paired_difference(best.reciprocal_ranks,
                                                                self.reciprocal_ranks)
        return found | {
            'mrr': mean, 'mrr_interval': tuple(interval), 'mrr_to_best': behind,
            'mrr_to_best_interval': tuple(behind_interval), 'seconds': self.seconds,
            'ready_seconds': self.ready_seconds}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The searchers that were measured, and the reasons why others were not.

    Attributes:
      measured: The searchers' results, in the order asked for.
      missing: Searcher -> the reason why it was not measured.
      relevant: Which passages count as found, in words.
      passages: Passages in the index.
      top_k: Passages searched for each question.
      fit: The fit of hybrid search, if it was asked for.
    """

    measured: tuple[SearcherMeasurement, ...]
    missing: dict[str, str]
    relevant: str
    passages: int
    top_k: int
    fit: fitting.Fit | None = None

    @property
    def best(self) -> SearcherMeasurement:
        """The searcher with the greatest mean reciprocal rank; the first of equals."""
        return max(self.measured, key=lambda measured: sum(measured.reciprocal_ranks))

    def figures(self) -> dict[str, Any]:
        """Returns the figures that programs read, as JSON values."""
        fit = None if self.fit is None else {
            **dataclasses.asdict(self.fit.mix),
            'mrr_held_out': float(np.mean(self.fit.reciprocal_ranks)),
            'mrr_dense': float(np.mean(self.fit.dense)),
            'mrr_bm25': float(np.mean(self.fit.lexical))}
        return {
            'questions': len(self.best.ranks), 'passages': self.passages, 'top_k': self.top_k,
            'relevant': self.relevant,
            'searchers': [measured.figures(self.best, self.top_k) for measured in self.measured],
            'best': self.best.searcher, 'fit': fit, 'missing': self.missing}


class _Relevance:
    """Tells which passages answer an example.

    These are the gold passages if every example names some, else passages with an answer in their
    text.
    """

    def __init__(self, examples: Sequence[TaskExample], store: PassageStore):
        self._examples, self._store = examples, store
        self._by_docid = all(example.gold_docids for example in examples)
        # Docid or text by row: searches find the same passages again and again.
        self._passages: dict[int, str] = {}
        if not self._by_docid and not all(example.answers for example in examples):
            raise errors.ConfigError('the questions name no passages; each needs "gold_docids" '
                                     '(ids of its passages) or "answers"')
        self.words = ('a passage that the question names in gold_docids' if self._by_docid
                      else 'a passage with an answer in its text')

    def absent(self) -> int:
        """Returns the number of examples that have no gold passage in the store.

        Raises ConfigError: no example has one.
        """
        count = sum(not any(map(self._store.rows_of_document, example.gold_docids))
                    for example in self._examples) if self._by_docid else 0
        if count == len(self._examples):
            raise errors.ConfigError(
                f'{self._store.path}: has none of the passages that the questions name in '
                f'gold_docids, such as "{self._examples[0].gold_docids[0]}"; give the questions of '
                'these documents')
        return count

    def __call__(self, number: int, row: int) -> bool:
        """Returns whether the store's row answers the example with this number."""
        example = self._examples[number]
        if row not in self._passages:
            self._passages[row] = (self._store.docid(row) if self._by_docid
                                   else self._store[row].text)
        found = self._passages[row]
        if self._by_docid:
            return retrieval.first_gold_rank([found], example.gold_docids) is not None
        return answer_metrics.contains_answer(found, example.answers)


def compare(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample],
            searchers: Sequence[str] = SEARCHERS, top_k: int = 20, fit: bool = False,
            questions_sha256: str = '') -> Comparison:
    """Measures the searchers on the same questions.

    Args:
      atlas: The model that built the index.
      index: The index to search.
      examples: Questions with gold_docids or answers.
      searchers: Names of searchers. One whose package is missing is left out, with the reason.
      top_k: Passages searched for each question.
      fit: Also fits hybrid search, and saves the fit beside the index. Its row has the rank of each
        question by a fit to the others.
      questions_sha256: Hash of the questions' file, saved with the fit.

    Raises:
      ConfigError: no questions, or too few for a fit; questions without gold_docids and answers, or
        about other documents; no searcher could be measured; or the fit needs bm25s.
      IndexFolderError, StoreError: see Index.check.
    """
    if not examples:
        raise errors.ConfigError('there are no questions to compare searchers on')
    if fit and len(examples) < fitting.LEAST_QUESTIONS:
        raise errors.ConfigError(f'{len(examples)} questions are too few to fit hybrid search; '
                                 f'give at least {fitting.LEAST_QUESTIONS}')
    is_relevant = _Relevance(examples, index.store)
    if absent := is_relevant.absent():
        print(f'{absent} of {len(examples)} questions name only passages that are not in the '
              'index: they count as not found', flush=True)
    measured, missing = [], {}
    for searcher in searchers:
        try:
            measured.append(
                _measure(atlas, index, examples, SearchConfig(searcher), top_k, is_relevant))
        # A package is missing, or no passage has a word; the others can still be compared.
        except errors.ConfigError as error:
            missing[searcher] = str(error)
    fitted = None
    if fit:
        fitted, ranks = _fit(atlas, index, examples, is_relevant, questions_sha256)
        measured.append(SearcherMeasurement(
            'hybrid, fitted',
            tuple(rank if rank is not None and rank < top_k else None for rank in ranks)))
    if not measured:
        raise errors.ConfigError(f'no searcher could be measured: {"; ".join(missing.values())}')
    return Comparison(tuple(measured), missing, is_relevant.words, len(index.index), top_k, fitted)


def _measure(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample],
             search: SearchConfig, top_k: int,
             is_relevant: Callable[[int, int], bool]) -> SearcherMeasurement:
    start = time.perf_counter()
    size = atlas.whole_batch(min(len(examples), _BATCH))
    prepared = prepare.prepare_examples(atlas, examples, index, top_k, size, search=search)
    params = atlas.device_params()
    # The first batch compiles, builds and opens; it is searched again below.
    list(prepared.search(params, examples[:size], size))
    ready = time.perf_counter()
    chunks = list(prepared.search(params, examples, size))
    seconds = time.perf_counter() - ready
    found = _joined(chunks)
    relevant = _relevant(found, is_relevant)
    ranks = tuple(int(row.argmax()) if row.any() else None for row in relevant)
    fitted = search.wants_fit and fitting.apply(
        search, [(index.index, index.store.fingerprint)]) != search
    return SearcherMeasurement('hybrid, as saved' if fitted else search.searcher, ranks, seconds,
                               ready - start)


def _fit(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample],
         is_relevant: Callable[[int, int], bool],
         questions_sha256: str) -> tuple[fitting.Fit, list[int | None]]:
    """Fits hybrid search and saves the fit.

    Returns the fit, and each question's rank from 0 by a fit to the others.
    """
    search, sides = SearchConfig('hybrid'), []
    size = atlas.whole_batch(min(len(examples), _BATCH))
    for searcher in (search.dense_searcher, 'bm25'):
        prepared = prepare.prepare_examples(atlas, examples, index, search.fusion_candidates, size,
                                            search=searcher)
        sides.append(_joined(list(prepared.search(atlas.device_params(), examples, size))))
    dense, lexical = sides
    fitted = fitting.fit(dense, lexical, _relevant(dense, is_relevant),
                         _relevant(lexical, is_relevant))
    fitting.save(index.index, index.store.fingerprint, fitted, search, questions_sha256)
    return fitted, [
        None if value == 0 else round(1 / value) - 1 for value in fitted.reciprocal_ranks]


def _joined(chunks: Sequence[tuple[Sequence[TaskExample], Any]]) -> HostRetrieved:
    """Joins batches to [questions, top_k], without fillers."""
    return HostRetrieved(
        np.concatenate([found.scores[:len(chunk)] for chunk, found in chunks]),
        np.concatenate([found.passage_ids[:len(chunk)] for chunk, found in chunks]))


def _relevant(found: HostRetrieved, is_relevant: Callable[[int, int], bool]) -> np.ndarray:
    """Returns [questions, top_k] bool."""
    there = np.isfinite(found.scores)
    return np.array([[bool(there[number, place]) and is_relevant(number, int(row))
                      for place, row in enumerate(rows)]
                     for number, rows in enumerate(found.passage_ids)])


def as_text(comparison: Comparison) -> str:
    """Returns a table for a terminal, with notes."""
    figures = comparison.figures()
    recalls = [k for k in _RECALLS if k <= comparison.top_k]
    header = ('searcher', *(f'R@{k}' for k in recalls), 'MRR', 'MRR to the best', 'seconds')
    rows = [header]
    for row in figures['searchers']:
        seconds = '' if row['seconds'] is None else f'{row["seconds"]:.2f}'
        rows.append((
            row['searcher'],
            *(_share(row[f'recall_at_{k}'], row[f'recall_at_{k}_interval']) for k in recalls),
            _share(row['mrr'], row['mrr_interval']),
            _share(row['mrr_to_best'], row['mrr_to_best_interval'], '+'), seconds))
    lines = [f'{figures["questions"]} questions, {figures["passages"]} passages; found is '
             f'{figures["relevant"]}.', '']
    lines += text_table.aligned(rows)
    lines += ['', '95 % intervals: Wilson for R@k; bootstrap over questions for the MRR (ranks '
              f'to {comparison.top_k}), paired for its difference.',
              'Seconds: all questions, without compiling, building and opening.']
    best = figures['best']
    equals = [row['searcher'] for row in figures['searchers']
              if row['searcher'] != best and row['mrr_to_best_interval'][1] >= 0]
    lines.append(f'Best: {best}' + (
        f'; by chance it may be no better than {", ".join(equals)}' if equals else ''))
    lines += [f'Not measured: {name}: {reason}' for name, reason in comparison.missing.items()]
    if comparison.fit is not None:
        lines += _fit_text(comparison.fit)
    return '\n'.join(lines)


def _fit_text(fit: fitting.Fit) -> list[str]:
    held_out, dense, lexical = (float(np.mean(values))
                                for values in (fit.reciprocal_ranks, fit.dense, fit.lexical))
    how = f'{fit.mix.fusion}, BM25\'s share {fit.mix.lexical_weight:.2f}'
    # At 0 and 1 one side is left out, and the fusion no longer matters.
    if fit.mix.lexical_weight in (0, 1):
        side = 'BM25' if fit.mix.lexical_weight else 'the retriever'
        how = f'{side} alone, for no mix is better by more than a standard error'
    return [f'Fitted: {how}. MRR (ranks to 100) on questions held out: {held_out:.3f}; the '
            f'retriever {dense:.3f}, BM25 {lexical:.3f}.',
            f'Saved beside the index as {fitting.FILE}; searcher "hybrid" uses it from now on.']


def _share(value: float, interval: tuple[float, float], sign: str = '') -> str:
    return f'{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]'
