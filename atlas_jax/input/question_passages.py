"""Reads questions with positive and negative passages, on which a retriever is fine-tuned.

A line has `question`, `positive_passages` and optionally `negative_passages`: lists of texts, or of
passages with `text`, `title` and `section`. DPR's files (Karpukhin et al. 2020) are read too: an
array or lines with `positive_ctxs` and `hard_negative_ctxs`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.input.crops import padded
from atlas_jax.input.passage_tokens import passage_of
from atlas_jax.input.text_inputs import FormatEncoder
from atlas_jax.io import file_list, json_array, jsonl
from atlas_jax.runtime import progress

POSITIVES = ('positive_passages', 'positive_ctxs')
NEGATIVES = ('negative_passages', 'hard_negative_ctxs')
_REMEDY = ('each line needs a question and a list positive_passages; `atlas-jax data negatives` '
           'writes such files')


@dataclasses.dataclass(frozen=True)
class QuestionWithPassages:
    """A question with its passages.

    `dropped` counts negatives that were left out because they equal a positive.
    """

    text: str
    positives: tuple[Passage, ...]
    negatives: tuple[Passage, ...]
    dropped: int = 0


def read(paths: file_list.Paths) -> Iterator[QuestionWithPassages]:
    """Yields the questions of files.

    Raises InputFileError: no such file, or a line without question, without positive, or with a
    passage without text; names the line.
    """
    for file in file_list.files_of(paths):
        for line, row in _rows(str(file)):
            yield question_of(row, str(file), line)


def question_of(row: dict[str, Any], file: str, line: int,
                needs_positive: bool = True) -> QuestionWithPassages:
    """Returns the question of a row. Raises InputFileError: see `read`."""
    text = row.get('question')
    if not isinstance(text, str) or not text.strip():
        raise errors.InputFileError(file, 'empty or missing', line=line, field='question',
                                    remedy=_REMEDY)
    positives, negatives = (_passages(row, names, file, line) for names in (POSITIVES, NEGATIVES))
    if needs_positive and not positives:
        raise errors.InputFileError(file, 'empty or missing', line=line, field=POSITIVES[0],
                                    remedy=_REMEDY)
    # A positive among the negatives would only teach noise.
    known = {(passage.full_title, passage.text) for passage in positives}
    kept = tuple(passage for passage in negatives
                 if (passage.full_title, passage.text) not in known)
    return QuestionWithPassages(text, positives, kept, len(negatives) - len(kept))


def _rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line from 1, row) of JSON lines, or of DPR's array, whose elements count as lines."""
    # DPR's training files are arrays of gigabytes, so elements are read one at a time.
    if json_array.opening(file).kind != 'array':
        yield from jsonl.read(file)
        return
    for number, row in json_array.elements(file):
        if not isinstance(row, dict):
            raise errors.InputFileError(file, f'expected an object, found {type(row).__name__}',
                                        line=number + 1, remedy=_REMEDY)
        yield number + 1, row


def _passages(row: dict[str, Any], names: Sequence[str], file: str,
              line: int) -> tuple[Passage, ...]:
    # Our own name wins if a converted file has both.
    name = next((name for name in names if name in row), names[0])
    found = row.get(name, [])
    if not isinstance(found, list):
        raise errors.InputFileError(file, f'is {type(found).__name__}', line=line, field=name,
                                    remedy='it must be a list of passages')
    passages = []
    for number, each in enumerate(found):
        if not isinstance(each, dict | str):
            raise errors.InputFileError(
                file, f'is {type(each).__name__}', line=line, field=f'{name}[{number}]',
                remedy='a passage is a text, or an object with text and perhaps title')
        passage = {'text': each} if isinstance(each, str) else each
        passages.append(passage_of(passage, file, line, f'{name}[{number}].'))
    return tuple(passages)


@dataclasses.dataclass(frozen=True)
class _Row:
    """A question's token ids, and its passages as numbers among all passages."""

    ids: tuple[int, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]


