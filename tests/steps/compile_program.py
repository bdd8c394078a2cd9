"""Compiles every kind of step for a mesh, from shapes alone: `python compile_program.py tpu|cpu|cuda`. compile_test.py runs it.

For CUDA, whose compiler needs a GPU, steps are exported from CPU devices and not compiled.

It is a program of its own because jax learns of devices once, when it starts.
"""

import dataclasses
import re
import sys
from unittest import mock

from atlas_jax.apps.planning import slices

# Run on eight CPU devices by tests/multidevice (train_step_test, search_test, embed_test) and by tests/multihost/train_test.py.
RUN_ELSEWHERE = {'answer', 'search', 'index', 'refresh', 'search by codes', 'search by codes on the host'}
ATTENTION_KERNELS = re.compile(r'tpu_custom_call|__cudnn\$fmha\w+')


def found_in(step, kind: str, chips: int) -> str:
    """The attention kernels in a compiled step: their number; for CUDA the names of those in the exported step.

    For TPUs also the share of gathered bytes that move while other operations run.
    """
    if kind != 'cuda':
        text = step.trace().lower().compile().as_text()
        kernels = f'kernels={len(ATTENTION_KERNELS.findall(text))}'
        if kind == 'cpu':
            return kernels
        from atlas_jax.apps.planning import compiled
        cost = compiled.cost(text, chips, lambda group: 1.0, slices.parse('v4:2x2x1').rates)
        return f'{kernels} gathers={cost.asynchronous["all-gather"] / max(cost.moved["all-gather"], 1.0):.3f}'
    import jax.export
    unchecked = [jax.export.DisabledSafetyCheck.custom_call('ALL')]  # cuDNN's calls may change between versions of jax
    exported = jax.export.export(step.run, platforms=['cuda'], disabled_checks=unchecked)(*step.arguments, **step.static)
    return 'kernels=' + ','.join(sorted(set(ATTENTION_KERNELS.findall(exported.mlir_module()))))


def main(kind: str) -> None:
    """Prints a line `NAME kernels=N` for every step that compiled, with `gathers=SHARE` for TPUs; for CUDA the kernels' names."""
    if kind == 'tpu':
        slices.prepare_environment()
    import jax
    from jax._src.cudnn import fused_attention_stablehlo

    from atlas_jax import partitioning, types
    from atlas_jax.apps.planning import planned_steps, step_arguments
    from atlas_jax.apps.planning import workload as workload_lib
    from atlas_jax.index import embed
    from atlas_jax.models import atlas, contriever, t5
    from atlas_jax.searchers.config import SearchConfig
    from atlas_jax.steps import eval as eval_step
    from atlas_jax.steps import spec as spec_lib
    from atlas_jax.training import refresh

    # Two heads of 64 fill the 128 lanes that the attention kernel works on.
    model = atlas.AtlasConfig(
        t5.T5Config(vocab_size=256, emb_dim=128, num_heads=2, head_dim=64, mlp_dim=256, num_encoder_layers=2, num_decoder_layers=2),
        contriever.ContrieverConfig(vocab_size=256, emb_dim=128, num_heads=2, num_layers=2, mlp_dim=256, max_positions=64),
        atlas.InputConfig(text_max_tokens=64, query_max_tokens=16, target_max_tokens=8), n_context=2)
    shape = (1, 2, 2) if kind == 'tpu' else (2, 2, 2)
    attention = 'plain' if kind == 'cpu' else 'flash'
    if kind == 'cuda':  # jax asks for the installed cuDNN, which is missing here
        fused_attention_stablehlo.cuda_versions = mock.Mock(cudnn_get_version=lambda: 91000)
    devices = slices.devices(slices.parse('v4:2x2x1')) if kind == 'tpu' else jax.devices()
    mesh = partitioning.make_mesh(shape, devices)
    workload = workload_lib.Workload(
        model, batch_size=8, n_context=2, index_rows=1024, table_tokens=128, query_tokens=16, mesh_shape=shape,
        lower_for='gpu' if kind == 'cuda' else None, dropout_rate=0.0 if kind == 'cuda' else None,
        distill=spec_lib.DistillConfig(retriever_n_context=3), step=spec_lib.StepConfig(attention=attention, compute_dtype='bfloat16'))

    def compiled(name: str, step: planned_steps.PlannedStep) -> None:
        if kind != 'cpu' or name.removesuffix(' 0') not in RUN_ELSEWHERE:
            print(name, found_in(step, kind, len(devices)), flush=True)

    # Codes on the devices are scanned inside of the step, those that the host rescores by a program of their own.
    reranked, codes = SearchConfig('scann', rerank_candidates=4), SearchConfig('codes', rescore_candidates=7)
    for name, changes in {'train': {}, 'answer': {}, 'score': {}, 'search': {},
                          'search on the host': {'kind': 'search', 'search': reranked},
                          'search by codes': {'kind': 'search', 'search': codes},
                          'search by codes on the host': {'kind': 'search', 'search': dataclasses.replace(codes, rescore='host')},
                          'index': {'mesh_shape': None}}.items():
        planned = dataclasses.replace(workload, **{'kind': name, **changes})
        on = embed.encoder_mesh(devices) if name == 'index' else mesh
        for number, step in enumerate(planned_steps.steps_of(planned, on)):
            compiled(f'{name} {number}', step)
    answering = dataclasses.replace(workload, kind='answer')
    spec = planned_steps.make_planned_spec(answering, mesh)
    compiled('eval', planned_steps.PlannedStep(eval_step.make_eval_step(spec), step_arguments.answer_arguments(answering, spec), None))

    spec = planned_steps.make_planned_spec(workload, mesh)
    state, _, knowledge = step_arguments.train_arguments(workload, spec)
    refresher = refresh.Refresher(spec, refresh.RefreshConfig(rolling_fraction=0.5, block_passages=8), 1024,
                                  workload_lib.token_lengths(workload))
    index = types.required(knowledge.index)
    start = jax.ShapeDtypeStruct((), 'int32')
    arguments = ([(index.embeddings, index.scales)], state.params['retriever'], knowledge.retriever_table, start, None)
    compiled('refresh', planned_steps.PlannedStep(refresher.program, arguments, None))


if __name__ == '__main__':
    main(sys.argv[1])
