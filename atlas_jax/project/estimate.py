"""How long the steps of a project will take, from the speed of this machine's matrix products and the sizes of model and texts."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax.corpus.store import PassageStore
from atlas_jax.project import configs

_PROBE = 768  # rows and columns of the probe's matrices: about the models' own sizes
_PROBE_SECONDS = 0.3
# A step reads three passages and scores five (runs/few_shot.gin); an answer reads three.
_READ, _SCORED, _WORDS_AROUND = 3, 5, 45  # the last in tokens: question and format
# Seconds on a machine of _REFERENCE GFLOP/s, measured where the probe said 21 beside other work: compiling does not grow with the data.
_REFERENCE = 100.0
_COMPILING = {'index': 3.0, 'searcher': 5.0, 'training': 25.0, 'evaluation': 8.0, 'closed book': 6.0,
              'confidence': 10.0}
_EFFICIENCY = 0.5  # share of the probe's speed that the models reach, attention and padding included
_DECODED = 8  # tokens of an answer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that the time depends on.

    Attributes:
      passages: of the store.
      reader_tokens, retriever_tokens: mean of a passage.
      encoder, decoder, retriever: numbers of their parameters in products.
      train, test: questions.
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
    """Returns the GFLOP/s of float32 matrix products now, with whatever else this machine does."""
    matrix = np.ones((_PROBE, _PROBE), np.float32)
    _ = matrix @ matrix  # the first call starts threads
    # By the clock and not by processor time: what else runs here slows the steps down as well. The median, since single products wait for
    # their turn many times as long on a crowded machine.
    start, times = time.perf_counter(), list[float]()
    while not times or time.perf_counter() - start < _PROBE_SECONDS:
        before = time.perf_counter()
        _ = matrix @ matrix
        times.append(time.perf_counter() - before)
    return 2 * _PROBE**3 / float(np.median(times)) / 1e9


def seconds(sizes: Sizes, gflops: float, steps: Sequence[str]) -> dict[str, float]:
    """Returns the seconds that each of these steps will take; those of which nothing is known are left out.

    A product with all parameters for a token is two operations a parameter, its gradients four more.
    """
    # Two operations a parameter: a product and a sum.
    embedding, decoding = 2 * sizes.retriever, 2 * sizes.decoder * _DECODED  # of a token, of an answer
    read = 2 * sizes.encoder * (sizes.reader_tokens + _WORDS_AROUND)  # of one passage
    # Gold scores are forward only; what is read also has a backward pass, twice as long.
    update = configs.BATCH_SIZE * read * (_SCORED + 2 * _READ)
    answer = _READ * read + decoding
    work = {'index': sizes.passages * sizes.retriever_tokens * embedding,
            'searcher': 2 * sizes.train * 20 * embedding,
            'training': configs.steps_for(sizes.train) * update,
            'evaluation': sizes.test * answer, 'closed book': sizes.test * decoding, 'confidence': 2 * sizes.test * answer}
    return {step: work[step] / (gflops * 1e9 * _EFFICIENCY) + _COMPILING[step] * _REFERENCE / gflops for step in steps if step in work}


def sizes_of(store: PassageStore, figures: Mapping[str, Any]) -> Sizes:
    """Returns the sizes of a PassageStore and of a project's figures."""
    parameters = figures['parameters']
    return Sizes(len(store), float(np.mean(store.reader_lengths)), float(np.mean(store.retriever_lengths)), parameters['encoder'],
                 parameters['decoder'], parameters['retriever'], figures.get('train_questions', 0), figures.get('test_questions', 0))


def shown(by_step: Mapping[str, float], gflops: float) -> str:
    """Returns one line for a user."""
    parts = ', '.join(f'{step} {_time(value)}' for step, value in by_step.items())
    return (f'estimated time: {_time(sum(by_step.values()))} ({parts}), by this machine\'s {gflops:.0f} GFLOP/s in a probe now; '
            'within a factor of two')


def _time(value: float) -> str:
    return f'{value:.0f} s' if value < 100 else f'{value / 60:.0f} min' if value < 6000 else f'{value / 3600:.1f} h'
