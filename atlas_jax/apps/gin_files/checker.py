"""Checks gin files before gin reads them: each mistake is one line with file, line and remedy, and
no file runs code.

Run folders are exchanged together with their config.gin, and gin itself imports and calls whatever
a file names. Files therefore import only atlas_jax and the modules that the user names
(`--gin_import`), and refer only to frozen dataclasses of options.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gin import config_parser

from atlas_jax import errors
from atlas_jax.apps.gin_files import gin_text, t5x_names
from atlas_jax.apps.gin_files import names as gin_names
from atlas_jax.apps.gin_files import values as gin_values
from atlas_jax.apps.gin_files.names import did_you_mean

REQUIRED = 'gin.REQUIRED'
# Far more than any experiment needs.
_MOST_FILES, _MOST_VALUES = 1000, 100_000


@dataclasses.dataclass(frozen=True)
class Binding:
    """One `owner.name = value`. `owner` is '' for a macro; `place` is file and line, or the option.
    """

    owner: str
    name: str
    value: Any
    place: str
    annotation: Any = None


class Checker:
    """Checks gin files and command-line bindings, in the order in which gin will read them.

    Attributes:
      configurables: the classes and functions named so far, by full name, such as
        atlas_jax.train.RunConfig.
      texts: the checked text of each file, by the file's name. gin reads these texts.
    """

    def __init__(self, find_file: Callable[[str], pathlib.Path | None],
                 known_files: Iterable[str] = (), imports: Iterable[str] = (), load: bool = True):
        """Starts without files.

        Args:
          find_file: maps the name of a gin file to its path, or to None.
          known_files: names to suggest for a misspelt one.
          imports: modules that files may import besides atlas_jax.
          load: False imports no module, so that names and types are not checked.

        Raises:
          ConfigError: a module of `imports` cannot be imported.
        """
        self._find_file, self._known_files = find_file, sorted(known_files)
        self._names = gin_names.Names(imports, load)
        self.configurables = self._names.configurables
        self.texts: dict[str, str] = {}
        self._read_files = 0
        self._bindings: dict[tuple[str, str], Binding] = {}  # the last one wins, as in gin
        self._used_macros: dict[str, str] = {}  # name -> the place of its first use
        self._counts: dict[str, int] = {}  # number of values in each macro
        self._open_files: list[pathlib.Path] = []  # the file being read and those that include it

    def check_file(self, name: str, place: str = '--gin_file') -> None:
        """Checks a file and everything it includes.

        Args:
          name: the file, as the user wrote it.
          place: the option, or file and line of the include, that gives the name.

        Raises:
          ConfigError: the file is missing, not text or includes itself, or one of its statements
            is wrong.
        """
        path = self._find_file(name)
        if path is None:
            raise errors.ConfigError(f'{place}: no gin file "{name}"'
                                     f'{did_you_mean(name, self._known_files)}')
        self.texts[name] = text = gin_text.read_text(path)
        self._read_files += 1
        if self._read_files > _MOST_FILES:
            raise errors.ConfigError(f'{place}: more than {_MOST_FILES} gin files are read; do '
                                     'files include others many times?')
        # gin would read such files until Python's stack ends.
        if path in self._open_files:
            raise errors.ConfigError(f'{place}: {path} includes itself; take one include out')
        self._open_files.append(path)

        def place_of(line: int) -> str:
            return f'{path}:{line}'

        with gin_text.one_line_errors(place_of):
            self._check(gin_text.statements(text), place_of)
        self._open_files.pop()

    def check_bindings(self, bindings: Sequence[str]) -> None:
        """Checks all `NAME=value` of a command line.

        Raises ConfigError: the same errors as `check_command_line`, or a name is one of T5X.
        """
        # All at once: people who come from T5X give several of its names.
        t5x_names.refuse(bindings, self._macro_names())
        for binding in bindings:
            self.check_command_line(binding)

    def check_command_line(self, binding: str) -> None:
        """Checks one `NAME=value` of the command line.

        Raises ConfigError: it is wrong, or no file uses or sets its macro.
        """
        place = f'--gin.{binding}'
        if '=' not in binding:
            raise errors.ConfigError(f'{place}: write --gin.NAME=value')
        with gin_text.one_line_errors(
                lambda line: place,
                '; strings need quotes inside the shell\'s: --gin.NAME=\'"text"\''):
            statements = list(gin_text.statements(binding))
            # gin reads all bindings as one text: an import in one would serve those after it.
            if len(statements) != 1 or not isinstance(statements[0],
                                                      config_parser.BindingStatement):
                raise errors.ConfigError(f'{place}: write one --gin.NAME=value')
            self._check(statements, lambda line: place, from_command_line=True)

    def finish(self) -> None:
        """Checks the configuration as a whole: macros without a value, values that must be set, and
        types. Raises ConfigError.
        """
        # Macros first: a required value is often missing because a macro's name is misspelt.
        for name, place in self._used_macros.items():
            if ('', name) not in self._bindings:
                raise errors.ConfigError(f'{place}: macro %{name} is not set'
                                         f'{did_you_mean(name, self._macro_names() - {name})}')
        for owner, name in self._bindings:
            if not owner:
                self._count_values(name, ())
                self._refuse_t5x(name)
        if missing := self._missing():
            names = [f'{binding.owner}.{binding.name}'.lstrip('.') for binding in missing]
            options = ' '.join(f'--gin.{name}=...' for name in names)
            places = ', '.join(f'{name} ({binding.place})'
                               for name, binding in zip(names, missing, strict=True))
            raise errors.ConfigError(f'must be set: {places}; add {options}')
        for binding in self._bindings.values():
            self._check_type(binding)

    def required_macros(self) -> list[str]:
        """Returns the macros that must be set and are not."""
        return [binding.name for binding in self._missing() if not binding.owner]

    def _missing(self) -> list[Binding]:
        return [binding for binding in self._bindings.values()
                if binding.value == gin_values.Macro(REQUIRED)]

    def _refuse_t5x(self, name: str) -> None:
        """Raises ConfigError: a T5X macro that nothing here uses, so the run would ignore it."""
        if name in t5x_names.MACROS and name not in self._used_macros:
            place = self._bindings['', name].place
            raise errors.ConfigError(f'{place}: {name} is a name of T5X, here '
                                     f'{t5x_names.MACROS[name]} ({t5x_names.PAGE})')

    def _count_values(self, name: str, users: tuple[str, ...]) -> int:
        """Returns the number of values in a macro, including those of the macros in it.

        Raises ConfigError: the macros form a cycle, or hold too many values.
        """
        binding = self._bindings['', name]
        if name in users:
            way = ' -> '.join(f'%{user}' for user in (*users[users.index(name):], name))
            raise errors.ConfigError(f'{binding.place}: macro %{name} is its own value ({way}); '
                                     'give one of them another value')
        if len(users) > gin_text.MOST_DEPTH:
            raise errors.ConfigError(f'{binding.place}: macros stand for macros more than '
                                     f'{gin_text.MOST_DEPTH} deep')
        if name not in self._counts:
            parts = list(gin_values.flatten(binding.value))
            self._counts[name] = 1 + len(parts) + sum(
                self._count_values(part.name, (*users, name)) for part in parts
                if isinstance(part, gin_values.Macro) and part.name != REQUIRED)
        if self._counts[name] > _MOST_VALUES:
            raise errors.ConfigError(f'{binding.place}: macro %{name} stands for more than '
                                     f'{_MOST_VALUES} values')
        return self._counts[name]

    def _check(self, statements: Iterable[Any], place_of: Callable[[int], str],
               from_command_line: bool = False) -> None:
        scope = gin_names.Scope()
        for statement in statements:
            place = place_of(statement.location.line_num)
            if isinstance(statement, config_parser.IncludeStatement):
                gin_text.require_inside(statement.filename, place)
                self.check_file(statement.filename, place)
            elif isinstance(statement, config_parser.ImportStatement):
                self._names.add_import(statement, scope, place)
            elif isinstance(statement, config_parser.BlockDeclaration):
                self._names.resolve(statement.selector, scope, place)
            else:
                self._check_binding(statement, scope, place, from_command_line)

    def _check_binding(self, statement: Any, scope: gin_names.Scope, place: str,
                       from_command_line: bool) -> None:
        if gin_values.depth(statement.value) > gin_text.MOST_DEPTH:
            raise errors.ConfigError(f'{place}: brackets are nested deeper than '
                                     f'{gin_text.MOST_DEPTH}')
        # References and macros may stand inside lists and dicts.
        for value in gin_values.flatten(statement.value):
            if isinstance(value, gin_values.Reference):
                full_name, value.target = self._names.resolve(value.selector, scope, place)
                gin_names.require_options(full_name, value.target, place)
            elif isinstance(value, gin_values.Macro) and value.name != REQUIRED:
                self._used_macros.setdefault(value.name, place)
        if not statement.arg_name:  # gin writes a macro as a binding without a parameter
            name = f'{statement.scope}/{statement.selector}'.lstrip('/')
            # A file may set macros that other files use. On the command line an unused one is a
            # misspelling.
            if from_command_line and name not in self._macro_names():
                raise errors.ConfigError(f'{place}: no gin file uses the macro {name}'
                                         f'{did_you_mean(name, self._macro_names())}')
            self._bindings['', name] = Binding('', name, statement.value, place)
            return
        full_name, configurable = self._names.resolve(statement.selector, scope, place)
        annotation = gin_names.annotation_of(statement, configurable, place)
        self._bindings[f'{statement.scope}/{full_name}', statement.arg_name] = Binding(
            statement.selector, statement.arg_name, statement.value, place, annotation)

    def _check_type(self, binding: Binding) -> None:
        value, place = binding.value, binding.place
        # The message names the line of the macro's value, not the line that uses the macro.
        while isinstance(value, gin_values.Macro):
            macro = self._bindings['', value.name]
            value, place = macro.value, macro.place
        value = self._without_macros(value)
        if binding.owner and not gin_values.fits(value, binding.annotation):
            expected = gin_values.type_name(binding.annotation)
            raise errors.ConfigError(f'{place}: {binding.owner}.{binding.name} must be '
                                     f'{expected}, got {gin_values.shown(value)}')

    def _without_macros(self, value: Any) -> Any:
        """Returns a value with its macros replaced by their values."""
        if isinstance(value, gin_values.Macro):
            return self._without_macros(self._bindings['', value.name].value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._without_macros, value))
        return value

    def _macro_names(self) -> set[str]:
        return {name for owner, name in self._bindings if not owner} | set(self._used_macros)
