"""Hard negatives for a retriever: passages that a search finds for a question and that do not answer it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from atlas_jax import api, errors
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
_TOGETHER = 256  # questions of a search


class Scored(Protocol):
    """A passage that was found: knowledge.index.Found."""

    @property
    def passage(self) -> Passage: ...

    @property
    def score(self) -> float: ...


Search = Callable[[Sequence[str], int], Sequence[Sequence[Scored]]]  # questions and top_k to passages, best first


@dataclasses.dataclass(frozen=True)
class Settings:
    """How negatives are chosen.

    Attributes:
      top_k: passages that are searched for each question.
      negatives: the best so many of them that are none of its positives, of no gold document, and pass the filter.
      filter: what leaves false negatives out. answers: passages that hold an answer, as whole words. margin: passages that score above the
        best positive less `margin`; all of them where no positive was found. none: nothing.
      margin: in scores of the searcher.

    Raises ConfigError for an unknown filter, and numbers that are too small.
    """

    top_k: int = 100
    negatives: int = 10
    filter: str = 'answers'
    margin: float = 0.0

    def __post_init__(self):
        if self.filter not in FILTERS:
            raise errors.ConfigError(f'--filter is "{self.filter}"; choose one of {", ".join(FILTERS)}')
        if not 1 <= self.negatives <= self.top_k:
            raise errors.ConfigError(f'--negatives is {self.negatives}; it must be 1 to --top_k {self.top_k}')
        if not self.margin >= 0:
            raise errors.ConfigError(f'--margin is {self.margin}; it must be at least 0')


@dataclasses.dataclass
class Counts:
    """Numbers of all questions: those written and those without a positive; negatives written, and passages left out, by why.

    gold: found passages that equal a positive, or belong to a gold document.
    """

    written: int = 0
    without_positive: int = 0
    negatives: int = 0
    gold: int = 0
    filtered: int = 0


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A question, its answers, and what the file says of its positives."""

    question: question_passages.Question
    answers: tuple[str, ...]
    gold_docids: tuple[str, ...]


def by_words(index_dir: str, store_dir: str | None = None) -> Search:
    """Returns a search of an index's passages by BM25, without a model. Raises IndexFolderError, StoreError, ConfigError: no bm25s."""
    index = EmbeddingIndex.open(index_dir)
    store = PassageStore.open(store_dir or index.store_path)
    searcher = on_host.lexical(on_host.Part(index, store))

    # None where no passage has a word: then nothing is found either.
    def search(questions: Sequence[str], top_k: int) -> list[list[Scored]]:
        if searcher is None:
            return [[] for _ in questions]
        found = searcher.search(HostQueries(questions, None), top_k)
        return [[api.Found(store[int(row)], float(score)) for row, score in zip(*pair, strict=True) if np.isfinite(score)]
                for pair in zip(found.passage_ids, found.scores, strict=True)]

    return search


def by_model(atlas: api.Atlas, index: api.Index, searcher: str) -> Search:
    """Returns a search of an index by a model's own embeddings, or another searcher of the index, for questions as they are."""
    # As the retriever is trained on them: with a reader's prompt around it a question finds other passages, and fewer right ones.
    return lambda questions, top_k: atlas.search(questions, index, top_k, searcher, with_prompt=False)


def mine(paths: file_list.Paths, open_search: Callable[[], Search], store: PassageStore, settings: Settings, to: pathlib.Path) -> Counts:
    """Writes the questions of files with their positives and with hard negatives, as question_passages reads them.

    A question's positives are those of its line; else the passages of its `gold_docids`; else the best found passage with an answer in it.
    Of a gold document stored in pieces they are the pieces with an answer; all pieces where none has one. A question without any positive
    is left out. No piece of a gold document is a negative, whatever the filter.

    Args:
      paths: JSON lines with `question`, and `answers`, `gold_docids` or `positive_passages`.
      open_search: makes the search, such as `lambda: by_words(index_dir)`; it is called once all lines were read and checked.
      store: has the passages of gold_docids.
      settings: how many, and the filter.
      to: file to write, whole or not at all.

    Raises:
      InputFileError: a line without question, or without what the filter or the positives need. DiskFullError.
    """
    # The search is made here, behind all lines, and not by the caller: a mistake in the last line must cost neither the counting of all
    # passages' words nor the loading of a model.
    wanted, counts = list(_wanted(paths, settings)), Counts()
    search = open_search()

    def rows() -> Iterator[dict[str, Any]]:
        with progress.bar(len(wanted), 'mining negatives', ' questions') as bar:
            for start in range(0, len(wanted), _TOGETHER):
                part = wanted[start:start + _TOGETHER]
                for each, found in zip(part, search([each.question.text for each in part], settings.top_k), strict=True):
                    if (row := _row(each, found, store, settings, counts)) is not None:
                        yield row
                    bar.update(1)

    jsonl.write(to, rows())
    return counts