class QuestionPairs:
    """Questions, each with a positive and some hard negatives; implements pipeline.Pairs.

    Each is one row of a ContrastiveBatch.
    """

    def __init__(self, paths: file_list.Paths, query: FormatEncoder, passage: FormatEncoder,
                 hard_negatives: int):
        """Reads and tokenises files.

        Prints how many negatives equal a positive, how many questions have too few negatives, and
        how many texts were cut.

        Args:
          paths: Files, folders and patterns.
          query: The retriever's format of a query, with its limit.
          passage: The retriever's format of a passage, with its limit.
          hard_negatives: Hard negatives in a row; missing ones are empty slots.

        Raises InputFileError: see `read`.
        """
        # Tokenised up front: widths and lengths must be known before tracing.
        self._hard_negatives, dropped, few = hard_negatives, 0, 0
        self._rows: list[_Row] = []
        # Number of each passage by its ids, so that equal passages share one.
        numbers: dict[tuple[int, ...], int] = {}
        cut = {'questions': 0, 'passages': 0}

        def ids_of(kind: str, encoder: FormatEncoder, *fields: str) -> tuple[int, ...]:
            whole = encoder.ids(*fields, cut=False)
            if len(whole) <= encoder.max_tokens:
                return tuple(whole)
            cut[kind] += 1
            return tuple(encoder.ids(*fields))

        def number_of(each: Passage) -> int:
            return numbers.setdefault(ids_of('passages', passage, '', each.full_title, each.text),
                                      len(numbers))

        with progress.bar(None, f'tokenising {file_list.summary(paths)}', ' questions') as bar:
            for question in read(paths):
                positives = tuple(dict.fromkeys(number_of(each) for each in question.positives))
                # Texts that differ only beyond the limit are one passage to the retriever.
                negatives = tuple(number for each in question.negatives
                                  if (number := number_of(each)) not in positives)
                dropped += question.dropped + len(question.negatives) - len(negatives)
                few += len(negatives) < hard_negatives
                self._rows.append(
                    _Row(ids_of('questions', query, question.text, '', ''), positives, negatives))
                bar.update(1)
        self._passages = list(numbers)
        for count, what in (
                (dropped, f'{dropped} negatives equal a positive of their question and were left '
                          'out'),
                (few, f'{few} of {len(self)} questions have fewer than {hard_negatives} negatives; '
                      'their places stay empty'),
                (cut['questions'], f'{cut["questions"]} questions were cut at {query.max_tokens} '
                                   'tokens'),
                (cut['passages'], f'{cut["passages"]} passages were cut at {passage.max_tokens} '
                                  'tokens')):
            if count:
                print(f'{file_list.summary(paths)}: {what}', flush=True)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def digest(self) -> str:
        """Identifies the data in a run's record."""
        found = hashlib.sha256(repr((self._rows, self._passages)).encode())
        return f'{len(self)} questions, sha256 {found.hexdigest()[:16]}'

    @property
    def passages_each(self) -> int:
        """Passages per example: a positive and the hard negatives."""
        return 1 + self._hard_negatives

    @functools.cached_property
    def widths(self) -> tuple[int, int]:
        """Tokens of the longest query and of the longest passage."""
        return max(len(row.ids) for row in self._rows), max(map(len, self._passages))

    @functools.cached_property
    def _most_positives(self) -> int:
        return max(len(row.positives) for row in self._rows)

    def sampled_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lengths [n] int of all queries and of all passages."""
        return (np.array([len(row.ids) for row in self._rows]),
                np.array([len(ids) for ids in self._passages]))

    def draw(self, number: int, generator: np.random.Generator) -> types.ContrastiveBatch:
        """Returns a question with passages as numpy arrays without the batch axis.

        It depends on `number` and `generator` only.
        """
        row, (query_width, passage_width) = self._rows[number], self.widths
        chosen = [row.positives[generator.integers(len(row.positives))]]
        # Drawn again in every epoch if there are more than fit.
        chosen += generator.permutation(row.negatives)[:self._hard_negatives].astype(int).tolist()
        # An empty slot has length 0 and identity -1, which the loss ignores.
        tokens = np.zeros((self.passages_each, passage_width), np.int32)
        lengths = np.zeros(self.passages_each, np.int32)
        identities = np.full(self.passages_each, -1, np.int32)
        for place, passage in enumerate(chosen):
            tokens[place], lengths[place] = padded(list(self._passages[passage]), passage_width)
            identities[place] = passage
        positives = np.full(self._most_positives, -1, np.int32)
        positives[:len(row.positives)] = row.positives
        query, query_length = padded(list(row.ids), query_width)
        # Any, since types.Array is jax's and these are numpy arrays.
        columns: dict[str, Any] = {
            'query_tokens': query, 'query_lengths': query_length, 'passage_tokens': tokens,
            'passage_lengths': lengths, 'identities': identities, 'positives': positives,
            'example_ids': np.int32(number)}
        return types.ContrastiveBatch(**columns)
