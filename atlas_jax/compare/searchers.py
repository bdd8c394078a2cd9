"""Compares the searchers of an index on questions whose passages are known, and fits hybrid search to them."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from atlas_jax import api, errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import retrieval, statistics
from atlas_jax.searchers import fitting
from atlas_jax.searchers.config import IN_GRAPH, ON_HOST, SearchConfig
from atlas_jax.searchers.host_searcher import HostRetrieved
from atlas_jax.steps import prepare
from atlas_jax.tasks.task import TaskExample

SEARCHERS = IN_GRAPH + ON_HOST
_BATCH = 64
_RECALLS = (1, 5, 20)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One searcher's results.

    Attributes:
      searcher: its name, with what was fitted.
      ranks: per question, rank from 0 of the first relevant passage; None if it is not among the top_k.
      seconds: to search for all questions, once everything is compiled, built and opened; None where nothing was timed.
      ready_seconds: until the first batch was answered: compiling, building or opening.
    """

    searcher: str
    ranks: tuple[int | None, ...]
    seconds: float | None = None
    ready_seconds: float | None = None

    @property
    def reciprocal_ranks(self) -> list[float]:
        """Per question 1 / rank, rank from 1; 0 where nothing relevant was found."""
        return [0.0 if rank is None else 1 / (1 + rank) for rank in self.ranks]

    def figures(self, best: 'Measured', top_k: int) -> dict[str, Any]:
        """Returns means with their 95 % intervals: Wilson's for recalls, bootstrap for the MRR and, paired, its difference to the best."""
        found: dict[str, Any] = {'searcher': self.searcher}
        for k in (k for k in _RECALLS if k <= top_k):
            hits, count = sum(rank is not None and rank < k for rank in self.ranks), len(self.ranks)
            found |= {f'recall_at_{k}': hits / count, f'recall_at_{k}_interval': statistics.wilson_interval(hits, count)}
        # Resampled means of a sample are those of its difference to nothing.
        mean, *interval = statistics.paired_difference([0.0] * len(self.ranks), self.reciprocal_ranks)
        behind, *behind_interval = statistics.paired_difference(best.reciprocal_ranks, self.reciprocal_ranks)
        return found | {'mrr': mean, 'mrr_interval': tuple(interval), 'mrr_to_best': behind, 'mrr_to_best_interval': tuple(behind_interval),
                        'seconds': self.seconds, 'ready_seconds': self.ready_seconds}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The searchers that could be measured, and the reasons why others could not.

    Attributes:
      measured: in the order asked for.
      missing: searcher -> why it is not among them.
      relevant: the passages that count as found, in words.
      passages, top_k: of the index; searched for each question.
      fit: of hybrid search, where it was asked for.
    """

    measured: tuple[Measured, ...]
    missing: dict[str, str]
    relevant: str
    passages: int
    top_k: int
    fit: fitting.Fit | None = None

    @property
    def best(self) -> Measured:
        """The searcher with the greatest mean reciprocal rank; of equals the first."""
        return max(self.measured, key=lambda measured: sum(measured.reciprocal_ranks))

    def figures(self) -> dict[str, Any]:
        """Returns the figures that programs read, as JSON values."""
        fit = None if self.fit is None else {**dataclasses.asdict(self.fit.mix), 'mrr_held_out': float(np.mean(self.fit.reciprocal_ranks)),
                                             'mrr_dense': float(np.mean(self.fit.dense)), 'mrr_bm25': float(np.mean(self.fit.lexical))}
        return {'questions': len(self.best.ranks), 'passages': self.passages, 'top_k': self.top_k, 'relevant': self.relevant,
                'searchers': [measured.figures(self.best, self.top_k) for measured in self.measured], 'best': self.best.searcher,
                'fit': fit, 'missing': self.missing}


class _Relevance:
    """The passages that answer an example: the gold ones where every example names some, else those with an answer in their text."""

    def __init__(self, examples: Sequence[TaskExample], store: PassageStore):
        self._examples, self._store = examples, store
        self._by_docid = all(example.gold_docids for example in examples)
        self._passages: dict[int, str] = {}  # docid or text by row; the same passages are found again and again
        if not self._by_docid and not all(example.answers for example in examples):
            raise errors.ConfigError('the questions name no passages; each needs "gold_docids" (ids of its passages) or "answers"')
        self.words = 'a passage that the question names in gold_docids' if self._by_docid else 'a passage with an answer in its text'

    def absent(self) -> int:
        """Counts the examples of whose gold passages the store has none. Raises ConfigError if that is all of them."""
        count = sum(not any(map(self._store.rows_of_document, example.gold_docids)) for example in self._examples) if self._by_docid else 0
        if count == len(self._examples):
            raise errors.ConfigError(f'{self._store.path}: has none of the passages that the questions name in gold_docids, such as '
                                     f'"{self._examples[0].gold_docids[0]}"; give the questions of these documents')
        return count

    def __call__(self, number: int, row: int) -> bool:
        """Returns whether the store's row answers the example with this number."""
        example = self._examples[number]
        if row not in self._passages:
            self._passages[row] = self._store.docid(row) if self._by_docid else self._store[row].text
        found = self._passages[row]
        if self._by_docid:
            return retrieval.first_gold_rank([found], example.gold_docids) is not None
        return answer_metrics.contains_answer(found, example.answers)


