"""Question answering: a question becomes the reader's query, an answer its target."""

import dataclasses
import os
import re
import string
from typing import Any

from atlas_jax import errors
from atlas_jax.io import jsonl

_SENTINEL = re.compile(r'<extra_id_\d+>')


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One example as the models see it.

    query        what retriever and reader are asked, the prompt included
    target       what the reader learns to write
    answers      what counts as right, plain answers without the target's format; at least one
    example_id   line in the examples file, from 0
    gold_docids  docids of passages that hold the answer; empty where not known
    question     the question alone, as a person put it
    """

    query: str
    target: str
    answers: list[str]
    example_id: int
    gold_docids: list[str] = dataclasses.field(default_factory=list)
    question: str = ''


@dataclasses.dataclass(frozen=True)
class QATask:
    """How a question is put and an answer written. The defaults are Atlas's (arXiv 2208.03299): the answer fills in a T5 sentinel.

    Raises FormatError unless `qa_prompt_format` has {question} once, `target_format` {target} once, and neither another field.
    """

    qa_prompt_format: str = 'question: {question} answer: <extra_id_0>'
    target_format: str = '<extra_id_0> {target}'

    def __post_init__(self):
        _around('qa_prompt_format', self.qa_prompt_format, 'question')
        _around('target_format', self.target_format, 'target')

    def example(self, row: dict[str, Any], example_id: int) -> TaskExample:
        """The example of one row: fields question, answers or target, gold_docids where known; other fields are ignored.

        The target is `target`, else the first of `answers` (the original draws one at random). Raises ConfigError for a row that lacks
        a field or has one of the wrong kind.
        """
        if problem := _problem(row):
            raise errors.ConfigError(f'example {example_id}, field "{problem[0]}": {problem[1]}; {problem[2]}')
        target = row['target'] if 'target' in row else row['answers'][0]
        before, after = _around('qa_prompt_format', self.qa_prompt_format, 'question')
        target_before, target_after = _around('target_format', self.target_format, 'target')
        return TaskExample(query=before + row['question'] + after, target=target_before + target + target_after,
                           answers=list(row.get('answers', [target])), example_id=example_id, gold_docids=list(row.get('gold_docids', ())),
                           question=row['question'])

    def answer_text(self, text: str) -> str:
        """The plain answer in a text that the reader wrote: without the target format's own words, sentinels and outer blanks."""
        before, after = (_without_sentinels(part) for part in _around('target_format', self.target_format, 'target'))
        return _without_sentinels(text).removeprefix(before).removesuffix(after).strip()


def read_examples(path: str | os.PathLike, task: QATask) -> list[TaskExample]:
    """Reads a JSON-lines file; example_ids count its examples from 0.

    Raises InputFileError naming file, line and field where a row lacks a field or has one of the wrong kind.
    """
    examples = []
    for line, row in jsonl.read(path, required=('question',)):
        if problem := _problem(row):
            raise errors.InputFileError(path, problem[1], line=line, field=problem[0], remedy=problem[2])
        examples.append(task.example(row, len(examples)))
    return examples


def _problem(row: dict[str, Any]) -> tuple[str, str, str] | None:
    """(field, what is wrong, remedy) of the first wrong field; None where all is well."""
    question, remedy = row.get('question'), 'each row needs a question, and "answers", a list of strings, or "target", a string'
    if not isinstance(question, str) or not question.strip():
        return 'question', f'expected a text that is not blank, found {question!r}', remedy
    if 'answers' not in row and 'target' not in row:
        return 'answers', 'missing, and there is no "target" either', remedy
    if 'answers' in row and (not _is_texts(row['answers']) or not row['answers']):
        return 'answers', f'expected a list of at least one string, found {row["answers"]!r}', remedy
    if 'target' in row and not isinstance(row['target'], str):
        return 'target', f'expected a string, found {row["target"]!r}', remedy
    if not _is_texts(row.get('gold_docids', [])):
        return 'gold_docids', f'expected a list of docids, found {row["gold_docids"]!r}', 'leave it out where the passages are not known'
    return None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _around(option: str, text_format: str, field: str) -> tuple[str, str]:
    """What stands before and after the format's one {field}. Raises FormatError."""
    try:
        pieces = list(string.Formatter().parse(text_format))
    except ValueError as error:
        raise errors.FormatError(f'{option} "{text_format}": {error}; write a literal brace twice') from error
    names = [name for _, name, _, _ in pieces if name is not None]
    plain = all(not spec and conversion is None for _, _, spec, conversion in pieces)
    if names != [field] or not plain:
        found = ', '.join(f'{{{name}}}' for name in names) or 'none'
        raise errors.FormatError(f'{option} "{text_format}": must have {{{field}}} once and no other field, found {found}')
    place = next(i for i, (_, name, _, _) in enumerate(pieces) if name is not None)
    return ''.join(text for text, *_ in pieces[:place + 1]), ''.join(text for text, *_ in pieces[place + 1:])


def _without_sentinels(text: str) -> str:
    return ' '.join(_SENTINEL.sub(' ', text).split())
