"""Estimates how long the steps of a project take, from this machine's speed of matrix products and
from the sizes of model and texts.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax.apps.project import configs
from atlas_jax.corpus.store import PassageStore

_PROBE = 768  # rows and columns of the probe's matrices: about the models' own sizes
_PROBE_SECONDS = 0.3
# A training step reads three passages and scores five (runs/few_shot.gin); an answer reads three.
_READ, _SCORED = 3, 5
_EXTRA_TOKENS = 45  # tokens of question and format beside a passage
# Compilation does not grow with the data. Seconds on a machine of _REFERENCE GFLOP/s, measured
# where the probe gave 21 while other programs ran.
_REFERENCE = 100.0
_COMPILING = {
    'index': 3.0, 'searcher': 5.0, 'training': 25.0, 'evaluation': 8.0, 'closed book': 6.0,
    'confidence': 10.0}
_EFFICIENCY = 0.5  # the models' share of the probe's speed, with attention and padding
_DECODED = 8  # tokens of an answer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that the time depends on.

    Attributes:
      passages: number of passages in the store.
      reader_tokens, retriever_tokens: mean number of tokens of a passage.
      encoder, decoder, retriever: number of parameters in matrix products.
      train, test: number of questions.
    """

    passages: int
    reader_tokens: float
    retriever_tokens: float
    encoder: int
    decoder: int
    retriever: int
    train: int = 0
    test: int = 0


def speed() -> float:
    """Returns the GFLOP/s of float32 matrix products now, beside whatever else this machine runs.
    """
    matrix = np.ones((_PROBE, _PROBE), np.float32)
    _ = matrix @ matrix  # the first product starts threads
    # Wall-clock time, because other programs slow the steps down as well. The median, because on a
    # crowded machine single products wait many times their own duration.
    start, times = time.perf_counter(), list[float]()
    while not times or time.perf_counter() - start < _PROBE_SECONDS:
        before = time.perf_counter()
        _ = matrix @ matrix
        times.append(time.perf_counter() - before)
    return 2 * _PROBE**3 / float(np.median(times)) / 1e9


def seconds(sizes: Sizes, gflops: float, steps: Sequence[str]) -> dict[str, float]:
    """Returns the estimated seconds of each step. Steps without an estimate are left out.

    A token costs two operations a parameter; its gradients cost four more.
    """
    embedding = 2 * sizes.retriever  # one token
    decoding = 2 * sizes.decoder * _DECODED  # one answer
    read = 2 * sizes.encoder * (sizes.reader_tokens + _EXTRA_TOKENS)  # one passage
    # Gold scores need the forward pass only. Passages that are read also have a backward pass,
    # twice as long.
    update = configs.BATCH_SIZE * read * (_SCORED + 2 * _READ)
    answer = _READ * read + decoding
    work = {
        'index': sizes.passages * sizes.retriever_tokens * embedding,
        'searcher': 2 * sizes.train * 20 * embedding,
        'training': configs.steps_for(sizes.train) * update, 'evaluation': sizes.test * answer,
        'closed book': sizes.test * decoding, 'confidence': 2 * sizes.test * answer}
    return {step: work[step] / (gflops * 1e9 * _EFFICIENCY) + _COMPILING[step] * _REFERENCE / gflops
            for step in steps if step in work}


def sizes_of(store: PassageStore, figures: Mapping[str, Any]) -> Sizes:
    """Returns the sizes of a store and of a project's figures."""
    parameters = figures['parameters']
    return Sizes(len(store), float(np.mean(store.reader_lengths)),
                 float(np.mean(store.retriever_lengths)), parameters['encoder'],
                 parameters['decoder'], parameters['retriever'], figures.get('train_questions', 0),
                 figures.get('test_questions', 0))


def shown(by_step: Mapping[str, float], gflops: float) -> str:
    """Returns the estimate as one line for a user."""
    parts = ', '.join(f'{step} {_time(value)}' for step, value in by_step.items())
    return (f'estimated time: {_time(sum(by_step.values()))} ({parts}), by this machine\'s '
            f'{gflops:.0f} GFLOP/s in a probe now; within a factor of two')


def _time(value: float) -> str:
    if value < 100:
        return f'{value:.0f} s'
    return f'{value / 60:.0f} min' if value < 6000 else f'{value / 3600:.1f} h'
