"""`atlas-jax train`: a run described by gin files."""

import argparse
import contextlib
import dataclasses
import os
import signal
import threading
import types
from collections.abc import Iterator, Sequence

from atlas_jax import errors
from atlas_jax.cli import flags, inputs
from atlas_jax.cli import options as cli_options

OPERATIVE_CONFIG = 'config.gin'


def add_commands(commands) -> None:
    """Adds `train`."""
    parser = cli_options.command(
        commands, 'train', _train, 'Train reader and retriever together; goes on from the newest checkpoint of the same run folder.',
        'atlas-jax train --run run --train_file train.jsonl --index index --reader models/reader --retriever models/retriever')
    cli_options.add_gin(parser, required=False)
    names = ('run', 'train_file', 'index', 'model', 'reader', 'retriever', 'n_context', 'batch_size', 'steps', 'learning_rate', 'examples',
             'searcher')
    flags.add(parser, names)
    flags.add_closed_book(parser)
    flags.set_macros(parser, names, 'runs/few_shot.gin', 'train')
    cli_options.add_multihost(parser)
    cli_options.add_force(parser)
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)
    parser.add_argument('--accept_changes', action='store_true', help='go on with a run though data or settings are not those it was begun '
                        'with; without it they are named, and nothing is trained')
    parser.add_argument('--profile', metavar='DIR', help='write a profile of a few steps there, for xprof')


def _train(options: argparse.Namespace) -> None:
    with _ending_as_preempted(options):
        flags.needs_gin(options)
        # Files first: models and jax take minutes to load.
        inputs.check_training(cli_options.preview_gin(options))
        _run_training(options)


@contextlib.contextmanager
def _ending_as_preempted(options: argparse.Namespace) -> Iterator[None]:
    """On a SIGTERM outside the loop of training, which has its own way, ends the process with one line and the code of a preempted run."""
    # With several processes jax handles the signal, and the loop asks it. Python sets handlers in the main thread only.
    if options.multihost or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: types.FrameType | None) -> None:
        os.write(2, b'atlas-jax: asked to stop while no step was under way; the same command goes on\n')
        # Not a UserError, which code that is being imported may swallow.
        raise SystemExit(errors.PreemptedError.exit_code)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_training(options: argparse.Namespace) -> None:
    cli_options.join_hosts(options)
    cli_options.keep_programs(options)
    from atlas_jax import train
    from atlas_jax.checkpoints import run_folder
    from atlas_jax.gin_files import parse as gin_parse
    from atlas_jax.io.folder import Folder
    cli_options.read_gin(options)
    # One command for both: which one a gin file means shows by the function that it binds.
    trainer = train.train_retriever if gin_parse.is_bound(train.train_retriever) else train.train
    arguments = gin_parse.arguments_of(trainer)
    run = arguments.pop('run')
    folder = Folder(run.run_dir)

    # Written before the first step, so that a run that dies early says how it was started; but not over that of a run that is refused.
    def keep_configuration() -> None:
        folder.write(OPERATIVE_CONFIG, gin_parse.operative_config(trainer).encode())

    run = dataclasses.replace(run, accept_changes=run.accept_changes or options.accept_changes,
                              profile_dir=options.profile or run.profile_dir)
    if trainer is train.train_retriever:
        trained = train.train_retriever(run, **arguments, begin=keep_configuration)
        if cli_options.is_first():
            _say_trained(str(folder), trained.history, ('loss', 'accuracy'), f'use it with `--retriever {folder}`')
        return
    data = arguments.pop('data')
    data = dataclasses.replace(data, force_index=data.force_index or options.force)
    # From here on: another run in the same folder is refused before its models are loaded.
    with run_folder.writing(folder):
        loaded = train.load(run, data, arguments.pop('model'))
        result = train.train_examples(run, loaded, **arguments, begin=keep_configuration)
    if not cli_options.is_first():
        return
    _say_trained(str(folder), result.history, ('reader_loss', 'retriever_loss'), f'answer with `atlas-jax answer "..." --model {folder}`')


def _say_trained(folder: str, history: Sequence[dict[str, float]], names: Sequence[str], next_command: str) -> None:
    # A run that had nothing left to do has its old rows, unless its file of metrics was taken away.
    if not history:
        print(f'{folder}: nothing left to train; {next_command}')
        return
    figures = ', '.join(f'{name} {history[-1][name]:.4f}' for name in names if name in history[-1])
    print(f'{folder}: {history[-1]["step"]} steps, {figures}; {next_command}')
