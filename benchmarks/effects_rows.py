"""Results of effects.py: one JSON line per finished run, found again by its key; their means, spreads and paired differences.

A row has `experiment`, `setting` (everything that decides it except the seed), `seed`, `figures` (numbers of the whole run) and `outcomes`:
one number per question for each name, in the order of the questions. Rows of one setting differ in their seeds only.
"""

import dataclasses
import json
import math
import os
import pathlib
import statistics as numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# Losses in b, and how the index follows.
MODES = ('pdist', 'adist', 'emdr', 'loop')
REFRESHED = 'joint, index embedded every 8 updates'
# How the retriever is trained in c. The paper's few-shot runs train the query side; "pre-trained" starts from both models after joint
# pre-training on the passages.
WAYS = ('closed book', 'frozen', 'query_side', 'pre-trained, query_side', 'joint', 'pre-trained, joint')

Row = dict[str, Any]
Setting = Mapping[str, Any]


def key_of(experiment: str, setting: Setting, seed: int) -> str:
    """Returns the key that identifies a row."""
    return json.dumps([experiment, dict(setting), seed], sort_keys=True)


class Rows:
    """The rows of a results file; a killed run continues after the last one."""

    def __init__(self, path: str | os.PathLike):
        """Reads the file if it exists; cuts off a last line that a killed run left unfinished."""
        self.path = pathlib.Path(path)
        self.rows: list[Row] = []
        if self.path.is_file():
            whole = self.path.read_bytes()
            end = whole.rfind(b'\n') + 1
            if end < len(whole):
                os.truncate(self.path, end)
            self.rows = [json.loads(line) for line in whole[:end].decode().splitlines()]
        self._known = {key_of(row['experiment'], row['setting'], row['seed']) for row in self.rows}

    def has(self, experiment: str, setting: Setting, seed: int) -> bool:
        """Returns whether this run is finished."""
        return key_of(experiment, setting, seed) in self._known

    def add(self, row: Row) -> None:
        """Keeps a row; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._known.add(key_of(row['experiment'], row['setting'], row['seed']))

    def of(self, experiment: str, **setting: Any) -> list[Row]:
        """Returns the rows of an experiment whose settings have these values."""
        return matching(self.rows, experiment, **setting)


def kept(rows: Iterable[Row], path: str | os.PathLike) -> list[Row]:
    """Adds rows to a results file that lacks them, without the answers' texts. Returns all of its rows."""
    found = Rows(path)
    for row in rows:
        if not found.has(row['experiment'], row['setting'], row['seed']):
            outcomes = {name: [int(value) for value in values] for name, values in row['outcomes'].items()}
            found.add({name: value for name, value in row.items() if name != 'predictions'} | {'outcomes': outcomes})
    return found.rows


