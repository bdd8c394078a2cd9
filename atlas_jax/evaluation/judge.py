"""Judges answers: turns an example, its answer and its passages into a row of the results file."""

import dataclasses
from collections.abc import Sequence

from atlas_jax.answering import api
from atlas_jax.evaluation import figures
from atlas_jax.evaluation.results import Row
from atlas_jax.knowledge.group import IndexGroup
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import kilt_provenance
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.tasks.task import TaskExample


class Judge:
    """Decides which metrics are meaningful for the examples, and makes a row of each answer."""

    def __init__(self, atlas: api.Atlas, examples: Sequence[TaskExample],
                 index: IndexGroup | None = None, *, retrieves: bool = True, reads: bool = True):
        """Looks at the examples.

        Args:
          atlas: The model; its task names the metrics.
          examples: One example per question.
          index: The index that is searched, or None.
          retrieves: False for a closed book.
          reads: False if passages are retrieved and nothing is answered.
        """
        self._task, self._examples, self._reads = atlas.task, examples, reads
        # Answers are scored only if all questions are labelled: a mean over some would mislead.
        self._is_labelled = reads and all(example.answers for example in examples)
        self._lines: list[str] = []
        self._has_evidence = retrieves and any(example.evidence for example in examples)
        self._ranks_answers = retrieves and 'answer_recall' in atlas.task.metrics
        self._ranks_gold = retrieves and any(example.gold_docids for example in examples)
        if self._ranks_answers:
            # Letters of a multiple choice and the words true and false stand in any passage.
            self._count('answer_recall',
                        [answer_metrics.stand_in_texts(example.answers) for example in examples],
                        'answers that a passage can hold (not true, yes, or none)')
        # Gold docids of another corpus would give a recall of 0, whatever the retriever.
        if self._ranks_gold and index is not None and not any(
                index.rows_of(docid, atlas.mesh)
                for example in examples
                for docid in example.gold_docids):
            self._ranks_gold = False
            self._lines.append('gold_recall is left out: none of the gold_docids is in the index')
        elif self._ranks_gold:  # most files name no gold passages, which needs no note
            self._count('gold_recall', [bool(example.gold_docids) for example in examples],
                        'gold_docids')

    def row(self, example: TaskExample, answer: api.Answer, more: Row) -> Row:
        """Returns the row of one question.

        `more` holds fields computed with the answer, such as the accuracies of a multiple choice.
        """
        row: Row = {
            'example_id': example.example_id, 'question': answer.question, 'query': example.query,
            'answers': list(example.answers)}
        if self._reads:
            row['prediction'] = answer.generated
        if self._is_labelled and not example.choices:
            row |= answer_metrics.of_text(self._task.metrics, answer.generated, example.answers)
        if self._has_evidence:
            pages = [kilt_provenance.page_of(passage.docid) for passage in answer.passages]
            row |= kilt_provenance.scores(pages, example.evidence, row)
        row |= more
        if answer.score is not None:
            row |= {'score': answer.score,
                    'alternatives': [dataclasses.asdict(other) for other in answer.alternatives]}
        if answer.confidence is not None:
            row |= {'confidence': answer.confidence, 'abstained': answer.abstained,
                    'signals': answer.signals}
        if example.labels:
            row['labels'] = dict(example.labels)
        row['retrieved'] = len(answer.passages)
        if self._ranks_answers and answer_metrics.stand_in_texts(example.answers):
            row['answer_rank'] = retrieval_metrics.first_answer_rank(
                [passage.text for passage in answer.passages], example.answers)
        if self._ranks_gold and example.gold_docids:
            found = [passage.docid for passage in answer.passages]
            row |= {'gold_docids': list(example.gold_docids),
                    'gold_ranks': retrieval_metrics.gold_ranks(found, example.gold_docids)}
        return row | {'passages': [dataclasses.asdict(passage) for passage in answer.passages]}

    def left_out(self, rows: Sequence[Row]) -> list[str]:
        """Returns a line for each metric that was left out, or computed for some questions only."""
        lines = self._unscored(rows)
        if any(row['retrieved'] for row in rows):
            lines += self._lines
        if any('nll' in row for row in rows) and not sum(
                row.get('target_tokens', 0) for row in rows):
            lines.append('perplexity is left out: no target has a token')
        wanted = dict.fromkeys(name for row in rows for name in row.get('correlations', {}))
        constant = [f'correlation_{name}' for name in wanted
                    if all(row['correlations'].get(name) is None for row in rows)]
        if constant:
            lines.append(f'{", ".join(constant)} is left out: no question has two passages with '
                         'different scores')
        return lines

    def _unscored(self, rows: Sequence[Row]) -> list[str]:
        if not self._reads:
            return []
        scored = figures.metrics_of(rows)
        missing = [name for name in self._task.metrics if name not in scored
                   and name in (*answer_metrics.OF_TEXT, 'debiased_accuracy')]
        if not missing:
            return []
        if self._examples[0].choices:
            return [f'{", ".join(missing)} is left out: the options were read in one order; give '
                    'eval_permutations "cyclic" or "all"']
        unanswered = sum(not example.answers for example in self._examples)
        return [f'{", ".join(missing)} are left out: {unanswered} of {len(self._examples)} '
                'questions have no answers']

    def _count(self, metric: str, counted: Sequence[bool], what: str) -> None:
        """Adds a line if a metric is computed for some questions only, or for none."""
        if not any(counted):
            self._lines.append(f'{metric} is left out: no question has {what}')
        elif not all(counted):
            self._lines.append(f'{metric} is of {sum(counted)} of {len(counted)} questions: the '
                               f'others have no {what}')
