"""`atlas-jax train` and `atlas-jax evaluate`: runs described by gin files."""

import argparse
import dataclasses
import pathlib

from atlas_jax.cli import options as cli_options

OPERATIVE_CONFIG = 'config.gin'


def add_commands(commands) -> None:
    """Adds `train` and `evaluate`."""
    parser = cli_options.command(
        commands, 'train', _train, 'Train reader and retriever together; goes on from the newest checkpoint of the same run folder.',
        'atlas-jax train --gin_file runs/few_shot.gin --gin.RUN_DIR=\'"run"\' --gin.READER_DIR=\'"models/reader"\' \\\n'
        '    --gin.RETRIEVER_DIR=\'"models/retriever"\' --gin.INDEX_DIR=\'"index"\' --gin.TRAIN_FILE=\'"train.jsonl"\'')
    cli_options.add_gin(parser, required=True)
    cli_options.add_multihost(parser)
    cli_options.add_force(parser)
    parser.add_argument('--profile', metavar='DIR', help='write a profile of a few steps there, for xprof')
    parser = cli_options.command(
        commands, 'evaluate', _evaluate, 'Answer a file of questions and score the answers.',
        'atlas-jax evaluate --gin_file runs/evaluate.gin --gin.MODEL_DIR=\'"run"\' --gin.INDEX_DIR=\'"index"\' \\\n'
        '    --gin.EXAMPLES_FILE=\'"test.jsonl"\'')
    cli_options.add_gin(parser, required=True)
    cli_options.add_multihost(parser)
    cli_options.add_force(parser)
    cli_options.add_json(parser)


def _train(options: argparse.Namespace) -> None:
    cli_options.join_hosts(options)
    from atlas_jax import train
    from atlas_jax.gin_files import parse as gin_parse
    from atlas_jax.io import atomic
    gin_parse.parse(options.gin_file, options.gin_bindings)
    arguments = gin_parse.arguments_of(train.train)
    # Written before the run, so that a run that dies early says how it was started.
    folder = pathlib.Path(arguments['run'].run_dir)
    if cli_options.is_first():
        with atomic.writing(folder / OPERATIVE_CONFIG) as file:
            file.write(gin_parse.operative_config(train.train))
    if options.force:
        arguments['data'] = dataclasses.replace(arguments['data'], force_index=True)
    if options.profile:
        arguments['run'] = dataclasses.replace(arguments['run'], profile_dir=options.profile)
    result = train.train(**arguments)
    if not cli_options.is_first():
        return
    # A run that had nothing left to do has its old rows, so there is always a last one.
    last = result.history[-1]
    figures = ', '.join(f'{name} {last[name]:.4f}' for name in ('reader_loss', 'retriever_loss') if name in last)
    print(f'{folder}: {last["step"]} steps, {figures}; answer with `atlas-jax answer "..." --model {folder}`')


def _evaluate(options: argparse.Namespace) -> None:
    cli_options.join_hosts(options)
    from atlas_jax import evaluate
    from atlas_jax.gin_files import parse as gin_parse
    gin_parse.parse(options.gin_file, options.gin_bindings)
    # Results go to the file that the configuration names; the figures also here.
    arguments = gin_parse.arguments_of(evaluate.evaluate)
    if options.force:
        arguments['data'] = dataclasses.replace(arguments['data'], force_index=True)
    figures = evaluate.evaluate(**arguments)
    if not cli_options.is_first():
        return
    cli_options.write_json(options.json, figures)
    for name, value in figures.items():
        print(f'{name:24}{value:.4g}' if isinstance(value, float) else f'{name:24}{value}')