def matching(rows: Iterable[Row], experiment: str, **setting: Any) -> list[Row]:
    """Returns the rows of an experiment whose settings have these values."""
    return [row for row in rows if row['experiment'] == experiment
            and all(row['setting'].get(name) == value for name, value in setting.items())]


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that has not been made: the key of its row, and the function that makes the rest of the row."""

    experiment: str
    setting: Setting
    seed: int
    run: Callable[[], Row]


def finish(jobs: Iterable[Job], rows: Rows, only: Sequence[str] = ()) -> None:
    """Makes every missing row, one after another. A generator continues after a yield once that row is kept.

    Args:
      jobs: all jobs of an experiment.
      rows: the existing rows.
      only: limits the jobs to settings whose JSON contains all of these texts.
    """
    for job in jobs:
        if rows.has(job.experiment, job.setting, job.seed) or not all(text in json.dumps(dict(job.setting)) for text in only):
            continue
        print(f'== {job.experiment}: {json.dumps(dict(job.setting))}, seed {job.seed}', flush=True)
        row = {'experiment': job.experiment, 'setting': dict(job.setting), 'seed': job.seed, **job.run()}
        rows.add(row)
        print({name: value for name, value in row['figures'].items() if not isinstance(value, list)}, flush=True)


# Figures from ranks, where 0 means that the passage was not found. Each question has one relevant passage.
def recall_at(ranks: Sequence[int], top_k: int) -> list[float]:
    """Returns for each question whether its passage is among the first `top_k`."""
    return [float(0 < rank <= top_k) for rank in ranks]


def ndcg_at_10(ranks: Sequence[int]) -> list[float]:
    """Returns for each question the nDCG of its one passage among the first ten."""
    return [1 / math.log2(rank + 1) if 0 < rank <= 10 else 0.0 for rank in ranks]


Measure = Callable[[Row], Sequence[float]]


def recall_1(row: Row) -> Sequence[float]:
    """Returns R@1 of each question."""
    return recall_at(row['outcomes']['gold_rank'], 1)


def ndcg(row: Row) -> Sequence[float]:
    """Returns nDCG@10 of each question."""
    return ndcg_at_10(row['outcomes']['gold_rank'])


def exact_match(row: Row) -> Sequence[float]:
    """Returns exact match of each question."""
    return row['outcomes']['exact_match']


@dataclasses.dataclass(frozen=True)
class Summary:
    """One setting over its seeds.

    mean       over questions and seeds
    spread     standard deviation over the seeds; None for one seed
    seeds      number of seeds
    low, high  95 % bootstrap interval over questions, using each question's mean over the seeds
    """

    mean: float
    spread: float | None
    seeds: int
    low: float
    high: float

    def __str__(self) -> str:
        spread = '' if self.spread is None else f' ± {_short(self.spread)}'
        return f'{_short(self.mean)}{spread} ({_short(self.low)} to {_short(self.high)})'


def summary(rows: Sequence[Row], measure: Measure) -> Summary:
    """Summarises rows that differ in their seeds only. Raises ValueError: no rows, or rows of different questions."""
    from atlas_jax.metrics import statistics
    of_seeds = [measure(row) for row in rows]
    means = [sum(values) / len(values) for values in of_seeds]
    low, high = statistics.bootstrap_interval(_over_seeds(of_seeds))
    return Summary(sum(means) / len(means), numbers.stdev(means) if len(means) > 1 else None, len(means), low, high)


def paired(before: Sequence[Row], after: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
    """Returns the rows of the seeds that both settings have, since a seed draws the examples. An untrained setting has one row for all
    seeds.
    """
    if len(before) == 1 and before[0]['setting'].get('name') == 'untrained':
        return before, after
    seeds = {row['seed'] for row in before} & {row['seed'] for row in after}
    return [row for row in before if row['seed'] in seeds], [row for row in after if row['seed'] in seeds]


def difference(before: Sequence[Row], after: Sequence[Row], measure: Measure) -> Summary:
    """Compares two settings over the same questions: resamples questions in pairs, each with its mean over the seeds of both.

    The spread is that of the seeds' own differences.

    Raises ValueError: no common seed, or rows of different questions.
    """
    from atlas_jax.metrics import statistics
    before, after = paired(before, after)
    if not before or not after:
        raise ValueError('the two settings have no seed in common')
    first, second = ([measure(row) for row in rows] for rows in (before, after))
    mean, low, high = statistics.paired_difference(_over_seeds(first), _over_seeds(second))
    by_seed = {row['seed']: numbers.fmean(values) for row, values in zip(before, first, strict=True)}
    # A single row that serves all seeds is found only under its own seed.
    alone = by_seed[before[0]['seed']]
    apart = [numbers.fmean(values) - by_seed.get(row['seed'], alone) for row, values in zip(after, second, strict=True)]
    return Summary(mean, numbers.stdev(apart) if len(apart) > 1 else None, len(after), low, high)


def _over_seeds(of_seeds: Sequence[Sequence[float]]) -> list[float]:
    if len(counts := {len(values) for values in of_seeds}) != 1:
        raise ValueError(f'rows of {sorted(counts)} questions: one setting has the same questions in all seeds')
    return [sum(values) / len(values) for values in zip(*of_seeds, strict=True)]


def written(value: float, decimals: int) -> str:
    """Returns the number with so many decimals, the same whatever the order in which it was summed: 39 of 80 is .487, never .488."""
    return f'{round(value, 9):.{decimals}f}'


def _short(value: float) -> str:
    """Returns three decimals without the leading 0."""
    text = written(value, 3)
    return text.replace('0.', '.', 1) if text.lstrip('-').startswith('0.') else text
