"""The table that `atlas-jax plan` prints, with remedies for a step that does not fit."""

from atlas_jax.apps.planning import pair_lengths, planned_steps, refreshes
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import GpuPlan, Plan, TpuPlan


def lines(planned: Plan, workload: workload_lib.Workload) -> list[str]:
    """Returns the lines that `atlas-jax plan` prints."""
    on_gpus = isinstance(planned, GpuPlan)
    unit, fitting = 'GPU' if on_gpus else 'chip', 'fits' if planned.fits else 'DOES NOT FIT'
    mesh = 'every host alone' if planned.kind == 'index' else 'data {} x fsdp {} x model {}'.format(
        *planned.mesh_shape)
    kind = planned_steps.KINDS[planned.kind]
    result = [f'{planned.topology}, {planned.chips} {unit}s, {mesh}: {fitting}'
              f'{", by formula" if on_gpus else ""}']
    if on_gpus:
        result.append('nothing was compiled and nothing has run: all figures are counted on the '
                      'traced program')
    result += _batch_lines(planned, workload)
    if isinstance(planned, GpuPlan):
        result.append('encoders attend        '
                      f'{"by cuDNN" if planned.attention == "cuDNN" else "plainly"}')
    memory = 'memory a GPU           ' if on_gpus else 'HBM a chip             '
    limit = f'{planned.hbm_limit_gib:.1f}' if on_gpus else planned.hbm_limit_gib
    result.append(f'{memory}{planned.hbm_gib_per_chip:.2f} of {limit} GiB')
    result += [f'  {name:21}{gib:.2f}' for name, gib in planned.hbm_parts.items() if gib]
    if isinstance(planned, GpuPlan):
        result.append(f'  not counted          {planned.not_counted[0]}')
    elif isinstance(planned, TpuPlan) and planned.host_gib:
        result.append('on every host          ' + ', '.join(
            f'{gib:.2f} GiB of {name}' for name, gib in planned.host_gib.items()))
    result.append(f'{f"FLOPs of {kind.call}":23}{planned.flops:.3g} on all {unit}s')
    if planned.flops < planned.flops_at_limit:
        result.append(f'  at the limit         {planned.flops_at_limit:.3g}: real lengths take '
                      f'{planned.typical_fraction:.0%}')
    if isinstance(planned, GpuPlan):
        result += _gpu_speed_lines(planned, kind)
    elif isinstance(planned, TpuPlan):
        result += _tpu_speed_lines(planned, workload, kind) if planned.fits else []
        result.append(f'compiled in            {planned.compile_seconds:.0f} s')
    return result if planned.fits else [
        *result, *(f'to make it fit: {remedy}' for remedy in remedies(planned, workload))]


def _batch_lines(planned: Plan, workload: workload_lib.Workload) -> list[str]:
    if planned.kind == 'index':
        return []
    if planned.kind not in workload_lib.TRAINING:
        return [f'questions a batch      {planned.batch_size}']
    examples = planned.batch_size * planned.accumulation_steps
    remat = f'; remat {planned.remat}' if isinstance(planned, TpuPlan) else ''
    result = [f'examples an update     {examples} in {planned.accumulation_steps} '
              f'micro-batches{remat}']
    if planned.kind == 'contrastive':
        segments = planned_steps.stand_in_segments(workload.config).retriever
        result.append(f'lengths                {pair_lengths.line(workload, segments)}')
    return result


def _gpu_speed_lines(planned: GpuPlan, kind: planned_steps.StepKind) -> list[str]:
    return [
        f'GB sent by a GPU       {planned.moved_bytes / 1e9:.1f}',
        f'roofline               {planned.step_seconds_roofline:.3g} s of {kind.call} (compute '
        f'{planned.compute_seconds:.3g}, links {planned.link_seconds:.3g}, memory '
        f'{planned.memory_seconds:.3g}, if they overlap); {planned.step_seconds_apart:.3g} if '
        'nothing does',
        f'  not counted          {planned.not_counted[1]}',
        f'{f"{kind.item} a second":23}{planned.items_per_second:.3g} at most',
        f'MFU at most            {planned.mfu_bound:.0%}']


