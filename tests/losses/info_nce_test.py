"""Contrastive losses against PyTorch's cross entropy, the queue against numpy, and inputs that must have no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.losses import info_nce

BATCH, DIM, QUEUE = 5, 7, 15


def _numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_in_batch_loss_and_gradient_equal_pytorch(smoothing):
    torch = pytest.importorskip('torch')
    queries, passages = _numbers(BATCH, DIM), _numbers(BATCH, 3, DIM, seed=1)
    (loss, accuracy), gradient = jax.value_and_grad(info_nce.in_batch_loss, argnums=0, has_aux=True)(
        queries, passages, temperature=0.5, label_smoothing=smoothing)
    theirs = torch.tensor(queries, requires_grad=True)
    logits = theirs @ torch.tensor(passages).reshape(-1, DIM).T / 0.5
    labels = torch.arange(BATCH) * 3
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad, atol=1e-6)
    assert float(accuracy) == pytest.approx((logits.argmax(-1) == labels).float().mean().item())


def test_doubles_of_the_positive_and_empty_places_are_no_negatives():
    queries, passages = _numbers(2, DIM), _numbers(2, 2, DIM, seed=1)
    identities = np.array([[4, 9], [4, -1]], np.int32)  # both examples have the same positive; the second has no hard negative
    loss, _ = info_nce.in_batch_loss(queries, passages, identities, temperature=1.0)
    logits = queries @ passages.reshape(4, DIM).T  # columns: the positive of 0, its negative, the positive of 1, an empty slot
    kept = [logits[0, [0, 1]], logits[1, [2, 1]]]
    expected = np.mean([np.log(np.exp(row).sum()) - row[0] for row in kept])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_no_positive_of_a_query_is_its_negative():
    queries, passages = _numbers(2, DIM), _numbers(2, 2, DIM, seed=1)
    identities = np.array([[0, 7], [1, 9]], np.int32)
    positives = np.array([[0, 1], [1, -1]], np.int32)  # the first query has both drawn positives, the second only its own
    loss, _ = info_nce.in_batch_loss(queries, passages, identities, positives, temperature=1.0)
    logits = queries @ passages.reshape(4, DIM).T
    kept = [logits[0, [0, 1, 3]], logits[1, [2, 0, 1, 3]]]
    expected = np.mean([np.log(np.exp(row).sum()) - row[0] for row in kept])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_moco_loss_equals_pytorch_and_teaches_the_queries_alone(smoothing):
    torch = pytest.importorskip('torch')
    queries, keys, queue = _numbers(BATCH, DIM), _numbers(BATCH, DIM, seed=1), _numbers(QUEUE, DIM, seed=2)
    (loss, _), gradients = jax.value_and_grad(info_nce.moco_loss, argnums=(0, 1, 2), has_aux=True)(
        queries, keys, queue, temperature=0.3, label_smoothing=smoothing)
    theirs = torch.tensor(queries, requires_grad=True)
    logits = torch.cat([(theirs * torch.tensor(keys)).sum(-1, keepdim=True), theirs @ torch.tensor(queue).T], dim=1) / 0.3
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long), label_smoothing=smoothing)
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradients[0], theirs.grad, atol=1e-6)
    assert not np.any(gradients[1]) and not np.any(gradients[2])


def test_accuracy_counts_positives_that_score_highest():
    logits = jnp.array([[1.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    assert float(info_nce.info_nce(logits, jnp.array([1, 1, 1]))[1]) == pytest.approx(2 / 3)


def test_the_queue_is_a_ring():
    queue, pointer = jnp.asarray(_numbers(QUEUE, DIM)), jnp.int32(0)
    expected = np.array(queue)
    for step in range(4):  # three batches fill the queue, the fourth replaces the first
        keys = _numbers(BATCH, DIM, seed=step + 10)
        expected[(step * BATCH) % QUEUE:][:BATCH] = keys
        queue, pointer = info_nce.enqueue(queue, pointer, keys)
    np.testing.assert_array_equal(queue, expected)
    assert int(pointer) == BATCH


def test_momentum_moves_a_little_towards_the_encoder_in_the_dtype_of_the_slow_one():
    slow = {'a': jnp.full(3, 2.0), 'b': jnp.full(2, 2.0, jnp.bfloat16)}
    moved = info_nce.momentum_update(slow, jax.tree.map(jnp.zeros_like, slow), 0.75)
    np.testing.assert_allclose(moved['a'], 1.5)
    assert moved['b'].dtype == jnp.bfloat16
