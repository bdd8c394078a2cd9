"""The command `atlas-jax`: parses and runs its commands. A user's mistake becomes one line and exit
code 2.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from atlas_jax import errors
from atlas_jax.apps.cli import answer as cli_answer
from atlas_jax.apps.cli import ask as cli_ask
from atlas_jax.apps.cli import calibrate as cli_calibrate
from atlas_jax.apps.cli import compare as cli_compare
from atlas_jax.apps.cli import convert as cli_convert
from atlas_jax.apps.cli import data as cli_data
from atlas_jax.apps.cli import demo as cli_demo
from atlas_jax.apps.cli import evaluate as cli_evaluate
from atlas_jax.apps.cli import flags
from atlas_jax.apps.cli import index as cli_index
from atlas_jax.apps.cli import new as cli_new
from atlas_jax.apps.cli import plan as cli_plan
from atlas_jax.apps.cli import reproduce as cli_reproduce
from atlas_jax.apps.cli import serve as cli_serve
from atlas_jax.apps.cli import train as cli_train
from atlas_jax.apps.cli import verify as cli_verify
from atlas_jax.io import atomic
from atlas_jax.runtime import allocator, quiet

_EXAMPLE = """\
example:
  atlas-jax new my-project --documents DOCUMENTS --questions questions.csv
  atlas-jax ask my-project
step by step:
  atlas-jax demo                         # everything below on real models and texts, in minutes
  atlas-jax data passages DOCUMENTS --out STORE --model RUN
  atlas-jax index build --store STORE --out INDEX --model RUN
  atlas-jax answer "who discovered radium?" --model RUN --index INDEX
"""
# In the order in which a newcomer needs them.
_COMMANDS = (cli_demo, cli_new, cli_ask, cli_serve, cli_data, cli_index, cli_train, cli_evaluate,
             cli_calibrate, cli_reproduce, cli_answer, cli_compare, cli_convert, cli_verify,
             cli_plan)

USER_MISTAKE, INTERRUPTED = 2, 130  # the codes of argparse, and of shells: 128 + SIGINT


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line. Its help keeps the line breaks of the example."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                         **options)

    def error(self, message: str) -> NoReturn:
        """Prints the message as one line and exits with 2."""
        self.exit(USER_MISTAKE, f'atlas-jax: {" ".join(message.split())}; see {self.prog} --help\n')


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands. A command's `run` takes the parsed arguments."""
    main_parser = Parser(
        prog='atlas-jax',
        description='Atlas in JAX: a reader that answers from documents it retrieves.',
        epilog=_EXAMPLE)
    commands = main_parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for module in _COMMANDS:
        module.add_commands(commands)
    return main_parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on a mistake.

    `gin_bindings` holds the `NAME=value` of all `--gin.NAME=value`. `parse` is this function, for
    commands that run others.
    """
    # argparse cannot take options of any name, whose values may begin with a dash.
    bindings = [each.removeprefix('--gin.') for each in arguments if each.startswith('--gin.')]
    main_parser = parser()
    options = main_parser.parse_args([each for each in arguments if not each.startswith('--gin.')])
    # Without this check a command that reads no gin files would silently ignore the bindings.
    if bindings and not getattr(options, 'takes_gin', False):
        main_parser.error(f'--gin.{bindings[0]}: this command reads no gin files')
    options.gin_bindings, options.parse = bindings, parse
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 is success, 2 a user's mistake, whose one line goes to standard error, and 130 an interrupt.
    Other UserErrors have their own codes. Without `arguments`, the program may restart itself with
    other allocator settings before jax is imported.
    """
    # Parsing imports no jax: mistakes and --help are quick.
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # Tests and notebooks pass arguments. A restarted process would lose theirs.
    if arguments is None:
        allocator.restart_tuned(options.verbose)
        quiet.quiet(options.verbose)
    try:
        _run(options)
    except errors.UserError as error:
        return _complain(str(error), options, error.exit_code)
    except BrokenPipeError:
        # The reader of our output has closed the pipe. Python would complain when it flushes
        # stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        message = _message_of(error)
        if message is None:
            raise
        return _complain(message, options, USER_MISTAKE)
    except KeyboardInterrupt:
        return _complain('interrupted; run the same command again to continue', options,
                         INTERRUPTED)
    return 0


def _run(options: argparse.Namespace) -> None:
    flags.resolve(options)
    if not getattr(options, 'no_verify', False):
        options.run(options)
        return
    from atlas_jax.io import contents  # imports tensorstore
    with contents.unchecked():
        options.run(options)


def _message_of(error: OSError) -> str | None:
    """Returns one line for a system error that a user can mend; None for any other."""
    free_space = 'free some space and run the same command again'
    another_path = 'give a path that you may use'
    remedies = {
        errno.ENOSPC: free_space, errno.EDQUOT: free_space, errno.EACCES: another_path,
        errno.EPERM: another_path, errno.EROFS: another_path,
        errno.ENOENT: 'give a path that exists', errno.ENOTDIR: 'give a folder',
        errno.EISDIR: 'give a file, not a folder',
        errno.EEXIST: 'give a path that does not exist yet'}
    if error.errno in remedies:
        return f'{error.filename or "disk"}: {os.strerror(error.errno)}; {remedies[error.errno]}'
    # Only a failing disk is left. Any other error is a defect of ours and keeps its traceback.
    problem = atomic.user_error(error.filename or 'disk', error)
    return None if problem is None else str(problem)


def _complain(message: str, options: argparse.Namespace, exit_code: int) -> int:
    if options.verbose:
        import traceback
        traceback.print_exc()
    print(f'atlas-jax: {" ".join(message.split())}', file=sys.stderr)
    return exit_code


if __name__ == '__main__':
    sys.exit(main())