def _wanted(paths: file_list.Paths, settings: Settings) -> Iterator[_Wanted]:
    """Reads all lines before anything is searched for."""
    for file in file_list.files_of(paths):
        for line, row in jsonl.read(file):
            question = question_passages.question_of(row, str(file), line, needs_positive=False)
            texts: dict[str, tuple[str, ...]] = {}
            for name in ('answers', 'gold_docids'):
                value = row.get(name, [])
                if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                    raise errors.InputFileError(str(file), 'must be a list of texts', line=line, field=name)
                texts[name] = tuple(value)
            if settings.filter == 'answers' and not answer_metrics.stand_in_texts(texts['answers']):
                raise errors.InputFileError(str(file), 'empty or missing, or no text that a passage could hold', line=line, field='answers',
                                            remedy='the filter leaves out passages with an answer in them: give answers, or choose '
                                                   '--filter margin or none')
            if not question.positives and not texts['gold_docids'] and not texts['answers']:
                raise errors.InputFileError(str(file), 'no positive', line=line,
                                            remedy='give answers, gold_docids or positive_passages')
            yield _Wanted(question, texts['answers'], texts['gold_docids'])


def _row(wanted: _Wanted, found: Sequence[Scored], store: PassageStore, settings: Settings, counts: Counts) -> dict[str, Any] | None:
    """Returns the line of a question; None without a positive."""
    gold = [pieces for docid in wanted.gold_docids if (pieces := [store[row] for row in store.rows_of_document(docid)])]
    positives = _positives(wanted, gold, found)
    if not positives:
        counts.without_positive += 1
        return None
    # The best positive's score; one that was not found scores below everything that was.
    texts = set(map(_text_of, positives))
    best = max((each.score for each in found if _text_of(each.passage) in texts), default=-np.inf)
    # By text, since a positive of the file may have another docid in the index, or none. By docid, since it may have another text there or
    # be stored in pieces, and since not every piece of a gold document is a positive.
    texts |= {_text_of(piece) for pieces in gold for piece in pieces}
    docids = {*wanted.gold_docids, *(passage.docid for passage in wanted.question.positives)} - {''}
    chosen: list[Scored] = []
    for each in found:
        if len(chosen) == settings.negatives:
            break
        if _text_of(each.passage) in texts or retrieval_metrics.first_gold_rank([each.passage.docid], docids) is not None:
            counts.gold += 1
        elif _is_false(each, wanted, best, settings):
            counts.filtered += 1
        else:
            chosen.append(each)
    counts.written += 1
    counts.negatives += len(chosen)
    # With the gold docids the file can be mined again: its positives need not be all pieces of them.
    return {'question': wanted.question.text, 'answers': list(wanted.answers), 'gold_docids': list(wanted.gold_docids),
            'positive_passages': [_as_json(each) for each in positives],
            'negative_passages': [_as_json(each.passage) | {'score': round(each.score, 4)} for each in chosen]}


def _positives(wanted: _Wanted, gold: Sequence[list[Passage]], found: Sequence[Scored]) -> list[Passage]:
    """Returns the passages to learn; `gold` are those of each gold document in the store."""
    # What a person has said of the question counts before what a search says.
    if wanted.question.positives:
        return list(wanted.question.positives)
    # Once each: a line may name a document and a piece of it.
    if gold:
        return list(dict.fromkeys(piece for pieces in gold for piece in _with_answer(pieces, wanted.answers)))
    return [each.passage for each in found if answer_metrics.contains_answer(each.passage.text, wanted.answers)][:1]


def _with_answer(pieces: list[Passage], answers: Sequence[str]) -> list[Passage]:
    """Returns the pieces of a gold document that hold an answer; all of them where none does, or no answer is known."""
    # "yes" stands in some piece by chance.
    answers = [answer for answer in answers if answer_metrics.stand_in_texts([answer])]
    return [piece for piece in pieces if answer_metrics.contains_answer(piece.text, answers)] or pieces


def _is_false(each: Scored, wanted: _Wanted, best: float, settings: Settings) -> bool:
    """Returns whether a passage may answer the question after all."""
    # The title too: a page about the answer is about the answer.
    if settings.filter == 'answers':
        return answer_metrics.contains_answer(f'{each.passage.full_title} {each.passage.text}', wanted.answers)
    return settings.filter == 'margin' and each.score > best - settings.margin


def _text_of(passage: Passage) -> tuple[str, str]:
    return passage.full_title, passage.text


def _as_json(passage: Passage) -> dict[str, str]:
    return {'id': passage.docid, 'title': passage.title, 'section': passage.section, 'text': passage.text}
