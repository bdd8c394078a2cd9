"""Counts on the jaxpr (loops by their trips, switches by a branch, recomputation, kept activations) and traffic on the compiled text."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from atlas_jax import partitioning
from atlas_jax.apps.planning import program

LAYERS, ROWS, WIDTH = 5, 7, 11
WEIGHTS, STATES = jnp.zeros((LAYERS, WIDTH, WIDTH)), jnp.zeros((ROWS, WIDTH))
PRODUCT = 2 * ROWS * WIDTH * WIDTH


def _loss(weights, states, remat=False):
    def layer(states, weight):
        return jnp.tanh(states @ weight), None

    return jax.lax.scan(jax.checkpoint(layer, prevent_cse=False) if remat else layer, states, weights)[0].sum()


def test_a_loop_counts_by_its_trips_and_its_gradient_twice():
    assert program.flops(jax.make_jaxpr(_loss)(WEIGHTS, STATES)) == LAYERS * PRODUCT
    gradient = jax.make_jaxpr(jax.grad(_loss, (0, 1)))(WEIGHTS, STATES)
    assert program.flops(gradient) == 3 * LAYERS * PRODUCT


def test_what_is_computed_again_counts_again():
    gradient = jax.make_jaxpr(jax.grad(lambda *inputs: _loss(*inputs, remat=True), (0, 1)))(WEIGHTS, STATES)
    assert program.flops(gradient) == 4 * LAYERS * PRODUCT


def test_a_switch_counts_as_the_branch_asked_for():
    def switched(which, states):
        return jax.lax.switch(which, [lambda x: x @ WEIGHTS[0], lambda x: x @ WEIGHTS[0] @ WEIGHTS[1]], states)

    jaxpr = jax.make_jaxpr(jax.jit(switched))(0, STATES)
    assert (program.flops(jaxpr, 0), program.flops(jaxpr)) == (PRODUCT, 2 * PRODUCT)


def test_a_loop_without_a_fixed_number_of_trips_counts_by_its_bound():
    def looped(done, states):
        def goes_on(carry):
            return (carry[0] < 13) & ~carry[1]

        return jax.lax.while_loop(goes_on, lambda carry: (carry[0] + 1, carry[1], carry[2] @ WEIGHTS[0]), (0, done, states))[2]

    assert program.flops(jax.make_jaxpr(looped)(False, STATES)) == 13 * PRODUCT
    def unbounded(done, states):
        return jax.lax.while_loop(lambda carry: ~carry[0], lambda carry: (carry[0], carry[1] @ WEIGHTS[0]), (done, states))

    assert program.flops(jax.make_jaxpr(unbounded)(False, STATES)) == PRODUCT


def test_a_kernel_counts_as_it_says_or_once_for_every_place_of_its_grid():
    def kernel(rows, output):
        output[...] = rows[...] @ jnp.ones((WIDTH, WIDTH))

    def run(states, **options):
        blocks = pl.BlockSpec((ROWS, WIDTH), lambda i: (i, 0))
        return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((3 * ROWS, WIDTH), jnp.float32), grid=(3,), in_specs=[blocks],
                              out_specs=blocks, interpret=True, **options)(jnp.tile(states, (3, 1)))

    assert program.flops(jax.make_jaxpr(run)(STATES)) == 3 * PRODUCT
    estimate = pl.CostEstimate(flops=17, transcendentals=0, bytes_accessed=0)
    assert program.flops(jax.make_jaxpr(lambda states: run(states, cost_estimate=estimate))(STATES)) == 17


def test_a_walk_goes_into_loops_and_branches():
    def looped(states):
        return jax.lax.fori_loop(0, 3, lambda _, x: x + jnp.zeros((10, ROWS, WIDTH)).sum(), states)

    def switched(which, states):
        return jax.lax.cond(which, looped, jnp.negative, states)

    names = [equation.primitive.name for equation in program.walk(jax.make_jaxpr(switched)(True, STATES))]
    assert {'cond', 'scan', 'reduce_sum', 'neg'} <= set(names)


def test_a_body_under_shard_map_counts_for_every_device():
    mesh = partitioning.make_abstract_mesh((1, 3, 2))
    body = jax.shard_map(lambda x: x @ WEIGHTS[0], mesh=mesh, in_specs=jax.sharding.PartitionSpec(),
                         out_specs=jax.sharding.PartitionSpec(), check_vma=False)
    assert program.flops(jax.make_jaxpr(body)(STATES)) == 6 * PRODUCT


def test_loops_keep_states_and_not_the_gradients_of_weights():
    def kept(remat):
        gradient = jax.make_jaxpr(jax.grad(lambda *inputs: _loss(*inputs, remat=remat), (0, 1)))(WEIGHTS, STATES)
        return program.kept_bytes(gradient, {WEIGHTS.shape})

    states = LAYERS * STATES.nbytes
    assert kept(True) == states < kept(False) <= 3 * states


def test_a_layer_is_its_share_of_the_largest_loop():
    gradient = jax.make_jaxpr(jax.grad(lambda *inputs: _loss(*inputs, remat=False), (0, 1)))(WEIGHTS, STATES)
    assert program.layer_bytes(gradient, {WEIGHTS.shape}) == program.kept_bytes(gradient, {WEIGHTS.shape}) / LAYERS
    both = jax.make_jaxpr(jax.grad(lambda *inputs: _loss(*inputs, remat=True) + _loss(*inputs), (0, 1)))(WEIGHTS, STATES)
    assert program.layer_bytes(both, {WEIGHTS.shape}) == program.layer_bytes(gradient, {WEIGHTS.shape})
    assert program.layer_bytes(jax.make_jaxpr(jnp.negative)(STATES), set()) == 0
