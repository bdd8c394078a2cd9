"""`atlas-jax plan`: prints what a run's step needs on a TPU slice or on GPUs. On this machine, the
step is compiled for TPUs and computed by formula for GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks
from atlas_jax.apps.cli import options as cli_options

if TYPE_CHECKING:  # help needs no jax
    import numpy as np

    from atlas_jax.apps.planning.workload import Workload


def add_commands(commands) -> None:
    """Adds `plan`."""
    parser = cli_options.command(
        commands, 'plan', _plan, 'Compile a step for a TPU slice on this machine, and print '
                                 'whether it fits and what it costs.',
        'atlas-jax plan --gin_file models/xxl.gin --gin_file runs/plan.gin --topology v4:4x4x4')
    cli_options.add_gin(parser, required=True)
    parser.add_argument(
        '--topology', metavar='v4:AxBxC',
        help='slice to plan for, or several (2xv4:AxBxC); --search without it tries all, smallest '
             'first. a100:N, a100-40gb:N, h100:N and h200:N are GPUs, planned by formula')
    parser.add_argument(
        '--step', choices=['train', 'answer', 'score', 'search', 'index'],
        help='step to plan: train; answer (retrieve and decode); score (multiple choice); search '
             '(retrieve only); index (embed passages) (default: the step of the gin file\'s own '
             'command; train for runs/plan.gin)')
    arguments.switch(parser, '--search', 'choose mesh and accumulation: rank them by arithmetic, '
                     'compile the best, print the first that fits')
    arguments.folder(parser, '--store', 'store to take the number and lengths of passages from')
    arguments.number(parser, '--index_rows', "passages of the index (default: the store's, else "
                     'what runs/plan.gin says, else 33 million)')
    parser.add_argument('--index_dtype', choices=cli_options.DTYPES_OF_INDEX,
                        help='dtype of the index (default: what runs/plan.gin says, else bfloat16)')
    arguments.folder(parser, '--cache',
                     'folder of earlier plans (default: ~/.cache/atlas_jax/plans)')
    cli_options.add_json(parser)


def _plan(options: argparse.Namespace) -> None:
    from atlas_jax.apps.planning import gpus, slices
    if options.topology is None and not options.search:
        raise errors.ConfigError('give a slice, such as --topology v4:4x4x4, or --search for the '
                                 'smallest one that fits')
    # Compiling takes minutes, so the output's folder is checked first.
    if options.json:
        file_checks.check_output_file('--json', options.json)
    on_gpus = options.topology is not None and gpus.is_gpu(options.topology)
    if on_gpus and options.search:
        raise errors.ConfigError(f'--search: topology "{options.topology}" is planned by formula, '
                                 'which ranks no meshes; leave --search out and set MESH_SHAPE')
    if options.topology is not None:
        (gpus if on_gpus else slices).parse(options.topology)
    file_checks.check_store(options.store)
    cli_options.preview_gin(options, complete=False)
    if on_gpus:
        _plan_gpus(options)
        return
    # The TPU compiler asks a metadata server for its TPU unless these variables are set. They must
    # be set before anything imports jax.
    slices.prepare_environment()
    from atlas_jax.apps.planning import option_search, plan_table, tpu_plan
    workload = workload_of(options)
    cache = pathlib.Path(options.cache or pathlib.Path.home() / '.cache' / 'atlas_jax' / 'plans')
    if options.search and workload.kind == 'contrastive':
        raise errors.ConfigError('--search ranks meshes of joint training, answering and search; '
                                 'give --topology and MESH_SHAPE')
    if options.search:
        topologies = slices.SMALLEST_FIRST if options.topology is None else (options.topology,)
        planned, workload = option_search.first_that_fits(workload, topologies, cache)
    else:
        planned = tpu_plan.plan(workload, options.topology, cache)
    cli_options.write_json(options.json, dataclasses.asdict(planned))
    print('\n'.join(plan_table.lines(planned, workload)))


def _plan_gpus(options: argparse.Namespace) -> None:
    from atlas_jax.apps.planning import gpus
    gpus.prepare_environment(gpus.parse(options.topology))  # before anything imports jax
    from atlas_jax.apps.planning import gpu_plan, plan_table
    workload = workload_of(options)
    if workload.kind == 'contrastive':
        raise errors.ConfigError(f'topology "{options.topology}": a contrastive step is planned '
                                 'for TPUs; give one such as v4:2x2x2')
    planned = gpu_plan.plan(workload, options.topology)
    cli_options.write_json(options.json, dataclasses.asdict(planned))
    print('\n'.join(plan_table.lines(planned, workload)))


def workload_of(options: argparse.Namespace) -> Workload:
    """Returns the workload that the gin files describe, with the store and the other options
    applied.

    Raises:
      ConfigError: the gin files describe no such step, or hold a mistake.
      StoreError: the store is missing or damaged.
    """
    from atlas_jax.apps.planning import workload as workload_lib
    workload = _workload_of_gin(options)
    steps = workload_lib.PLANNED[workload.kind]
    if options.step is not None and options.step not in steps:
        raise errors.ConfigError(f'--step {options.step}: the gin files describe no such step; '
                                 f'choose one of {", ".join(steps)}, or give runs/plan.gin')
    # The real lengths give the capacities of the program that will run.
    if options.store:
        workload = workload_lib.of_store(workload, *_lengths(options.store))
    return dataclasses.replace(
        workload, **arguments.given(kind=options.step, index_rows=options.index_rows,
                                    index_dtype=options.index_dtype))


def _workload_of_gin(options: argparse.Namespace) -> Workload:
    """Returns the workload of runs/plan.gin, or of another gin file's run."""
    from atlas_jax import train
    from atlas_jax.answering import api
    from atlas_jax.apps.gin_files import parse as gin_parse
    from atlas_jax.apps.planning import workload
    from atlas_jax.evaluation import evaluate
    # A plan opens no folders, so that a run can be planned before its data exist.
    cli_options.read_gin(options, stand_in='not needed for a plan')
    if gin_parse.is_bound(workload.Workload):
        return workload.Workload(**gin_parse.arguments_of(workload.Workload))
    # The gin file of a retriever has no reader, and so no MODEL.
    if gin_parse.is_bound(train.train_retriever):
        return workload.of_contrastive(gin_parse.value_of('RETRIEVER'),
                                       gin_parse.arguments_of(train.train_retriever))
    model = gin_parse.value_of('MODEL')
    if gin_parse.is_bound(evaluate.evaluate):
        return workload.of_evaluation(
            model, {'options': evaluate.Options(), **gin_parse.arguments_of(evaluate.evaluate)})
    if gin_parse.is_bound(api.build_index):
        return workload.of_index_build(model, gin_parse.arguments_of(api.build_index))
    return workload.of_training(model, gin_parse.arguments_of(train.train))


def _lengths(store: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token counts of a store's passages by the reader's and by the retriever's
    tokenizer, [rows] int each.
    """
    from atlas_jax.corpus.store import PassageStore
    opened = PassageStore.open(store)
    return opened.reader_lengths, opened.retriever_lengths
