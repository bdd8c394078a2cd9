"""`atlas-jax train`: a training run described by gin files."""

import argparse
import contextlib
import dataclasses
import os
import signal
import threading
import types
from collections.abc import Iterator, Sequence

from atlas_jax import errors
from atlas_jax.apps.cli import arguments, file_checks, flags
from atlas_jax.apps.cli import options as cli_options
from atlas_jax.runtime import notes

OPERATIVE_CONFIG = 'config.gin'


def add_commands(commands) -> None:
    """Adds `train`."""
    parser = cli_options.command(
        commands, 'train', _train, 'Train reader and retriever together; continues from the '
                                   'newest checkpoint in the run folder.',
        'atlas-jax train --run run --train_file train.jsonl --index index --reader models/reader '
        '--retriever models/retriever')
    cli_options.add_gin(parser, required=False)
    names = ('run', 'train_file', 'index', 'model', 'reader', 'retriever', 'n_context',
             'batch_size', 'steps', 'learning_rate', 'examples', 'searcher')
    flags.add(parser, names)
    flags.add_closed_book(parser)
    flags.set_macros(parser, names, 'runs/few_shot.gin', 'train')
    cli_options.add_multihost(parser)
    cli_options.add_force(parser)
    cli_options.add_no_verify(parser)
    cli_options.add_compilation_cache(parser)
    arguments.switch(parser, '--accept_changes', 'continue a run although its data or settings '
                     'have changed; without it the changes are listed and nothing is trained')
    arguments.folder(parser, '--profile', 'write a profile of a few steps there, for xprof')


def _train(options: argparse.Namespace) -> None:
    with _ending_as_preempted(options):
        flags.needs_gin(options)
        # Files first: importing jax and loading models take minutes.
        file_checks.check_training(cli_options.preview_gin(options))
        _run_training(options)


@contextlib.contextmanager
def _ending_as_preempted(options: argparse.Namespace) -> Iterator[None]:
    """Makes SIGTERM end the process with one line and the exit code of a preempted run.

    The training loop handles the signal itself while it runs.
    """
    # With several processes jax handles the signal, and the loop asks jax. Python sets handlers in
    # the main thread only.
    if options.multihost or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: types.FrameType | None) -> None:
        os.write(
            2, b'atlas-jax: asked to stop while no step was under way; the same command goes on\n')
        # Not a UserError: a module that is being imported might swallow it.
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
    from atlas_jax.apps.gin_files import parse as gin_parse
    from atlas_jax.checkpoints import run_folder
    from atlas_jax.io.folder import Folder
    cli_options.read_gin(options)
    # The gin file chooses the trainer by binding one of these functions.
    trainer = train.train_retriever if gin_parse.is_bound(train.train_retriever) else train.train
    given = gin_parse.arguments_of(trainer)
    run = given.pop('run')
    folder = Folder(run.run_dir)

    # Written just before the first step: a run that dies early has its configuration, and a refused
    # run does not overwrite that of the run that is there.
    def keep_configuration() -> None:
        folder.write(OPERATIVE_CONFIG, gin_parse.operative_config(trainer).encode())

    run = dataclasses.replace(run, accept_changes=run.accept_changes or options.accept_changes,
                              profile_dir=options.profile or run.profile_dir)
    if trainer is train.train_retriever:
        trained = train.train_retriever(run, **given, begin=keep_configuration)
        _say_trained(str(folder), trained.history, ('loss', 'accuracy'),
                     f'use it with `--retriever {folder}`')
        return
    data = given.pop('data')
    data = dataclasses.replace(data, force_index=data.force_index or options.force)
    # Another run in the same folder is refused before models are loaded.
    with run_folder.writing(folder):
        loaded = train.load(run, data, given.pop('model'))
        result = train.train_examples(run, loaded, **given, begin=keep_configuration)
    _say_trained(str(folder), result.history, ('reader_loss', 'retriever_loss'),
                 f'answer with `atlas-jax answer "..." --model {folder}`')


def _say_trained(folder: str, history: Sequence[dict[str, float]], names: Sequence[str],
                 next_command: str) -> None:
    # A finished run reads its history from its metrics file, which may have been removed.
    if not history:
        notes.say(f'{folder}: nothing left to train; {next_command}', to_stdout=True)
        return
    last = history[-1]
    figures = ', '.join(f'{name} {last[name]:.4f}' for name in names if name in last)
    notes.say(f'{folder}: {last["step"]} steps, {figures}; {next_command}', to_stdout=True)