def compare(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample], searchers: Sequence[str] = SEARCHERS, top_k: int = 20,
            fit: bool = False, questions_sha256: str = '') -> Comparison:
    """Measures the searchers on the same questions.

    Args:
      atlas: the model that built the index.
      index: what to search.
      examples: with gold_docids or answers.
      searchers: their names. One whose package is missing is left out, with the reason.
      top_k: passages searched for a question.
      fit: also fits hybrid search and saves the fit beside the index. Its row shows every question ranked by a fit to others.
      questions_sha256: of the questions' file, kept with the fit.

    Raises:
      ConfigError: no question, or too few of them to fit; questions without gold_docids and answers, or of other documents; no searcher
        that could be measured; bm25s is missing for the fit.
      IndexFolderError, StoreError: as Index.check.
    """
    if not examples:
        raise errors.ConfigError('there are no questions to compare searchers on')
    if fit and len(examples) < fitting.LEAST_QUESTIONS:
        raise errors.ConfigError(f'{len(examples)} questions are too few to fit hybrid search; give at least {fitting.LEAST_QUESTIONS}')
    is_relevant = _Relevance(examples, index.store)
    if absent := is_relevant.absent():
        print(f'{absent} of {len(examples)} questions name only passages that are not in the index: they count as not found', flush=True)
    measured, missing = [], {}
    for searcher in searchers:
        try:
            measured.append(_measure(atlas, index, examples, SearchConfig(searcher), top_k, is_relevant))
        # Its package is missing, or no passage has a word; the others can still be compared.
        except errors.ConfigError as error:
            missing[searcher] = str(error)
    fitted = None
    if fit:
        fitted, ranks = _fit(atlas, index, examples, is_relevant, questions_sha256)
        measured.append(Measured('hybrid, fitted', tuple(rank if rank is not None and rank < top_k else None for rank in ranks)))
    if not measured:
        raise errors.ConfigError(f'no searcher could be measured: {"; ".join(missing.values())}')
    return Comparison(tuple(measured), missing, is_relevant.words, len(index.index), top_k, fitted)


def _measure(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample], search: SearchConfig, top_k: int,
             is_relevant: Callable[[int, int], bool]) -> Measured:
    start = time.perf_counter()
    size = atlas.whole_batch(min(len(examples), _BATCH))
    prepared = prepare.prepare(atlas, examples, index, top_k, size, search=search)
    params = atlas.device_params()
    # Compiling, building and opening happen in the first batch; it is searched again below.
    list(prepared.search(params, examples[:size], size))
    ready = time.perf_counter()
    chunks = list(prepared.search(params, examples, size))
    seconds = time.perf_counter() - ready
    found = _joined(chunks)
    relevant = _relevant(found, is_relevant)
    ranks = tuple(int(row.argmax()) if row.any() else None for row in relevant)
    fitted = search.wants_fit and fitting.apply(search, [(index.index, index.store.fingerprint)]) != search
    return Measured('hybrid, as saved' if fitted else search.searcher, ranks, seconds, ready - start)


