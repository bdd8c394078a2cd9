"""Section generation: the text of a passage from its title and section."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, text_format
from atlas_jax.tasks import task as task_lib

_REMEDY = 'each row needs "id", "title" and "text"; rows with a "section" are used'


@dataclasses.dataclass(frozen=True)
class SectionTask(task_lib.PlainTask):
    """Asks "title, section"; the target is the text. The passage itself is not retrieved.

    Rows without a section or words are left out.

    Attributes:
      min_words: rows with shorter texts are left out.
    """

    min_words: int = 0

    metrics = ('accuracy', 'f1', 'rouge_1', 'rouge_2', 'rouge_L', 'perplexity')
    reads = ('id', 'title', 'section', 'text', 'passages')
    target_max_tokens = 64
    asks, label, remedy = 'title', 'text', _REMEDY

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields id, title, section, text, passages."""
        return (fields.string_problem(row, 'title', _REMEDY) or fields.string_problem(row, 'text', _REMEDY)
                or fields.id_problem(row, _REMEDY) or fields.optional_problem(row, ('section',)))

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # A passage without a section has nothing to be told apart by from its page's others.
        if not row.get('section', '').strip() or len(row['text'].split()) < max(self.min_words, 1):
            return None
        query = f'{row["title"]}, {row["section"]}'
        return task_lib.TaskExample(query=query, target=row['text'], answers=[self.answer_text(row['text'])], example_id=example_id,
                                    question=query, passages=fields.passages(row), own_docid=fields.own_docid(row))

    def answer_text(self, text: str) -> str:
        """Returns the text with one space between words."""
        return text_format.without_sentinels(text)
