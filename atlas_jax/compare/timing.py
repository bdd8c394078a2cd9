"""Times two sides in turn on a machine that is not theirs alone: warmed up until they are steady, pauses left out."""

import statistics
from collections.abc import Callable
from typing import Any

# Warming up ends with a run that takes at least this share of the one before it.
_STEADY, _MOST_WARM_UPS = 0.97, 8


def alternate(sides: dict[str, Callable[[int], dict[str, Any]]], rounds: int) -> dict[str, dict[str, Any]]:
    """Warms each side up, then runs them in turn `rounds` times, every turn's first run untimed.

    While one side waits, the system may take its freed memory away, most of all in a virtual machine: the next run then takes up to twice
    as long, on either side. In a run that goes on without a pause there is no such thing.

    Args:
      sides: name -> function of the round's number, giving `seconds` and `cpu_seconds`.

    Returns:
      For each side its median, least and greatest `seconds`, median `cpu_seconds`, `first_seconds`, the losses of the `first` run, the
      median seconds of runs after a pause, and the last answer's other values.
    """
    first = {name: warm_up(run) for name, run in sides.items()}
    paused: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    timed: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            paused[name].append(run(number))
            timed[name].append(run(number))
    return {name: _summary(first[name], timed[name]) | {'seconds_after_pause': _median(paused[name], 'seconds')} for name in sides}


def warm_up(run: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Runs until a run takes about as long as the one before it; returns the first run's answer.

    PyTorch with glibc's own settings is at its best only after four or five steps: the allocator raises its thresholds as it goes (size
    small, 8 x 5 passages: 14.3, 13.5, 10.0, 9.0, 8.8, 8.5 s).
    """
    first, seconds = run(0), []
    while len(seconds) < 2 or (seconds[-1] < _STEADY * seconds[-2] and len(seconds) < _MOST_WARM_UPS):
        seconds.append(run(0)['seconds'])
    return first


def _median(answers: list[dict[str, Any]], name: str) -> float:
    return statistics.median(answer[name] for answer in answers)


def _summary(first: dict[str, Any], timed: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [answer['seconds'] for answer in timed]
    rest = {name: value for name, value in timed[-1].items() if name not in ('seconds', 'cpu_seconds')}
    return {'seconds': _median(timed, 'seconds'), 'least_seconds': min(seconds), 'greatest_seconds': max(seconds),
            'cpu_seconds': _median(timed, 'cpu_seconds'), 'first_seconds': first['seconds'],
            'first': {name: value for name, value in first.items() if name.endswith('_loss')}, **rest}
