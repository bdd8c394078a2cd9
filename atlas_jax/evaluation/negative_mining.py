"""Mines hard negatives: passages that a search finds for a question but that do not answer it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from atlas_jax import errors, options
from atlas_jax.answering import api
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.input import question_passages
from atlas_jax.io import file_list, jsonl
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.runtime import progress
from atlas_jax.searchers import on_host
from atlas_jax.searchers.host_searcher import HostQueries

FILTERS = ('answers', 'margin', 'none')
_SEARCH_BATCH = 256  # questions


class ScoredCandidate(Protocol):
    """A passage that a search found, with its score."""

    @property
    def passage(self) -> Passage: ...

    @property
    def score(self) -> float: ...


# Takes questions and top_k; returns passages of each question, best first.
Search = Callable[[Sequence[str], int], Sequence[Sequence[ScoredCandidate]]]


@dataclasses.dataclass(frozen=True)
class MiningSettings:
    """How negatives are chosen.

    Attributes:
      top_k: Passages searched for each question.
      negatives: Negatives to keep, the best that pass the filter. Positives and passages of gold
        documents are never kept.
      filter: Which passages may be false negatives and are left out. answers: those with an answer,
        as whole words. margin: those that score above the best positive minus `margin`, or all if
        no positive was found. none: no passage.
      margin: Margin in scores of the searcher.

    Raises ConfigError: an unknown filter, or a number that is too small.
    """

    top_k: int = 100
    negatives: int = 10
    filter: str = options.option('answers', choices=FILTERS)
    margin: float = options.option(0.0, least=0)

    def __post_init__(self):
        options.check_options(self, '--')
        if not 1 <= self.negatives <= self.top_k:
            raise errors.ConfigError(f'--negatives is {self.negatives}; it must be 1 to --top_k '
                                     f'{self.top_k}')


@dataclasses.dataclass
class Counts:
    """Totals over all questions.

    Attributes:
      written: Questions written.
      without_positive: Questions left out, since they have no positive.
      negatives: Negatives written.
      gold: Passages left out because they equal a positive or belong to a gold document.
      filtered: Passages left out by the filter.
    """

    written: int = 0
    without_positive: int = 0
    negatives: int = 0
    gold: int = 0
    filtered: int = 0


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A question of the file, with its positives, answers and gold docids."""

    question: question_passages.QuestionWithPassages
    answers: tuple[str, ...]
    gold_docids: tuple[str, ...]


def search_by_words(index_dir: str, store_dir: str | None = None) -> Search:
    """Returns a search of an index's passages by BM25, without a model.

    Raises IndexFolderError, StoreError, ConfigError: no bm25s.
    """
    index = EmbeddingIndex.open(index_dir)
    store = PassageStore.open(store_dir or index.store_path)
    searcher = on_host.lexical(on_host.SearcherPart(index, store))

    def search(questions: Sequence[str], top_k: int) -> list[list[ScoredCandidate]]:
        if searcher is None:  # no passage has a word
            return [[] for _ in questions]
        found = searcher.search(HostQueries(questions, None), top_k)
        return [[api.FoundPassage(store[int(row)], float(score))
                 for row, score in zip(*pair, strict=True) if np.isfinite(score)]
                for pair in zip(found.passage_ids, found.scores, strict=True)]

    return search


def search_by_model(atlas: api.Atlas, index: api.Index, searcher: str) -> Search:
    """Returns a search of an index with a model, by any searcher of the index."""
    # Without the prompt, as the retriever is trained: a reader's prompt around a question finds
    # other passages, and fewer right ones.
    return lambda questions, top_k: atlas.search(questions, index, top_k, searcher,
                                                 with_prompt=False)


def mine(paths: file_list.Paths, open_search: Callable[[], Search], store: PassageStore,
         settings: MiningSettings, to: pathlib.Path) -> Counts:
    """Writes the questions of files with positives and hard negatives, for question_passages.

    A question's positives are those of its line, or the passages of its `gold_docids`, or the best
    found passage with an answer, whichever exists first. Of a gold document stored in pieces they
    are the pieces with an answer, or all pieces if none has one. Questions without a positive are
    left out. Pieces of a gold document are never negatives, whatever the filter.

    Args:
      paths: JSON lines with `question`, and `answers`, `gold_docids` or `positive_passages`.
      open_search: Opens the search after all lines were checked; for example
        `lambda: search_by_words(index_dir)`.
      store: Store with the passages of gold_docids.
      settings: How negatives are chosen.
      to: File to write atomically.

    Raises:
      InputFileError: a line without a question, or without the fields that the filter or the
        positives need.
      DiskFullError.
    """
    # All lines are checked before the search is opened: a mistake in the last one must not cost
    # counting all words or loading a model.
    wanted, counts = list(_wanted(paths, settings)), Counts()
    search = open_search()

    def rows() -> Iterator[dict[str, Any]]:
        with progress.bar(len(wanted), 'mining negatives', ' questions') as bar:
            for start in range(0, len(wanted), _SEARCH_BATCH):
                part = wanted[start:start + _SEARCH_BATCH]
                for each, found in zip(
                        part, search([each.question.text for each in part], settings.top_k),
                        strict=True):
                    if (row := _row(each, found, store, settings, counts)) is not None:
                        yield row
                    bar.update(1)

    jsonl.write(to, rows())
    return counts


