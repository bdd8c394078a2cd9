import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.nn import products


def _operands(dtype, transposed: bool = False):
    generator = np.random.default_rng(0)
    left = jnp.asarray(generator.standard_normal((3, 2, 7, 5)), dtype)
    right = jnp.asarray(generator.standard_normal((3, 2, *((11, 5) if transposed else (5, 11)))), dtype)
    return left, right


def _expected(left, right, transposed: bool):
    left, right = (jnp.asarray(each, jnp.float32) for each in (left, right))
    return jnp.matmul(left, jnp.swapaxes(right, -1, -2) if transposed else right, precision='highest')


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_matmul_and_its_gradients(dtype, transposed):
    operands = _operands(dtype, transposed)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((3, 2, 7, 11)), dtype).astype(jnp.float32)
    found = products.matmul(*operands, transposed)
    assert found.dtype == dtype
    tolerance = {'float32': 1e-6, 'bfloat16': 2**-8}[dtype]
    np.testing.assert_allclose(found.astype(jnp.float32), _expected(*operands, transposed), rtol=tolerance, atol=tolerance)
    gradients = jax.grad(lambda *pair: jnp.sum(products.matmul(*pair, transposed).astype(jnp.float32) * weights), argnums=(0, 1))(*operands)
    expected = jax.grad(lambda *pair: jnp.sum(_expected(*pair, transposed) * weights), argnums=(0, 1))(
        *(each.astype(jnp.float32) for each in operands))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient.astype(jnp.float32), reference, rtol=2 * tolerance, atol=2 * tolerance)


def test_a_result_may_be_wider_than_its_operands():
    operands = _operands('bfloat16')
    found = products.matmul(*operands, dtype=jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, _expected(*operands, False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('shape', [(5,), (7, 5), (3, 7, 5)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_dense_takes_any_leading_axes(dtype, shape):
    generator = np.random.default_rng(0)
    rows, kernel = jnp.asarray(generator.standard_normal(shape), dtype), jnp.asarray(generator.standard_normal((5, 11)), dtype)
    found = products.dense(rows, kernel)
    assert (found.shape, found.dtype) == ((*shape[:-1], 11), dtype)
    expected = jnp.matmul(rows.astype(jnp.float32), kernel.astype(jnp.float32), precision='highest')
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=2**-8, atol=2**-8)


def _result_types(function, *operands) -> set[str]:
    """The dtypes of the results of all products in a function and its gradient."""
    def both(*operands):
        return jax.grad(lambda *pair: jnp.sum(function(*pair).astype(jnp.float32)), argnums=(0, 1))(*operands), function(*operands)

    lines = jax.jit(both).lower(*operands).as_text().splitlines()
    return {line.rsplit('x', 1)[1].rstrip('>') for line in lines if 'dot_general' in line and '->' in line}


def _on(platform: str, product):
    """The product, traced for one device of this kind."""
    mesh = types.SimpleNamespace(size=1, devices=np.array([types.SimpleNamespace(platform=platform)]))

    def traced(*operands):
        with partitioning.on_mesh(mesh):
            return product(*operands)

    return traced


@pytest.mark.parametrize('platform, expected', [('cpu', 'f32'), ('tpu', 'bf16')])
def test_products_of_bfloat16_are_float32_before_they_are_rounded_on_a_cpu_alone(platform, expected):
    rows, kernel = jnp.ones((7, 5), jnp.bfloat16), jnp.ones((5, 11), jnp.bfloat16)
    assert _result_types(_on(platform, products.matmul), *_operands('bfloat16')) == {expected}
    assert _result_types(_on(platform, products.dense), rows, kernel) == {expected}


def test_sum_over_leading_axes():
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    for kept in (1, 3):
        np.testing.assert_allclose(products.sum_over_leading(values, kept), values.sum(axis=tuple(range(4 - kept))), rtol=1e-5, atol=1e-6)
