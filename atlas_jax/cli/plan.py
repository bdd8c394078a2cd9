"""`atlas-jax plan`: what a run needs on a TPU slice, by compiling its step here."""

import argparse
import os
import pathlib

from atlas_jax.cli import options as cli_options


def add_commands(commands) -> None:
    """Adds `plan`."""
    parser = cli_options.command(
        commands, 'plan', _plan, 'Compile a step for a TPU slice on this machine, and say whether it fits and what it costs.',
        'atlas-jax plan --gin_file models/xxl.gin --gin_file runs/plan.gin --topology v4:4x4x4')
    cli_options.add_gin(parser, required=True)
    parser.add_argument('--topology', metavar='v4:AxBxC', help='slice to plan for (with --search: leave it out to try all, smallest first)')
    parser.add_argument('--step', choices=['train', 'answer', 'score', 'index'], help='which step: train; answer (retrieve and '
                        "decode); score (of multiple choice); index (embed passages); default: what the gin file's command runs, of "
                        'runs/plan.gin train')
    parser.add_argument('--search', action='store_true', help='rank meshes and accumulations by a model, compile the best, print the first '
                        'that fits')
    parser.add_argument('--store', metavar='DIR', help='take the number of the passages and their lengths from this store')
    parser.add_argument('--index_rows', metavar='N', type=cli_options.positive,
                        help="passages of the index (default: the store's, else what runs/plan.gin says, else 33 million)")
    parser.add_argument('--index_dtype', choices=['float32', 'bfloat16', 'int8'],
                        help='of the index (default: what runs/plan.gin says, else bfloat16)')
    parser.add_argument('--cache', metavar='DIR', help='folder of earlier plans (default: ~/.cache/atlas_jax/plans)')
    cli_options.add_json(parser)


def _plan(options: argparse.Namespace) -> None:
    from atlas_jax import errors
    from atlas_jax.planning import slices
    if options.topology is None and not options.search:
        raise errors.ConfigError('give a slice, such as --topology v4:4x4x4, or --search for the smallest one that fits')
    if options.json and not pathlib.Path(options.json).absolute().parent.is_dir():
        raise errors.ConfigError(f'--json {options.json}: there is no folder {pathlib.Path(options.json).absolute().parent}')
    if options.topology is not None:
        slices.parse(options.topology)
    slices.prepare_environment()
    import dataclasses

    from atlas_jax.planning import plan as plan_lib
    from atlas_jax.planning import variants
    workload = workload_of(options)
    cache = pathlib.Path(options.cache or pathlib.Path(os.path.expanduser('~')) / '.cache' / 'atlas_jax' / 'plans')
    if options.search:
        topologies = slices.SMALLEST_FIRST if options.topology is None else (options.topology,)
        planned, workload = variants.first_that_fits(workload, topologies, cache)
    else:
        planned = plan_lib.plan(workload, options.topology, cache)
    cli_options.write_json(options.json, dataclasses.asdict(planned))
    print('\n'.join(plan_lib.lines(planned, workload)))


def workload_of(options: argparse.Namespace):
    """The workload.Workload that the options name: what the gin files describe, changed by the store and the other options.

    Raises ConfigError, StoreError.
    """
    import dataclasses

    from atlas_jax import errors
    from atlas_jax.planning import workload as workload_lib
    workload = _of_gin(options)
    if options.step is not None and options.step not in workload_lib.PLANNED[workload.kind]:
        raise errors.ConfigError(f'--step {options.step}: the gin files describe no such step; choose one of '
                                 f'{", ".join(workload_lib.PLANNED[workload.kind])}, or give runs/plan.gin')
    if options.store:
        workload = workload_lib.of_store(workload, *_lengths(options.store))
    return dataclasses.replace(workload, **cli_options.given(kind=options.step, index_rows=options.index_rows,
                                                             index_dtype=options.index_dtype))


def _of_gin(options: argparse.Namespace):
    """What runs/plan.gin describes, or what the run of another gin file does; folders need not be set for it."""
    from atlas_jax import api, evaluate, train
    from atlas_jax.gin_files import parse as gin_utils
    from atlas_jax.planning import workload
    gin_utils.parse(options.gin_file, options.gin_bindings, stand_in='not needed for a plan')
    if gin_utils.is_bound(workload.Workload):
        return workload.Workload(**gin_utils.arguments_of(workload.Workload))
    model = gin_utils.value_of('MODEL')
    if gin_utils.is_bound(evaluate.evaluate):
        return workload.of_evaluation(model, {'options': evaluate.Options(), **gin_utils.arguments_of(evaluate.evaluate)})
    if gin_utils.is_bound(api.build_index):
        return workload.of_index_build(model, gin_utils.arguments_of(api.build_index))
    return workload.of_training(model, gin_utils.arguments_of(train.train))


def _lengths(store: str):
    """Token counts of a store's passages, by the reader's tokenizer and by the retriever's."""
    from atlas_jax.corpus.store import PassageStore
    opened = PassageStore.open(store)
    return opened.reader_lengths, opened.retriever_lengths
