"""Counting on the jaxpr: loops by their trips, switches by a branch, what is computed again, what is kept."""

import jax
import jax.numpy as jnp

from atlas_jax import partitioning
from atlas_jax.planning import program

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
    assert program.branches(jaxpr) == 2


def test_a_body_under_shard_map_counts_for_every_device():
    mesh = jax.sharding.AbstractMesh((1, 3, 2), partitioning.MESH_AXES)
    body = jax.shard_map(lambda x: x @ WEIGHTS[0], mesh=mesh, in_specs=jax.sharding.PartitionSpec(),
                         out_specs=jax.sharding.PartitionSpec(), check_vma=False)
    assert program.flops(jax.make_jaxpr(body)(STATES)) == 6 * PRODUCT


def test_loops_keep_states_and_not_the_gradients_of_weights():
    def kept(remat):
        gradient = jax.make_jaxpr(jax.grad(lambda *inputs: _loss(*inputs, remat=remat), (0, 1)))(WEIGHTS, STATES)
        return program.kept_bytes(gradient, {WEIGHTS.shape})

    states = LAYERS * STATES.nbytes
    assert kept(True) == states < kept(False) <= 3 * states
