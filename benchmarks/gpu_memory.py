"""Compiles a step for H100s with XLA's GPU compiler on a machine without one, and compares its memory with the formula of `plan`.

    python benchmarks/gpu_memory.py --topology h100:4 --gin_file models/base.gin --gin_file runs/plan.gin --gin.BATCH_SIZE=4

The options are those of `atlas-jax plan`. It needs the extra [cuda], whose packages hold the compiler, and neither a GPU nor a driver.
Nothing runs: the compiler reports what it would allocate, and which cuDNN kernels the program contains.
"""

import importlib.util
import os
import re
import sys
import time

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import plan as cli_plan
from atlas_jax.apps.planning import gpus, slices

# The device description that the compiler needs: NVIDIA's figures of an H100 SXM, and the CUDA and cuDNN versions to compile for.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  device_memory_size: 80000000000 memory_bandwidth: 3350000000000 l2_cache_size: 52428800
  driver_version: "12.9.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Autotuning needs a GPU, so the compiler chooses no kernel by its speed.
FLAGS = '--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false'


def main() -> None:
    """Prints GiB per GPU by the formula and by the compiler."""
    options = cli.parse(['plan', *(sys.argv[1:] or ['--help'])])
    hosts = gpus.parse(options.topology)
    if importlib.util.find_spec('jax_cuda12_plugin') is None:
        sys.exit('the compiler for GPUs is missing: pip install "atlas-jax[cuda]"')
    gpus.prepare_environment(hosts)
    # Without a driver jax's plugin would refuse to load.
    os.environ.update(JAX_SKIP_CUDA_CONSTRAINTS_CHECK='1', XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} {FLAGS}')
    from jax.experimental import topologies

    from atlas_jax import partitioning
    from atlas_jax.apps.planning import gpu_plan, planned_steps
    workload = cli_plan.workload_of(options)
    formula = gpu_plan.plan(workload, options.topology).hbm_gib_per_chip
    devices = topologies.get_topology_desc(platform='cuda', target_config=H100, topology=f'1x1x{hosts.chips}').devices
    workload = workload.in_whole_chips(hosts.chips)
    mesh = partitioning.make_mesh(slices.check_mesh(workload.mesh_shape, hosts), devices)
    start = time.perf_counter()
    compiled = planned_steps.steps_of(workload, mesh)[-1].trace().lower().compile()
    memory = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    gib = total / 2**30
    print(f'formula {formula:.2f} GiB, compiled {gib:.2f} GiB, formula {formula / gib - 1:+.0%}; {time.perf_counter() - start:.0f} s')
    print('kernels', ', '.join(sorted(set(re.findall(r'__cudnn\$fmha\w+', compiled.as_text())))) or 'none')


if __name__ == '__main__':
    main()
