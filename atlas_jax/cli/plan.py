"""`atlas-jax plan`: compiles a run's step for a TPU slice, or counts it for GPUs, on this machine, and prints what it needs there."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from atlas_jax.cli import inputs
from atlas_jax.cli import options as cli_options

if TYPE_CHECKING:  # help needs no jax
    import numpy as np

    from atlas_jax.planning.workload import Workload


def add_commands(commands) -> None:
    """Adds `plan`."""
    parser = cli_options.command(
        commands, 'plan', _plan, 'Compile a step for a TPU slice on this machine, and print whether it fits and what it costs.',
        'atlas-jax plan --gin_file models/xxl.gin --gin_file runs/plan.gin --topology v4:4x4x4')
    cli_options.add_gin(parser, required=True)
    parser.add_argument('--topology', metavar='v4:AxBxC', help='slice to plan for, or several (2xv4:AxBxC); --search without it tries all, '
                        'smallest first. a100:N, a100-40gb:N, h100:N and h200:N are GPUs, planned by formula')
    parser.add_argument('--step', choices=['train', 'answer', 'score', 'search', 'index'], help='step to plan: train; answer (retrieve and '
                        'decode); score (multiple choice); search (retrieve alone); index (embed passages) '
                        "(default: the step of the gin file's own command; train for runs/plan.gin)")
    parser.add_argument('--search', action='store_true', help='choose mesh and accumulation: rank them by arithmetic, compile the best, '
                        'print the first that fits')
    parser.add_argument('--store', metavar='DIR', help='store whose number and lengths of passages are taken')
    parser.add_argument('--index_rows', metavar='N', type=cli_options.positive,
                        help="passages of the index (default: the store's, else what runs/plan.gin says, else 33 million)")
    parser.add_argument('--index_dtype', choices=['float32', 'bfloat16', 'int8'],
                        help='dtype of the index (default: what runs/plan.gin says, else bfloat16)')
    parser.add_argument('--cache', metavar='DIR', help='folder of earlier plans (default: ~/.cache/atlas_jax/plans)')
    cli_options.add_json(parser)


def _plan(options: argparse.Namespace) -> None:
    from atlas_jax import errors
    from atlas_jax.planning import gpus, slices
    if options.topology is None and not options.search:
        raise errors.ConfigError('give a slice, such as --topology v4:4x4x4, or --search for the smallest one that fits')
    # Compiling takes minutes: the place of its result is checked before.
    if options.json and not pathlib.Path(options.json).absolute().parent.is_dir():
        raise errors.ConfigError(f'--json {options.json}: there is no folder {pathlib.Path(options.json).absolute().parent}')
    on_gpus = options.topology is not None and gpus.is_gpu(options.topology)
    if on_gpus and options.search:
        raise errors.ConfigError(f'--search: topology "{options.topology}" is planned by formula, which ranks no meshes; leave --search '
                                 'out and set MESH_SHAPE')
    if options.topology is not None:
        (gpus if on_gpus else slices).parse(options.topology)
    inputs.check_store(options.store)
    cli_options.preview_gin(options, complete=False)
    if on_gpus:
        _plan_gpus(options)
        return
    # The TPU compiler asks a metadata server for its TPU unless told not to.
    slices.prepare_environment()  # before anything imports jax
    import dataclasses

    from atlas_jax.planning import plan as plan_lib
    from atlas_jax.planning import variants
    workload = workload_of(options)
    cache = pathlib.Path(options.cache or pathlib.Path.home() / '.cache' / 'atlas_jax' / 'plans')
    if options.search and workload.kind == 'contrastive':
        raise errors.ConfigError('--search ranks meshes of joint training, answering and search; give --topology and MESH_SHAPE')
    if options.search:
        # Smaller slices are cheaper, so the first that fits is the answer.
        topologies = slices.SMALLEST_FIRST if options.topology is None else (options.topology,)
        planned, workload = variants.first_that_fits(workload, topologies, cache)
    else:
        planned = plan_lib.plan(workload, options.topology, cache)
    cli_options.write_json(options.json, dataclasses.asdict(planned))
    print('\n'.join(plan_lib.lines(planned, workload)))


def _plan_gpus(options: argparse.Namespace) -> None:
    from atlas_jax.planning import gpus
    gpus.prepare_environment(gpus.parse(options.topology))  # before anything imports jax
    import dataclasses

    from atlas_jax import errors
    from atlas_jax.planning import gpu_plan
    workload = workload_of(options)
    if workload.kind == 'contrastive':
        raise errors.ConfigError(f'topology "{options.topology}": a contrastive step is planned for TPUs; give one such as v4:2x2x2')
    planned = gpu_plan.plan(workload, options.topology)
    cli_options.write_json(options.json, dataclasses.asdict(planned))
    print('\n'.join(gpu_plan.lines(planned, workload)))


def workload_of(options: argparse.Namespace) -> Workload:
    """Returns the workload that the gin files describe, with the store and the other options applied.

    Raises:
      ConfigError: the gin files describe no such step, or hold a mistake.
      StoreError: the store is missing or damaged.
    """
    import dataclasses

    from atlas_jax import errors
    from atlas_jax.planning import workload as workload_lib
    workload = _of_gin(options)
    if options.step is not None and options.step not in workload_lib.PLANNED[workload.kind]:
        raise errors.ConfigError(f'--step {options.step}: the gin files describe no such step; choose one of '
                                 f'{", ".join(workload_lib.PLANNED[workload.kind])}, or give runs/plan.gin')
    # Real lengths make real capacities: the plan then is of the program that will run.
    if options.store:
        workload = workload_lib.of_store(workload, *_lengths(options.store))
    return dataclasses.replace(workload, **cli_options.given(kind=options.step, index_rows=options.index_rows,
                                                             index_dtype=options.index_dtype))


def _of_gin(options: argparse.Namespace) -> Workload:
    """The workload of runs/plan.gin, or of another gin file's run; folders need not be set for it."""
    from atlas_jax import api, evaluate, train
    from atlas_jax.gin_files import parse as gin_parse
    from atlas_jax.planning import workload
    # Folders are never opened for a plan, so that a run can be planned before its data are there.
    cli_options.read_gin(options, stand_in='not needed for a plan')
    # runs/plan.gin says everything itself; a run's own file says what its training or evaluation needs.
    if gin_parse.is_bound(workload.Workload):
        return workload.Workload(**gin_parse.arguments_of(workload.Workload))
    # Sizes of the retriever alone: its file has no reader.
    if gin_parse.is_bound(train.train_retriever):
        return workload.of_contrastive(gin_parse.value_of('RETRIEVER'), gin_parse.arguments_of(train.train_retriever))
    model = gin_parse.value_of('MODEL')
    if gin_parse.is_bound(evaluate.evaluate):
        return workload.of_evaluation(model, {'options': evaluate.Options(), **gin_parse.arguments_of(evaluate.evaluate)})
    if gin_parse.is_bound(api.build_index):
        return workload.of_index_build(model, gin_parse.arguments_of(api.build_index))
    return workload.of_training(model, gin_parse.arguments_of(train.train))


def _lengths(store: str) -> tuple[np.ndarray, np.ndarray]:
    """Token counts of a store's passages by the reader's and by the retriever's tokenizer, [rows] int each."""
    from atlas_jax.corpus.store import PassageStore
    opened = PassageStore.open(store)
    return opened.reader_lengths, opened.retriever_lengths
