"""Section generation: the text of a passage from its title and section."""

import dataclasses
from typing import Any

import numpy as np

from atlas_jax.tasks import fields, lm
from atlas_jax.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class SectionTask(lm.TextTask):
    """Asks "title, section"; the target is the text. The passage itself is not retrieved.

    Rows without a section or without words are left out.

    Attributes:
      min_words: Rows with shorter texts are left out.
    """

    min_words: int = 0

    reads = ('id', 'title', 'section', 'text', 'passages')
    query_max_tokens = 64
    asks = 'title'
    remedy = 'each row needs "id", "title" and "text"; rows with a "section" are used'

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields id, title, section, text, passages."""
        return (fields.string_problem(row, 'title', self.remedy)
                or fields.string_problem(row, 'text', self.remedy)
                or fields.id_problem(row, self.remedy)
                or fields.optional_problem(row, ('section',)))

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample | None:
        """See task.Task."""
        self.check(row, example_id)
        # Without a section, nothing tells the passages of a page apart.
        if not row.get('section', '').strip() or len(row['text'].split()) < max(self.min_words, 1):
            return None
        query = f'{row["title"]}, {row["section"]}'
        return task_lib.TaskExample(query=query, target=row['text'],
                                    answers=[self.answer_text(row['text'])],
                                    example_id=example_id, question=query,
                                    passages=fields.passages(row), own_docid=fields.own_docid(row))
