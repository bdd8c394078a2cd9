"""Steps that wait for their metrics to be read: how far they are read, their seconds, and divergence."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.training import waiting


def test_rows_up_to_a_step_are_read_with_the_mean_of_their_seconds(monkeypatch):
    clock = [10.0]
    monkeypatch.setattr(waiting.time, 'perf_counter', lambda: clock[0])
    steps = waiting.WaitingSteps()
    steps.restart_clock()
    for step in (1, 2, 3):
        metrics = {'loss': jnp.float32(step), 'gradient_norm': jnp.float32(1), 'reader_tokens': jnp.int32(12)}
        steps.add(step, metrics, np.array([step]), {'queries_cut': 0.5})
    clock[0] += 6
    rows = list(steps.read(2, str))
    assert [(row['step'], row['loss'], row['seconds'], row['reader_tokens_per_second'], row['queries_cut']) for row in rows] == [
        (1, 1.0, 3.0, 4.0, 0.5), (2, 2.0, 3.0, 4.0, 0.5)]
    clock[0] += 1
    assert list(steps.read(2, str)) == [] and [row['step'] for row in steps.read(3, str)] == [3]


def test_an_infinite_gradient_stops_the_run_though_the_loss_is_finite():
    metrics = {'loss': 1.5, 'gradient_norm': float('inf'), 'learning_rate': 4e-5, 'retriever_learning_rate': 1e-5}
    with pytest.raises(errors.DivergedError, match=r'step 7: the norm of the gradients is inf \(learning rates .* 4e-05 and 1e-05, '
                                                   r'examples \[3, 1\]\); 6 is left; lower'):
        waiting._stop_if_diverged(7, metrics, np.array([3, 1]), '{} is left'.format)
    waiting._stop_if_diverged(7, metrics | {'gradient_norm': 0.5}, np.array([3, 1]), str)
