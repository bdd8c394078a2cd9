"""Runs gin as T5X users know it: `--gin_file`, repeated, and `--gin.NAME=value`. No other module
runs gin.

gin gets exactly the text that `checker.Checker` has read and accepted.
"""

import contextlib
import functools
import inspect
import io
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin

from atlas_jax import errors
from atlas_jax.apps.gin_files import checker as gin_check


def config_folder() -> pathlib.Path:
    """Returns the folder gin_configs: inside an installed package (setup.py), beside it in a
    checkout.
    """
    package = pathlib.Path(__file__).resolve().parents[2]
    installed, checkout = package / 'gin_configs', package.parent / 'gin_configs'
    return installed if installed.is_dir() else checkout


def search_path() -> tuple[pathlib.Path, ...]:
    """Returns the folders that gin files are looked for in: the working folder, gin_configs/ (for
    `runs/x.gin`), and its parent (for `gin_configs/runs/x.gin`).
    """
    return pathlib.Path(), config_folder(), config_folder().parent


def find_file(name: str, folders: Sequence[str] = ()) -> pathlib.Path | None:
    """Returns the path of a gin file, or None. Looks in `folders` first, then in search_path()."""
    paths = [folder / name for folder in (*map(pathlib.Path, folders), *search_path())]
    try:
        files = [path for path in paths if path.is_file()]
        # A pipe or a folder is returned only if there is no file. The message then says what it is.
        return next(iter(files), None) or next((path for path in paths if path.exists()), None)
    except (OSError, ValueError):  # no file can have such a name
        return None


def known_files() -> list[str]:
    """Returns the names of the shipped gin files, such as `runs/few_shot.gin`."""
    folder = config_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.gin'))


def parse(files: Sequence[str], bindings: Sequence[str] = (), *, complete: bool = True,
          stand_in: str | None = None, imports: Sequence[str] = (),
          folders: Sequence[str] = ()) -> None:
    """Reads the files, then the bindings, into gin. Any earlier configuration is forgotten.

    Args:
      files: names of gin files; later ones win.
      bindings: `NAME=value` of the command line; they win over the files.
      complete: False accepts missing values. That is enough to read a macro with `value_of`.
      stand_in: value for macros that must be set and are not.
      imports: modules that the files may import besides atlas_jax. Files may call everything that
        these define.
      folders: further folders of gin files, looked in first.

    Raises:
      ConfigError: one line with file and line, for a missing file, a syntax error, an unknown or
        renamed name, a value of the wrong type, a macro that must be set and is not, or a module or
        function that files may not use.
    """
    # gin's own errors take many lines and do not say what to do.
    checker = gin_check.Checker(functools.partial(find_file, folders=folders), known_files(),
                                imports)
    for file in files:
        checker.check_file(file)
    checker.check_bindings(bindings)
    if stand_in is not None:
        # A plan needs no folders, but gin refuses a required macro without a value.
        filled = [f'{macro}={stand_in!r}' for macro in checker.required_macros()]
        for binding in filled:
            checker.check_command_line(binding)
        bindings = [*bindings, *filled]
    if complete:
        checker.finish()
    # gin keeps its configuration until the process ends. Tests and notebooks read several.
    gin.clear_config()
    # gin opens no file itself: a file may have changed since the check, and gin also looks inside
    # Python packages.
    gin.config._FILE_READERS[:] = [
        (lambda name: io.StringIO(checker.texts[name]), checker.texts.__contains__)]
    gin.config._LOCATION_PREFIXES[:] = ['']
    with _one_line(), _quiet():
        gin.parse_config_files_and_bindings(list(files), list(bindings), finalize_config=complete)


def arguments_of(function: Callable, **overrides: Any) -> dict[str, Any]:
    """Returns the keyword arguments that the configuration gives to `function`, with references
    called. `overrides` win.

    Raises:
      ConfigError: the configuration lacks an argument, or a class refuses one of its values.
    """
    with _one_line():
        given = gin.get_bindings(function) if is_bound(function) else {}
    arguments = {**given, **overrides}
    empty = inspect.Parameter.empty
    missing = [
        name for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is empty and parameter.kind is not parameter.VAR_KEYWORD
        and name not in arguments]
    if missing:
        name = f'{function.__module__.rpartition(".")[2]}.{function.__name__}'
        runs = ', '.join(file for file in known_files() if file.startswith('runs/'))
        raise errors.ConfigError('the gin files do not set '
                                 f'{", ".join(f"{name}.{part}" for part in missing)}; start from '
                                 f'one of {runs}')
    return arguments


def value_of(macro: str) -> Any:
    """Returns the value of a macro, with references called.

    Raises ConfigError: no file sets the macro.
    """
    # gin keeps a macro as the parameter `value` of its function `macro`.
    with _one_line():
        value = gin.get_bindings(f'{macro}/gin.macro')
    if not value:
        raise errors.ConfigError(f'the gin files set no macro {macro}')
    return value['value']


def operative_config(function: Callable) -> str:
    """Returns the configuration as used, as the text of a gin file. Call it after
    `arguments_of(function)`.

    It holds every class that was called and `function` itself, with all values and defaults.
    """
    # gin writes only what it called itself. We call the top function, so its values are added here.
    name = f'{function.__module__.rpartition(".")[2]}.{function.__name__}'
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(function).parameters.items()
        if isinstance(parameter.default, bool | int | float | str | None)}
    bound = gin.get_bindings(function, resolve_references=False) if is_bound(function) else {}
    lines = [f'{name}.{key} = {value!r}' for key, value in sorted({**defaults, **bound}.items())]
    return '\n'.join([
        gin.operative_config_str(max_line_length=140), f'# Parameters for {name}:', *lines, ''])


def is_bound(function: Callable) -> bool:
    """Returns whether the configuration gives any argument to `function`."""
    try:
        return bool(gin.get_bindings(function, resolve_references=False))
    except ValueError:  # no file has named it
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences gin, which logs an error for each folder of its search path without the file."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turns gin's errors into ConfigErrors of one line, and unwraps UserErrors that gin wrapped."""
    try:
        yield
    except errors.UserError as error:
        # gin raises a copy with "In call to configurable ..." added, once for every nested call.
        while isinstance(error.__context__, errors.UserError):
            error = error.__context__
        raise error from None
    except RecursionError as error:
        raise errors.ConfigError('the gin files call a class whose values call the class again; '
                                 'look at their @references') from error
    except (TypeError, ValueError, NameError, AttributeError, ImportError, RuntimeError,
            ArithmeticError, SyntaxError) as error:
        # gin's messages have several lines.
        raise errors.ConfigError(' '.join(str(error).split())) from error
