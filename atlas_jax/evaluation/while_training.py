"""Evaluates a training run between its steps, answering as a user with the checkpoint would."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.answering import api, prepare
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.evaluation import evaluate, guard, run_page
from atlas_jax.runtime import hosts, notes
from atlas_jax.tasks.task import TaskExample

Evaluated = tuple[dict[str, float], dict[str, float], run_page.EvaluationPoint | None]


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """Evaluates the parameters of a run.

    Attributes:
      atlas: the model; its own parameters are not used.
      examples: examples to answer.
      index: index to retrieve from; None for a closed book, or if examples bring their passages.
      prepared: the run's training examples, with the index as it is on the devices.
      watched: compares the recall with that of earlier evaluations.
      run_dir: folder of the run.
      batch_size: questions read at a time.
      needs_recall: the best checkpoint is chosen by the recall.
    """

    atlas: api.Atlas
    examples: Sequence[TaskExample]
    index: prepare.Searched
    prepared: PreparedExamples
    watched: guard.Guard
    run_dir: str
    batch_size: int
    needs_recall: bool

    def __call__(self, params: dict[str, Any], done: int) -> Evaluated:
        """Evaluates parameters after `done` updates.

        Returns:
          The figures that choose the best checkpoint; those for the step's row of metrics; and what
          the first process shows on the run's page.

        Raises:
          ConfigError: the recall is needed and cannot be measured. DiskFullError, StorageError.
        """
        spec, n_context = self.prepared.spec, self.atlas.config.n_context
        found = evaluate.evaluate_examples(
            dataclasses.replace(self.atlas, params=params), self.examples, self.index,
            label=f'evaluating at {done}',
            knowledge=None if self.prepared.searcher else self.prepared.knowledge,
            batch_size=self.batch_size, search=spec.search, compute_dtype=spec.step.compute_dtype,
            use_file_passages=self.index is None and n_context > 0)
        for line in found.left_out:
            notes.say_once(line)
        figures = found.summary(top_k=n_context)
        scores, line = {'score': float(next(iter(figures.values())))}, ''
        # The recall is read off the answers' passages; nothing is searched again.
        if measured := guard.measured(done, found.rows, n_context):
            scores, line = scores | {'recall': measured.share}, self.watched.add(measured)
        elif self.needs_recall:
            raise errors.ConfigError('RunConfig.best_by is "recall", and eval_file has none: its '
                                     'questions need gold_docids that are in the index, or '
                                     'answers that a passage can hold')
        if line:
            notes.say_once(f'{self.run_dir}: {line}')
        point = run_page.EvaluationPoint.from_rows(found.rows, line) if hosts.is_first() else None
        return scores, {f'eval_{name}': value for name, value in figures.items()
                        if isinstance(value, float)}, point
