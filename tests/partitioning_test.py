"""The mesh and its errors, the table of axes, layouts on abstract meshes, and the layouts that layers constrain."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from atlas_jax import errors, partitioning

MESH = partitioning.make_abstract_mesh((3, 5, 2))
NAMES = [name for name, _ in partitioning.RULES]
DATA, FSDP, MODEL = 3, 5, 2


def _one_device():
    return partitioning.make_mesh(devices=jax.devices()[:1])


def _constraints(function, *arguments) -> list[PartitionSpec]:
    """The layouts that a function constrains when traced on MESH, in order, without those of its gradients."""
    def of(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == 'sharding_constraint':
                yield equation.params['sharding'].spec
            for value in equation.params.values():
                inner = getattr(value, 'jaxpr', value)
                if hasattr(inner, 'eqns'):
                    yield from of(inner)

    with jax.sharding.use_abstract_mesh(MESH):
        return list(of(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_every_device_lies_on_fsdp_by_default():
    mesh = _one_device()
    assert mesh.axis_names == partitioning.MESH_AXES and dict(mesh.shape) == {'data': 1, 'fsdp': 1, 'model': 1}


@pytest.mark.parametrize('shape', [(1, 2, 1), (1, 1), (1, 1, 1, 1), (0, 1, 1)])
def test_sizes_that_are_not_those_of_the_devices_are_refused(shape):
    with pytest.raises(errors.ConfigError, match=r'mesh shape .* there are 1; choose three sizes whose product is 1') as caught:
        partitioning.make_mesh(shape, jax.devices()[:1])
    assert '\n' not in str(caught.value)


def test_the_table_names_every_axis_once_and_mesh_axes_alone():
    assert len(set(NAMES)) == len(NAMES)
    for _, target in partitioning.RULES:
        assert target is None or {target} <= set(partitioning.MESH_AXES) or target == partitioning.MESH_AXES


def test_shardings_by_name():
    mesh = _one_device()
    assert partitioning.sharding(mesh, 'streams', None, 'length').spec == PartitionSpec(partitioning.MESH_AXES, None, None)
    assert partitioning.sharding(mesh, 'vocab', 'embed').spec == PartitionSpec('model', 'fsdp')
    assert partitioning.replicated(mesh).spec == PartitionSpec()
    with pytest.raises(KeyError, match='colour'):
        partitioning.sharding(mesh, 'colour')


def test_constraining_keeps_the_values():
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.jit(lambda x: partitioning.constrain(x, _one_device(), 'streams'))(values), values)


def _box(shape, names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


def test_a_tree_of_shapes_needs_no_device():
    boxed = {'kernel': _box((FSDP * 7, MODEL * 11), ('embed', 'mlp')), 'odd': _box((FSDP * 7 + 1, MODEL * 11), ('embed', 'mlp')),
             'rows': _box((DATA * FSDP * MODEL, 13), ('passages', None)), 'scale': _box((), ())}
    found = partitioning.tree_shardings(MESH, boxed)
    assert {name: sharding.spec for name, sharding in found.items()} == {
        'kernel': PartitionSpec('fsdp', 'model'), 'odd': PartitionSpec(None, 'model'),
        'rows': PartitionSpec(partitioning.MESH_AXES, None), 'scale': PartitionSpec()}
    assert partitioning.unboxed_shapes(boxed)['odd'] == jax.ShapeDtypeStruct((FSDP * 7 + 1, MODEL * 11), jnp.float32)


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([None, *NAMES])), max_size=4), st.integers(0, 2))
def test_a_dimension_is_split_only_if_its_devices_divide_it(dimensions, unnamed):
    shape = [size for size, _ in dimensions] + [17] * unnamed
    spec = partitioning._stored(MESH, shape, [name for _, name in dimensions])
    assert len(spec) == len(shape)
    rules = dict(partitioning.RULES)
    for part, size, name in zip(spec, shape, [name for _, name in dimensions] + [None] * unnamed, strict=True):
        target = None if name is None else rules[name]
        devices = {None: 1, 'fsdp': FSDP, 'model': MODEL, partitioning.MESH_AXES: DATA * FSDP * MODEL}[target]
        assert part == (target if size % devices == 0 else None)


def test_the_platform_is_the_meshs_while_it_is_traced():
    assert partitioning.platform() == jax.default_backend()
    with pytest.raises(RuntimeError), partitioning.on_mesh(_one_device()):
        assert partitioning.platform() == 'cpu'
        assert jax.sharding.get_abstract_mesh().empty  # nothing is split on one device
        raise RuntimeError
    assert partitioning._platform.get() is None


def test_the_platform_is_what_is_lowered_for():
    with partitioning.on_mesh(_one_device(), 'gpu'):
        assert partitioning.platform() == 'gpu'
    assert partitioning.platform() == jax.default_backend()


def test_shapes_are_unboxed_inside_a_mesh():
    boxed = {'kernel': _box((FSDP * 7, MODEL), ('embed', 'mlp'))}
    with jax.sharding.use_abstract_mesh(MESH):
        assert partitioning.unboxed_shapes(boxed)['kernel'].shape == (FSDP * 7, MODEL)


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_without_a_mesh_a_parameter_is_cast_alone(dtype):
    param = jnp.arange(6.0).reshape(2, 3)
    found = partitioning.whole(param, ('embed', 'mlp'), dtype)
    assert found.dtype == jnp.dtype(dtype or 'float32')
    np.testing.assert_array_equal(found.astype(jnp.float32), param)
    assert partitioning.spread(param) is param


def test_weights_are_gathered_in_two_stages_and_gradients_scattered_likewise():
    param = jnp.ones((FSDP * 2, MODEL * 3))
    stored, halfway = PartitionSpec('fsdp', 'model'), PartitionSpec('fsdp', None)
    assert _constraints(lambda p: partitioning.whole(p, ('embed', 'mlp')), param) == [stored, halfway, PartitionSpec()]
    backward = _constraints(jax.grad(lambda p: jnp.sum(partitioning.whole(p, ('embed', 'mlp')))), param)
    assert backward[-2:] == [halfway, stored]


def test_split_weights_stay_split_over_model():
    param, stored, wanted = jnp.ones((FSDP * 2, MODEL * 3)), PartitionSpec('fsdp', 'model'), PartitionSpec(None, 'model')
    assert _constraints(lambda p: partitioning.whole(p, ('embed', 'mlp'), split=True), param) == [stored, wanted]
    backward = _constraints(jax.grad(lambda p: jnp.sum(partitioning.whole(p, ('embed', 'mlp'), split=True))), param)
    assert backward[-1:] == [stored]
    with jax.sharding.use_abstract_mesh(MESH):
        assert (partitioning.split_in(MODEL * 3, MODEL), partitioning.split_in(MODEL * 3, MODEL + 1)) == (MODEL, 1)
    assert partitioning.split_in(4) == 1


def test_what_is_stored_whole_is_not_gathered():
    assert _constraints(lambda p: partitioning.whole(p, ('embed', None)), jnp.ones((FSDP + 1, 4))) == []
    assert _constraints(lambda p: partitioning.whole(p, ('relpos_buckets',)), jnp.ones((FSDP, 4))) == []


def test_gradients_come_back_in_the_parameters_dtype():
    with jax.sharding.use_abstract_mesh(MESH):
        loss = jax.grad(lambda p: jnp.sum(partitioning.whole(p, ('embed',), 'bfloat16').astype(jnp.float32)))
        assert jax.eval_shape(loss, jnp.ones((FSDP,), jnp.float32)).dtype == jnp.float32


def test_states_are_spread_if_the_devices_divide_them():
    assert _constraints(partitioning.spread, jnp.ones((DATA * FSDP * MODEL * 2, 7))) == [PartitionSpec(partitioning.MESH_AXES)]
    assert _constraints(partitioning.spread, jnp.ones((DATA * FSDP * MODEL + 1, 7))) == []
    assert _constraints(lambda s: partitioning.spread(s, split=True), jnp.ones((DATA * FSDP * 2, 7))) == [PartitionSpec(('data', 'fsdp'))]


def test_copies_lie_on_model():
    copies = _constraints(lambda s: partitioning.copied(s, MODEL), jnp.ones((DATA * FSDP, 7)))
    assert copies == [PartitionSpec(('data', 'fsdp')), PartitionSpec('model', ('data', 'fsdp'))]
    found = partitioning.copied(jnp.arange(6.0).reshape(3, 2), 2)
    np.testing.assert_array_equal(found, [np.arange(6.0).reshape(3, 2)] * 2)
