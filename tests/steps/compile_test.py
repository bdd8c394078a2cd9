"""Every kind of step compiles for four TPU chips with the attention kernel on, and is exported for CUDA."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from atlas_jax import partitioning, types
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import FirstThatFits, compile_step
from tests.testing import streams, tiny

PROGRAM = pathlib.Path(__file__).with_name('compile_program.py')
STEPS = ['train 0', 'answer 0', 'score 0', 'search 0', 'search on the host 0', 'search on the host 1', 'search by codes 0',
         'search by codes on the host 1', 'index 0', 'eval', 'refresh']


def run(kind: str, **variables: str) -> dict[str, str]:
    """Returns how often the attention kernel stands in each step's compiled program; for CUDA the names of the kernels in it."""
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(PROGRAM.parents[2]), **variables}
    done = subprocess.run([sys.executable, str(PROGRAM), kind], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.rsplit(' kernels=', 1) for line in done.stdout.splitlines() if ' kernels=' in line]
    return dict(rows)


@pytest.mark.slow  # the TPU compiler takes seconds a step; only it can say that the kernel is partitioned
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed: pip install "atlas-jax[plan]"')
def test_every_step_compiles_for_four_tpu_chips():
    found = {name: row.split(' gathers=') for name, row in run('tpu').items()}
    kernels = {name: number for name, (number, _) in found.items()}
    assert set(STEPS) <= set(kernels)
    # Weights are gathered while other operations run.
    assert all(float(found[name][1]) >= 0.95 for name in ('train 0', 'answer 0', 'score 0')), found
    # Without the kernel the test would prove nothing. An index build attends plainly.
    assert all(int(count) > 0 for name, count in kernels.items() if not name.startswith('index')), kernels


@pytest.mark.slow  # five programs are compiled
def test_steps_that_no_test_runs_on_eight_devices_compile_for_them():
    kernels = run('cpu', XLA_FLAGS=f'{streams.QUICK_FLAGS} --xla_force_host_platform_device_count=8')
    assert set(kernels) == {'train 0', 'score 0', 'search on the host 0', 'search on the host 1', 'eval', 'search by codes on the host 1'}


@pytest.mark.slow  # nine programs are traced and lowered
def test_every_step_is_exported_for_cuda_with_cudnns_kernels():
    kernels = run('cuda', XLA_FLAGS='--xla_force_host_platform_device_count=8')
    assert set(STEPS) <= set(kernels)
    forward, backward = '__cudnn$fmhaSoftmax', '__cudnn$fmhaSoftmaxBackward'
    biased, biased_backward = '__cudnn$fmhaScaleBiasSoftmax', '__cudnn$fmhaScaleBiasSoftmaxBackward'
    # The reader has a bias, which is trained, and the retriever has none.
    assert set(kernels['train 0'].split(',')) == {forward, backward, biased, biased_backward}
    assert set(kernels['answer 0'].split(',')) == {forward, biased} and kernels['index 0'] == ''
    assert kernels['search on the host 0'] == kernels['refresh'] == forward


def _double(spec: spec_lib.StepSpec, offset: int, values: jax.Array) -> jax.Array:
    return values * 2 + offset + spec.streams


def _platform(spec: spec_lib.StepSpec, values: jax.Array) -> jax.Array:
    return values if partitioning.platform() == spec.mesh.devices.flat[0].platform else values[:0]


def _spread(spec: spec_lib.StepSpec, offset: int) -> jax.sharding.NamedSharding:
    return partitioning.sharding(spec.mesh, 'streams')


def spec() -> spec_lib.StepSpec:
    lengths = types.TokenLengths(*(jnp.arange(3, 9),) * 2, jnp.arange(2, 5))
    return spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, partitioning.make_mesh(devices=jax.devices()[:1]), lengths, 2)


def test_a_program_takes_the_spec_then_what_is_fixed_then_arrays():
    run_step = compile_step(_double, spec(), 5, out_shardings=_spread)
    values = run_step(jnp.arange(3))
    assert values.tolist() == [6, 8, 10] and values.sharding.is_equivalent_to(_spread(spec(), 5), 1)


def test_the_same_program_is_compiled_once():
    assert compile_step(_double, spec(), 5) is compile_step(_double, spec(), 5)
    assert compile_step(_double, spec(), 5) is not compile_step(_double, spec(), 7)


def test_programs_are_traced_on_the_mesh_under_their_name():
    traced = compile_step(_platform, spec()).lower(jnp.ones(3))
    assert traced.out_info.shape == (3,)
    assert '_double/' in compile_step(_double, spec(), 11).lower(jnp.ones(3)).as_text(debug_info=True)


def test_donated_arguments_are_given_up():
    values = jnp.ones(3)
    compile_step(_double, spec(), 13, donate=(0,))(values)
    assert values.is_deleted()


class _Form:
    """Stands in for a jitted function: compiles, or fails as a compiler does."""

    def __init__(self, result=None, error=''):
        self.result, self.error, self.compiled = result, error, 0

    def lower(self, *arguments):
        self.arguments = arguments
        return self

    def compile(self):
        self.compiled += 1
        if self.error:
            raise jax.errors.JaxRuntimeError(self.error)
        return lambda *arguments: (self.result, arguments)


def test_the_first_form_that_fits_is_used(capsys):
    forms = {'all': _Form(error='RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm'), 'some': _Form('some'), 'none': _Form('none')}
    step = FirstThatFits('remat', forms)
    assert [step(1, 2), step(3, 4)] == [('some', (1, 2)), ('some', (3, 4))]
    assert [form.compiled for form in forms.values()] == [1, 1, 0]
    assert capsys.readouterr().err == 'remat all does not fit the devices; the next is compiled\n'


def test_another_error_of_the_compiler_is_no_lack_of_memory():
    forms = {'all': _Form(error='INTERNAL: a bug'), 'some': _Form('some')}
    with pytest.raises(jax.errors.JaxRuntimeError, match='a bug'):
        FirstThatFits('remat', forms)()
    forms = {'all': _Form(error='RESOURCE_EXHAUSTED: memory'), 'some': _Form(error='RESOURCE_EXHAUSTED: memory again')}
    with pytest.raises(jax.errors.JaxRuntimeError, match='again'):
        FirstThatFits('remat', forms)()
