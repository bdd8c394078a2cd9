"""Watches a retriever that learns from its reader: compares the recall of held-out questions with all earlier evaluations of the run.

A reader goes on improving where its retriever gets worse: it answers from what it has learnt, and the passages it then finds useful are
what the retriever is taught. Its own scores do not show this; the recall of the same questions does.

    RUN/held_out.jsonl    a line an evaluation: {"step", "questions", "metric", "score", "recall", "hits"}
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from atlas_jax import errors
from atlas_jax.evaluation import figures
from atlas_jax.evaluation.results import Row
from atlas_jax.io import schema, untrusted
from atlas_jax.io.folder import Folder, Place
from atlas_jax.metrics import statistics
from atlas_jax.runtime import hosts

FILE = 'held_out.jsonl'
# Of a retriever that did not change, the chance of an alarm at one evaluation: half of it, since only a fall counts.
_LEVEL = 0.05
_NAME = schema.Text('[a-z0-9_@-]{1,60}', 'the name of a figure')
_SHAPE = schema.Record({'step': schema.Integer(), 'questions': schema.Text('[0-9a-f]{16}', '16 hexadecimal digits'), 'metric': _NAME,
                        'score': schema.Number(0, 1), 'recall': _NAME, 'hits': schema.Text('[01]+', 'a text of 0 and 1')})


@dataclasses.dataclass(frozen=True)
class Measured:
    """One evaluation of a run, as far as it is compared with others.

    Attributes:
      step: updates done.
      questions: stands for what was asked.
      metric, score: the reader's, 0 to 1.
      recall: name of the recall, such as gold_recall_at_5.
      hits: for each question that has one '1' where it was met, else '0'.
    """

    step: int
    questions: str
    metric: str
    score: float
    recall: str
    hits: str

    @property
    def share(self) -> float:
        """The recall, 0 to 1."""
        return self.hits.count('1') / len(self.hits)

    def is_like(self, other: 'Measured') -> bool:
        """Returns whether both have the same questions and figures."""
        return (self.questions, self.metric, self.recall, len(self.hits)) == (other.questions, other.metric, other.recall, len(other.hits))


def measured(step: int, rows: Sequence[Row], top_k: int) -> Measured | None:
    """Returns what is compared of an evaluation; None where the questions have no recall, or no answers to be scored by.

    The recall is that of gold passages if the questions name any, else that of passages with an answer; among the `top_k` passages that
    are read, or the most of them that a recall is reported of.
    """
    metrics = figures.metrics_of(rows)
    found = {name: hits for name, hits in figures.of_passages(rows, top_k).items() if '_recall_at_' in name}
    # The last is that of most passages: what is lost behind the first rank, and still read, is no loss to the reader.
    names = [name for name in found if name.startswith('gold_')] or list(found)
    if not metrics or not names:
        return None
    asked = hashlib.sha256(repr([(str(row['example_id']), row['question']) for row in rows]).encode()).hexdigest()[:16]
    score, _ = statistics.mean_and_standard_error([row[metrics[0]] for row in rows])
    return Measured(step, asked, metrics[0], score, names[-1], ''.join('1' if hit else '0' for hit in found[names[-1]]))


def worse_than(now: Measured, before: Sequence[Measured]) -> tuple[Measured, float] | None:
    """Returns the earlier evaluation with most recall that `now` fell below while its score rose, and the p-value; None without any.

    The p-value is of the randomization test, two-sided, questions in pairs, times the number of earlier evaluations (Bonferroni): the best
    of many looks better than it is.
    """
    earlier = [each for each in before if each.is_like(now)]
    better = [each for each in earlier if each.share > now.share and each.score < now.score]
    for each in sorted(better, key=lambda each: -each.share):
        first, second = ([float(hit) for hit in side.hits] for side in (each, now))
        if (p_value := statistics.paired_p_value(first, second) * len(earlier)) < _LEVEL:
            return each, p_value
    return None


class Guard:
    """The evaluations of a run, in its folder; a run that goes on from a checkpoint has those up to it."""

    def __init__(self, place: Place, step: int, retriever_training: str):
        """Goes on from `step`; 0 begins anew. `retriever_training` decides the advice. Raises InputFileError: damaged, naming the line."""
        self._folder, self._training = Folder(place), retriever_training
        self._before = [each for each in _read(self._folder) if each.step <= step] if step else []

    def add(self, now: Measured) -> str:
        """Adds an evaluation; returns a line where the retriever is worse than before, else ''. Every process of a run calls it.

        Raises DiskFullError, StorageError.
        """
        found = worse_than(now, self._before)
        self._before.append(now)
        if hosts.is_first():
            self._folder.write(FILE, ''.join(f'{json.dumps(dataclasses.asdict(each))}\n' for each in self._before).encode())
        return '' if found is None else f'{_described(now, *found)}; {_remedy(self._training)}'


def _described(now: Measured, then: Measured, p_value: float) -> str:
    recall = f'{now.recall} fell from {then.share:.3f} to {now.share:.3f} (p {p_value:.2g}, {len(now.hits)} questions)'
    return (f'step {now.step}: the retriever is getting worse while the reader improves: since step {then.step} {recall}, and '
            f'{now.metric} rose from {then.score:.3f} to {now.score:.3f}')


def _remedy(training: str) -> str:
    """Returns what to do, by DistillConfig.retriever_training."""
    wanted = ['lower OptimizerConfig.retriever_learning_rate']
    # What is searched was embedded by an earlier passage encoder.
    if training in ('joint', 'untied'):
        wanted.append('refresh the index more often (RefreshConfig)')
    others = ' or '.join(f'"{other}"' for other in ('query_side', 'frozen') if other != training)
    return f'{", ".join(wanted)}, or choose DistillConfig.retriever_training {others}'


def _read(folder: Folder) -> list[Measured]:
    found: list[Measured] = []
    try:
        for line in folder.read(FILE).splitlines():
            row = untrusted.parse_json(line)
            _SHAPE.check(row, 'line')
            found.append(Measured(**row))
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise errors.InputFileError(f'{folder}/{FILE}', f'damaged ({error})', line=len(found) + 1, remedy='take the file away, and the '
                                    'run goes on without its earlier evaluations') from error
    return found