def _tpu_speed_lines(planned: TpuPlan, workload: workload_lib.Workload,
                     kind: planned_steps.StepKind) -> list[str]:
    moved = ', '.join(
        f'{name} {moved / 1e9:.1f}' for name, moved in planned.collective_bytes.items() if moved)
    read = 'the index' if planned.kind == 'search' else 'while decoding'
    reading = f', reading {read} {planned.reading_seconds:.3g}' if planned.reading_seconds else ''
    network = f', network {planned.network_seconds:.3g}' if planned.network_seconds else ''
    total = sum(planned.collective_bytes.values())
    share = sum(planned.asynchronous_bytes.values()) / total if total else 0.0
    hidden = f', {share:.0%} of it asynchronous' if total else ''
    real = f'; {planned.mfu:.0%} on real tokens as expected'
    result = [
        f'GB moved by a chip     {total / 1e9:.1f}{": " if moved else ""}{moved}{hidden}',
        f'roofline               {planned.step_seconds_roofline:.3g} s of {kind.call} (compute '
        f'{planned.compute_seconds:.3g}, links {planned.collective_seconds:.3g}{network}{reading}, '
        'if they overlap)',
        f'expected               {planned.step_seconds_expected:.3g} s (compiler '
        f'{planned.compiler_seconds:.3g}, of which memory {planned.memory_seconds:.3g}; kernels '
        f'{planned.kernel_seconds:.3g}; links {planned.link_seconds:.3g}{network}, not covered '
        f'{planned.exposed_seconds:.3g})',
        f'{f"{kind.item} a second":23}{planned.items_per_second:.3g} at most',
        f'MFU at most            {planned.mfu_bound:.0%}'
        f'{real if planned.kind in workload_lib.TRAINING else ""}']
    if planned.scan_seconds:
        result.append(f'scan of codes          {planned.scan_seconds:.3g} s of it, at the peak '
                      'rate')
    return result + _chip_hours(planned, workload)


def _chip_hours(planned: TpuPlan, workload: workload_lib.Workload) -> list[str]:
    chip_hours_a_second = planned.chips / 3600
    if planned.kind in workload_lib.TRAINING:
        hours = planned.step_seconds_expected * 1000 * chip_hours_a_second
        again = planned.refresh_seconds * 1000 * refreshes.a_update(workload) * chip_hours_a_second
        parts = (f': {hours:.3g} of updates, {again:.3g} of embedding the index again, '
                 f'{planned.refresh_seconds:.3g} s each time')
        return [f'chip-hours             {hours + again:.3g} a 1000 updates, as expected'
                f'{parts if again else ""}']
    if planned.kind != 'index':
        return []
    rate = (planned.items_per_second * planned.step_seconds_roofline /
            planned.step_seconds_expected)
    return ['the whole index        '
            f'{workload.index_rows / rate * chip_hours_a_second:.3g} chip-hours, as expected: '
            f'{workload.index_rows} passages, {rate:.3g} a second']


def remedies(planned: Plan, workload: workload_lib.Workload) -> list[str]:
    """Returns changes that make a step fit, cheapest first."""
    step, found = workload.step, []
    if planned.kind == 'index':
        return ['a smaller retriever, or a lower text_max_tokens']
    trains = planned.kind in workload_lib.TRAINING
    # A step takes at least one example a chip, so a batch that small cannot shrink further.
    factor = planned.batch_size // planned.chips
    if planned.batch_size > planned.chips:
        if planned.kind == 'train':
            found.append('accumulate: StepConfig.accumulation_steps='
                         f'{planned.accumulation_steps * factor} with batch_size {planned.chips} '
                         '(the same examples an update, one a chip at a time)')
        elif planned.kind == 'contrastive':
            # Chunks keep the loss, which accumulation would change.
            found.append(f'encode the batch in parts: ContrastiveConfig.chunks={factor}')
        else:
            found.append(f'fewer questions at a time: batch_size {planned.chips}')
    # An index, or moments, below 1 GiB a chip are not the reason that a step does not fit.
    if planned.hbm_parts['index'] > 1 and workload.index_dtype != 'int8':
        found.append("an index in int8: --index_dtype int8 with SearchConfig.searcher='int8'")
    if planned.hbm_parts['index'] > 1 and not workload.search.on_host:
        found.append("codes on the devices and embeddings on the host: "
                     "SearchConfig.searcher='codes' with SearchConfig.rescore='host'")
    if step.compute_dtype != 'bfloat16':
        found.append("compute in bfloat16: StepConfig.compute_dtype='bfloat16'")
    if step.attention == 'plain':
        found.append("encoders' attention without logits in memory: StepConfig.attention='auto'")
    # auto means full on a GPU
    remat = planned.remat if isinstance(planned, TpuPlan) else step.remat
    if trains and remat not in ('auto', 'full'):
        least = 'full' if remat == 'encoder_mlp' else 'encoder_mlp'
        found.append("compute more of the layers again in the backward pass: "
                     f"StepConfig.remat='{least}'")
    if (trains and workload.optimizer.optimizer != 'adafactor' and
            planned.hbm_parts['optimizer'] > 1):
        found.append("factored moments: OptimizerConfig.optimizer='adafactor'")
    if step.param_dtype != 'bfloat16':
        found.append("weights and gradients in bfloat16: StepConfig.param_dtype='bfloat16'")
    return [*found, f'a larger slice than {planned.topology}']
