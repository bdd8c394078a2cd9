"""Peak speeds by jax's names of devices."""

import pytest

from atlas_jax.apps.planning import slices
from atlas_jax.runtime import accelerators


@pytest.mark.parametrize(('kind', 'peak'), [
    ('TPU v4', 275e12), ('TPU v5 lite', 197e12), ('TPU v5', 459e12), ('TPU v5p', 459e12), ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA H100 PCIe', 756e12), ('NVIDIA A100-SXM4-40GB', 312e12), ('NVIDIA L40S', None), ('TPU v40', None), ('cpu', None)])
def test_the_longest_name_that_fits_is_taken(kind, peak):
    assert accelerators.peak_flops(kind) == peak


def test_plans_and_runs_measure_by_the_same_peak():
    assert slices.parse('v4:2x2x1').generation.flops == accelerators.peak_flops('TPU v4')