def _fit(atlas: api.Atlas, index: api.Index, examples: Sequence[TaskExample], is_relevant: Callable[[int, int], bool],
         questions_sha256: str) -> tuple[fitting.Fit, list[int | None]]:
    """Fits hybrid search and saves it. Returns the fit, and each question's rank from 0 by a fit to others."""
    search, size, sides = SearchConfig('hybrid'), atlas.whole_batch(min(len(examples), _BATCH)), []
    for searcher in (search.dense_searcher, 'bm25'):
        prepared = prepare.prepare(atlas, examples, index, search.fusion_candidates, size, search=searcher)
        sides.append(_joined(list(prepared.search(atlas.device_params(), examples, size))))
    dense, lexical = sides
    fitted = fitting.fit(dense, lexical, _relevant(dense, is_relevant), _relevant(lexical, is_relevant))
    fitting.save(index.index, index.store.fingerprint, fitted, search, questions_sha256)
    return fitted, [None if value == 0 else round(1 / value) - 1 for value in fitted.reciprocal_ranks]


def _joined(chunks: Sequence[tuple[Sequence[TaskExample], Any]]) -> HostRetrieved:
    """Joins batches to [questions, top_k], without the fillers at the end of each."""
    return HostRetrieved(np.concatenate([found.scores[:len(chunk)] for chunk, found in chunks]),
                         np.concatenate([found.passage_ids[:len(chunk)] for chunk, found in chunks]))


def _relevant(found: HostRetrieved, is_relevant: Callable[[int, int], bool]) -> np.ndarray:
    """Returns [questions, top_k] bool."""
    there = np.isfinite(found.scores)
    return np.array([[bool(there[number, place]) and is_relevant(number, int(row)) for place, row in enumerate(rows)]
                     for number, rows in enumerate(found.passage_ids)])


def as_text(comparison: Comparison) -> str:
    """Returns the table for a terminal, and what it says."""
    figures = comparison.figures()
    recalls = [k for k in _RECALLS if k <= comparison.top_k]
    header = ('searcher', *(f'R@{k}' for k in recalls), 'MRR', 'MRR to the best', 'seconds')
    rows = [header]
    for row in figures['searchers']:
        seconds = '' if row['seconds'] is None else f'{row["seconds"]:.2f}'
        rows.append((row['searcher'], *(_share(row[f'recall_at_{k}'], row[f'recall_at_{k}_interval']) for k in recalls),
                     _share(row['mrr'], row['mrr_interval']), _share(row['mrr_to_best'], row['mrr_to_best_interval'], '+'), seconds))
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(header))]
    lines = [f'{figures["questions"]} questions, {figures["passages"]} passages; found is {figures["relevant"]}.', '']
    lines += ['  '.join(f'{cell:{width}}' for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
    lines += ['', f'95 % intervals: Wilson for R@k; bootstrap over questions for the MRR (ranks to {comparison.top_k}), paired for its '
              'difference.', 'Seconds: all questions, without compiling, building and opening.']
    best = figures['best']
    equals = [row['searcher'] for row in figures['searchers'] if row['searcher'] != best and row['mrr_to_best_interval'][1] >= 0]
    lines.append(f'Best: {best}' + (f'; by chance it may be no better than {", ".join(equals)}' if equals else ''))
    lines += [f'Not measured: {name}: {reason}' for name, reason in comparison.missing.items()]
    if comparison.fit is not None:
        lines += _fit_text(comparison.fit)
    return '\n'.join(lines)


def _fit_text(fit: fitting.Fit) -> list[str]:
    held_out, dense, lexical = (float(np.mean(values)) for values in (fit.reciprocal_ranks, fit.dense, fit.lexical))
    how = f'{fit.mix.fusion}, BM25\'s share {fit.mix.lexical_weight:.2f}'
    # At 0 and 1 one side is left out, and what is added up no longer matters.
    if fit.mix.lexical_weight in (0, 1):
        how = f'{"BM25" if fit.mix.lexical_weight else "the retriever"} alone, for no mix is better by more than a standard error'
    return [f'Fitted: {how}. MRR (ranks to 100) on questions held out: {held_out:.3f}; the retriever {dense:.3f}, BM25 {lexical:.3f}.',
            f'Saved beside the index as {fitting.FILE}; searcher "hybrid" uses it from now on.']


def _share(value: float, interval: tuple[float, float], sign: str = '') -> str:
    return f'{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]'
