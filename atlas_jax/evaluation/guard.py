"""Warns if a retriever that learns from its reader gets worse.

Compares the recall on held-out questions with all earlier evaluations of the run. A reader can
improve while its retriever gets worse: it answers from memory, and teaches the retriever the
passages it then finds useful. The reader's scores do not show this, the recall does.

RUN/held_out.jsonl has a line an evaluation, the fields of GuardScore.
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
# Warnings need a p-value below this. An unchanged retriever causes one at half this rate per
# evaluation, since only a fall counts.
_LEVEL = 0.05
_NAME = schema.Text('[a-z0-9_@-]{1,60}', 'the name of a figure')
_SHAPE = schema.ObjectOf({
    'step': schema.Integer(), 'questions': schema.Text('[0-9a-f]{16}', '16 hexadecimal digits'),
    'metric': _NAME, 'score': schema.Number(0, 1), 'recall': _NAME,
    'hits': schema.Text('[01]+', 'a text of 0 and 1')})


@dataclasses.dataclass(frozen=True)
class GuardScore:
    """The part of an evaluation that is compared with others.

    Attributes:
      step: Number of updates.
      questions: Hash of the questions.
      metric: Name of the reader's main metric.
      score: Its mean, 0 to 1.
      recall: Name of the recall, such as gold_recall_at_5.
      hits: '1' or '0' for each question with a recall: found or not.
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

    def is_like(self, other: 'GuardScore') -> bool:
        """Returns whether both have the same questions and figures."""
        return (self.questions, self.metric, self.recall, len(self.hits)) == (
            other.questions, other.metric, other.recall, len(other.hits))


def measured(step: int, rows: Sequence[Row], top_k: int) -> GuardScore | None:
    """Returns the scores of an evaluation, or None without a recall or a metric.

    The recall is that of gold passages if the questions name any, else that of passages with an
    answer. Its cut-off is the largest reported one up to `top_k`, the passages that are read: a
    passage at a lower rank that is still read is no loss to the reader.
    """
    metrics = figures.metrics_of(rows)
    found = {name: hits for name, hits in figures.of_passages(rows, top_k).items()
             if '_recall_at_' in name}
    names = [name for name in found if name.startswith('gold_')] or list(found)
    if not metrics or not names:
        return None
    questions = hashlib.sha256(repr([*map(figures.question_key, rows)]).encode()).hexdigest()[:16]
    score, _ = statistics.mean_and_standard_error([row[metrics[0]] for row in rows])
    return GuardScore(step, questions, metrics[0], score, names[-1],
                      ''.join('1' if hit else '0' for hit in found[names[-1]]))


def worse_than(now: GuardScore, before: Sequence[GuardScore]) -> tuple[GuardScore, float] | None:
    """Returns (earlier evaluation, p-value) if recall fell significantly while the score rose.

    It is the evaluation with the highest recall among these; None without any. The p-value is that
    of a two-sided paired randomization test times the number of earlier evaluations (Bonferroni),
    since the best of many looks better than it is.
    """
    earlier = [each for each in before if each.is_like(now)]
    better = [each for each in earlier if each.share > now.share and each.score < now.score]
    for each in sorted(better, key=lambda each: -each.share):
        first, second = ([float(hit) for hit in side.hits] for side in (each, now))
        if (p_value := statistics.paired_p_value(first, second) * len(earlier)) < _LEVEL:
            return each, p_value
    return None


class Guard:
    """The evaluations of a run, kept in its folder; a resumed run has those up to its checkpoint.
    """

    def __init__(self, place: Place, step: int, retriever_training: str):
        """Reads the evaluations up to `step`; 0 starts without any.

        `retriever_training` decides the advice. Raises InputFileError: the file is damaged; names
        the line.
        """
        self._folder, self._training = Folder(place), retriever_training
        self._before = [each for each in _read(self._folder) if each.step <= step] if step else []

    def add(self, now: GuardScore) -> str:
        """Adds an evaluation; returns a warning if the retriever got worse, else ''.

        Every process of a run calls it. Raises DiskFullError, StorageError.
        """
        found = worse_than(now, self._before)
        self._before.append(now)
        if hosts.is_first():
            lines = [f'{json.dumps(dataclasses.asdict(each))}\n' for each in self._before]
            self._folder.write(FILE, ''.join(lines).encode())
        return '' if found is None else f'{_described(now, *found)}; {_remedy(self._training)}'


def _described(now: GuardScore, then: GuardScore, p_value: float) -> str:
    return (f'step {now.step}: the retriever is getting worse while the reader improves: since '
            f'step {then.step} {now.recall} fell from {then.share:.3f} to {now.share:.3f} '
            f'(p {p_value:.2g}, {len(now.hits)} questions), and {now.metric} rose from '
            f'{then.score:.3f} to {now.score:.3f}')


def _remedy(training: str) -> str:
    """Returns the advice for a value of DistillConfig.retriever_training."""
    wanted = ['lower OptimizerConfig.retriever_learning_rate']
    # Here the passage encoder is trained, and the index holds embeddings of an earlier one.
    if training in ('joint', 'untied'):
        wanted.append('refresh the index more often (RefreshConfig)')
    others = ' or '.join(f'"{other}"' for other in ('query_side', 'frozen') if other != training)
    return f'{", ".join(wanted)}, or choose DistillConfig.retriever_training {others}'


def _read(folder: Folder) -> list[GuardScore]:
    found: list[GuardScore] = []
    try:
        for line in folder.read(FILE).splitlines():
            row = untrusted.parse_json(line)
            _SHAPE.check(row, 'line')
            found.append(GuardScore(**row))
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise errors.InputFileError(
            f'{folder}/{FILE}', f'damaged ({error})', line=len(found) + 1,
            remedy='take the file away, and the run goes on without its earlier evaluations'
        ) from error
    return found