def _wanted(paths: file_list.Paths, settings: MiningSettings) -> Iterator[_Wanted]:
    """Yields the questions of files, checked."""
    for file in file_list.files_of(paths):
        for line, row in jsonl.read(file):
            question = question_passages.question_of(row, str(file), line, needs_positive=False)
            texts: dict[str, tuple[str, ...]] = {}
            for name in ('answers', 'gold_docids'):
                value = row.get(name, [])
                if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                    raise errors.InputFileError(str(file), 'must be a list of texts', line=line,
                                                field=name)
                texts[name] = tuple(value)
            if settings.filter == 'answers' and not answer_metrics.stand_in_texts(texts['answers']):
                raise errors.InputFileError(
                    str(file), 'empty or missing, or no text that a passage could hold', line=line,
                    field='answers', remedy='the filter leaves out passages with an answer in '
                    'them: give answers, or choose --filter margin or none')
            if not question.positives and not texts['gold_docids'] and not texts['answers']:
                raise errors.InputFileError(str(file), 'no positive', line=line,
                                            remedy='give answers, gold_docids or positive_passages')
            yield _Wanted(question, texts['answers'], texts['gold_docids'])


def _row(wanted: _Wanted, found: Sequence[ScoredCandidate], store: PassageStore,
         settings: MiningSettings, counts: Counts) -> dict[str, Any] | None:
    """Returns the line of a question, or None if it has no positive."""
    gold = [pieces for docid in wanted.gold_docids
            if (pieces := [store[row] for row in store.rows_of_document(docid)])]
    positives = _positives(wanted, gold, found)
    if not positives:
        counts.without_positive += 1
        return None
    # A positive that was not found scores below all passages found.
    texts = set(map(_text_of, positives))
    best = max((each.score for each in found if _text_of(each.passage) in texts), default=-np.inf)
    # Compared by text, since a positive of the file may have another docid in the index, or none;
    # and by docid, since it may have another text there or be stored in pieces.
    texts |= {_text_of(piece) for pieces in gold for piece in pieces}
    docids = {*wanted.gold_docids, *(passage.docid for passage in wanted.question.positives)} - {''}
    chosen: list[ScoredCandidate] = []
    for each in found:
        if len(chosen) == settings.negatives:
            break
        if _text_of(each.passage) in texts or retrieval_metrics.first_gold_rank(
            [each.passage.docid], docids) is not None:
            counts.gold += 1
        elif _is_false(each, wanted, best, settings):
            counts.filtered += 1
        else:
            chosen.append(each)
    counts.written += 1
    counts.negatives += len(chosen)
    # gold_docids are kept for mining the file again: the positives may lack some of their pieces.
    return {
        'question': wanted.question.text, 'answers': list(wanted.answers),
        'gold_docids': list(wanted.gold_docids),
        'positive_passages': [_as_json(each) for each in positives],
        'negative_passages': [_as_json(each.passage) | {'score': round(each.score, 4)}
                              for each in chosen]}


def _positives(wanted: _Wanted, gold: Sequence[list[Passage]],
               found: Sequence[ScoredCandidate]) -> list[Passage]:
    """Returns the positives; `gold` has the passages of each gold document in the store."""
    # Annotations come before search results.
    if wanted.question.positives:
        return list(wanted.question.positives)
    # Without duplicates: a line may name a document and a piece of it.
    if gold:
        return list(dict.fromkeys(
            piece for pieces in gold for piece in _with_answer(pieces, wanted.answers)))
    return [each.passage for each in found
            if answer_metrics.contains_answer(each.passage.text, wanted.answers)][:1]


def _with_answer(pieces: list[Passage], answers: Sequence[str]) -> list[Passage]:
    """Returns the pieces of a gold document with an answer, or all if none has one."""
    # Answers such as "yes" are left out: they stand in some piece by chance.
    answers = [answer for answer in answers if answer_metrics.stand_in_texts([answer])]
    found = [piece for piece in pieces if answer_metrics.contains_answer(piece.text, answers)]
    return found or pieces


def _is_false(each: ScoredCandidate, wanted: _Wanted, best: float,
              settings: MiningSettings) -> bool:
    """Returns whether a passage may answer the question, by the filter."""
    # The title counts too: it may be the answer.
    if settings.filter == 'answers':
        return answer_metrics.contains_answer(f'{each.passage.full_title} {each.passage.text}',
                                              wanted.answers)
    return settings.filter == 'margin' and each.score > best - settings.margin


def _text_of(passage: Passage) -> tuple[str, str]:
    return passage.full_title, passage.text


def _as_json(passage: Passage) -> dict[str, str]:
    return {'id': passage.docid, 'title': passage.title, 'section': passage.section,
            'text': passage.text}
