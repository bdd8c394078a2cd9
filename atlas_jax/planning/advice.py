"""A plan as text: what it needs, and what to change where it does not fit."""

from atlas_jax.planning import plan as plan_lib
from atlas_jax.planning import workload as workload_lib

_CALL = {'train': 'update', 'answer': 'batch', 'score': 'batch', 'index': 'pack'}
_ITEM = {'train': 'examples', 'answer': 'questions', 'score': 'orders of a question', 'index': 'passages'}


def lines(planned: plan_lib.Plan, workload: workload_lib.Workload) -> list[str]:
    """The table that `atlas-jax plan` prints."""
    verdict, call, item = 'fits' if planned.fits else 'DOES NOT FIT', _CALL[planned.kind], _ITEM[planned.kind]
    mesh = 'every host alone' if planned.kind == 'index' else 'data {} x fsdp {} x model {}'.format(*planned.mesh_shape)
    result = [f'{planned.topology}, {planned.chips} chips, {mesh}: {verdict}']
    if planned.kind == 'train':
        examples = planned.batch_size * planned.accumulation_steps
        result.append(f'examples an update     {examples} in {planned.accumulation_steps} micro-batches')
    elif planned.kind != 'index':
        result.append(f'questions a batch      {planned.batch_size}')
    result.append(f'HBM a chip             {planned.hbm_gib_per_chip:.2f} of {planned.hbm_limit_gib} GiB')
    result += [f'  {name:21}{gib:.2f}' for name, gib in planned.hbm_parts.items() if gib]
    result.append(f'{f"FLOPs of {call}":23}{planned.flops:.3g} on all chips')
    if planned.flops < planned.flops_at_limit:
        result.append(f'  at the limit         {planned.flops_at_limit:.3g}: real lengths take {plan_lib.typical_fraction(planned):.0%}')
    if planned.fits:
        moved = ', '.join(f'{kind} {moved / 1e9:.1f}' for kind, moved in planned.collective_bytes.items() if moved)
        reading = f', reading while decoding {planned.reading_seconds:.3g}' if planned.reading_seconds else ''
        hours = planned.chips / 3600
        result += [f'GB moved by a chip     {sum(planned.collective_bytes.values()) / 1e9:.1f}{": " if moved else ""}{moved}',
                   f'roofline               {planned.step_seconds_roofline:.3g} s of {call} (compute {planned.compute_seconds:.3g}, '
                   f'links {planned.collective_seconds:.3g}{reading}, if they overlap)',
                   f'{f"{item} a second":23}{planned.items_per_second:.3g} at most',
                   f'MFU at most            {planned.mfu_bound:.0%}']
        if planned.kind == 'train':
            result.append(f'chip-hours             {planned.step_seconds_roofline * 1000 * hours:.3g} a 1000 updates')
        elif planned.kind == 'index':
            result.append(f'the whole index        {workload.index_rows / planned.items_per_second * hours:.3g} chip-hours, '
                          f'{workload.index_rows} passages')
    result.append(f'compiled in            {planned.compile_seconds:.0f} s')
    return result if planned.fits else [*result, *(f'to make it fit: {remedy}' for remedy in remedies(planned, workload))]


def remedies(planned: plan_lib.Plan, workload: workload_lib.Workload) -> list[str]:
    """What to change where a plan does not fit, what costs least first."""
    step, found = workload.step, []
    if planned.kind == 'index':
        return ['a smaller retriever, or a lower text_max_tokens']
    if planned.kind != 'train' and planned.batch_size > planned.chips:
        found.append(f'fewer questions at a time: batch_size {planned.chips}')
    if planned.kind == 'train' and planned.batch_size > planned.chips:
        factor = planned.batch_size // planned.chips
        found.append(f'accumulate: StepConfig.accumulation_steps={planned.accumulation_steps * factor} with batch_size {planned.chips} '
                     '(the same examples an update, one a chip at a time)')
    if planned.hbm_parts['index'] > 1 and workload.index_dtype != 'int8':
        found.append("an index in int8: --index_dtype int8 with SearchConfig.searcher='int8'")
    if step.compute_dtype != 'bfloat16':
        found.append("compute in bfloat16: StepConfig.compute_dtype='bfloat16'")
    if step.attention == 'plain':
        found.append("encoders' attention without logits in memory: StepConfig.attention='auto'")
    if planned.kind == 'train' and step.remat != 'full':
        found.append("compute layers again in the backward pass: StepConfig.remat='full'")
    if planned.kind == 'train' and workload.optimizer.optimizer != 'adafactor' and planned.hbm_parts['optimizer'] > 1:
        found.append("factored moments: OptimizerConfig.optimizer='adafactor'")
    if step.param_dtype != 'bfloat16':
        found.append("weights and gradients in bfloat16: StepConfig.param_dtype='bfloat16'")
    return [*found, f'a larger slice than {planned.topology}']
