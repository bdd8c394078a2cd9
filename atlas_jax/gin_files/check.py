"""Reads gin files before gin does: each mistake is one line with its file, line and remedy, and no file runs code.

Run folders are exchanged with their config.gin, and gin itself imports and calls whatever a file names. So files import atlas_jax alone,
bind its classes and functions, and refer to its frozen dataclasses of options; other modules are what the user names (`--gin_import`).
"""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import pathlib
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gin import config_parser

from atlas_jax import errors
from atlas_jax.gin_files import t5x_names
from atlas_jax.gin_files import values as gin_values
from atlas_jax.io import untrusted

DYNAMIC_REGISTRATION = '__gin__.dynamic_registration'
REQUIRED = 'gin.REQUIRED'
_OWN = 'atlas_jax'
# Far more than any experiment needs: what is larger was made to exhaust the machine.
_MOST_BYTES, _MOST_FILES, _MOST_DEPTH, _MOST_VALUES = 2**20, 1000, 20, 100_000  # depth of brackets, and of macros in macros

# Names that gin files of before version 0.2 use, so that their one line gives the new name. The shipped files imported the first three;
# the others hold a function or dataclass that a file of one's own could bind. A package's entry serves all its modules.
RENAMED_MODULES = {
    'atlas_jax.build_index': 'atlas_jax.api',
    'atlas_jax.training.spec': 'atlas_jax.steps.spec',
    'atlas_jax.training.step_config': 'atlas_jax.steps.spec',
    'atlas_jax.baseline': 'atlas_jax.compare.pytorch',
    'atlas_jax.gin_parse': 'atlas_jax.gin_files.parse',
    'atlas_jax.hosts': 'atlas_jax.runtime.hosts',
    'atlas_jax.index.index': 'atlas_jax.index.embedding_index',
    'atlas_jax.index_group': 'atlas_jax.knowledge.group',
    'atlas_jax.io.progress': 'atlas_jax.runtime.progress',
    'atlas_jax.io.resources': 'atlas_jax.runtime.resources',
    'atlas_jax.models.bert': 'atlas_jax.models.contriever',
    'atlas_jax.planning.search': 'atlas_jax.planning.variants',
    'atlas_jax.preemption': 'atlas_jax.runtime.preemption',
    'atlas_jax.prepare': 'atlas_jax.steps.prepare',
    'atlas_jax.run_log': 'atlas_jax.report.run_log',
    'atlas_jax.run_profile': 'atlas_jax.report.run_profile',
    'atlas_jax.search': 'atlas_jax.api',
    'atlas_jax.tasks.protocol': 'atlas_jax.tasks.task',
    'atlas_jax.training.answer_step': 'atlas_jax.steps.answer',
    'atlas_jax.training.answer_steps': 'atlas_jax.steps.answer',
    'atlas_jax.training.buckets': 'atlas_jax.steps.buckets',
    'atlas_jax.training.eval_step': 'atlas_jax.steps.eval',
    'atlas_jax.training.given': 'atlas_jax.steps.given',
    'atlas_jax.training.host_path': 'atlas_jax.steps.search',
    'atlas_jax.training.retrieve': 'atlas_jax.steps.retrieve',
    'atlas_jax.training.score_step': 'atlas_jax.steps.score',
    'atlas_jax.verify_index': 'atlas_jax.knowledge.verify',
    'atlas_jax.watch': 'atlas_jax.runtime.watch',
}
_SOURCE = ('model_dir', 'reader_dir', 'retriever_dir', 'task', 'inputs')
# Old owner, new owner, and the parameters that went from one to the other under their old names.
_MOVED_PARAMETERS = (
    ('train.train', 'train.TrainData', ('train_file', 'index_dir', 'n_context', 'max_examples', 'use_file_passages', 'eval_file')),
    ('train.train', 'train.RunConfig', ('profile_dir',)),
    ('train.train', 'model.ModelSource', _SOURCE),
    ('evaluate.evaluate', 'evaluate.EvalData', ('examples_file', 'index_dir', 'results_file', 'write_passages', 'max_examples')),
    ('evaluate.evaluate', 'model.ModelSource', _SOURCE),
    ('api.build_index', 'model.ModelSource', _SOURCE),
)
RENAMED_PARAMETERS = {(f'atlas_jax.{old}', name): f'{new}.{name}' for old, new, names in _MOVED_PARAMETERS for name in names}


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns `; did you mean "x"?` for the nearest of `candidates`, or nothing where none is near."""
    # Below difflib's default of 0.6, since one wrong letter weighs more in a short name.
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ''


def new_module_name(name: str) -> str | None:
    """Returns the name that a renamed module has now, or None. Modules of a renamed package keep their last name."""
    if name in RENAMED_MODULES:
        return RENAMED_MODULES[name]
    package, _, module = name.rpartition('.')
    return f'{RENAMED_MODULES[package]}.{module}' if package in RENAMED_MODULES else None


def new_selector(selector: str) -> str | None:
    """Returns a selector such as `step_config.StepConfig` with its module's new name, or None where that did not change."""
    module, _, rest = selector.rpartition('.')
    for old, new in RENAMED_MODULES.items():
        if module and f'.{old}'.endswith(f'.{module}'):
            renamed = f'{new.rpartition(".")[2]}.{rest}'
            return None if renamed == selector else renamed
    return None


@dataclasses.dataclass(frozen=True)
class Binding:
    """One `owner.name = value` (owner '' for a macro), and the place of it: file and line, or the option."""

    owner: str
    name: str
    value: Any
    place: str
    annotation: Any = None


class Checker:
    """Checks gin files and command-line bindings in the order in which gin will read them.

    Attributes:
      configurables: the classes and functions that were named so far, by full selector, such as atlas_jax.train.RunConfig.
      texts: what was checked, by the name of each file, for gin to read.
    """

    def __init__(self, find_file: Callable[[str], pathlib.Path | None], known_files: Iterable[str] = (), imports: Iterable[str] = ()):
        """Starts without files.

        Args:
          find_file: name of a gin file -> its path, or None.
          known_files: names to suggest where one is misspelt.
          imports: modules that files may import besides atlas_jax.

        Raises:
          ConfigError: a module of `imports` cannot be imported.
        """
        self._find_file, self._known_files = find_file, sorted(known_files)
        self._imports = (_OWN, *imports)
        self._import_trusted(imports)
        self.configurables: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self._read_files = 0
        self._bindings: dict[tuple[str, str], Binding] = {}  # the last one wins, as in gin
        self._used_macros: dict[str, str] = {}  # name -> the place of its first use
        self._counts: dict[str, int] = {}  # of the values in each macro
        self._open_files: list[pathlib.Path] = []  # the file being read and those that include it

    def check_file(self, name: str, place: str = '--gin_file') -> None:
        """Checks the file `name` and everything it includes.

        Args:
          name: as it was given.
          place: of the name: an option, or file and line of an include.

        Raises:
          ConfigError: the file is missing, not text or includes itself, or a statement of it is wrong.
        """
        path = self._find_file(name)
        if path is None:
            raise errors.ConfigError(f'{place}: no gin file "{name}"{did_you_mean(name, self._known_files)}')
        self.texts[name] = text = _text_of(path)
        self._read_files += 1
        if self._read_files > _MOST_FILES:
            raise errors.ConfigError(f'{place}: more than {_MOST_FILES} gin files are read; do files include others many times?')
        # gin would read such files until Python's stack ends.
        if path in self._open_files:
            raise errors.ConfigError(f'{place}: {path} includes itself; take one include out')
        self._open_files.append(path)
        with _syntax_errors(lambda line: f'{path}:{line}'):
            self._check(config_parser.ConfigParser(text, gin_values.Delegate()), lambda line: f'{path}:{line}')
        self._open_files.pop()

    def check_bindings(self, bindings: Sequence[str]) -> None:
        """Checks the `NAME=value` of a command line, as `check_command_line` does each. Raises ConfigError."""
        # All at once: people who come from T5X give several of its names.
        t5x_names.refuse(bindings, self._macro_names())
        for binding in bindings:
            self.check_command_line(binding)

    def check_command_line(self, binding: str) -> None:
        """Checks one `NAME=value` of the command line; the files must use or set its macro. Raises ConfigError."""
        place = f'--gin.{binding}'
        if '=' not in binding:
            raise errors.ConfigError(f'{place}: write --gin.NAME=value')
        with _syntax_errors(lambda line: place, '; strings need quotes inside the shell\'s: --gin.NAME=\'"text"\''):
            statements = list(config_parser.ConfigParser(binding, gin_values.Delegate()))
            # gin reads all bindings as one text: an import in one of them would serve those behind it.
            if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
                raise errors.ConfigError(f'{place}: write one --gin.NAME=value')
            self._check(statements, lambda line: place, from_command_line=True)

    def finish(self) -> None:
        """Checks the configuration as a whole: macros without a value, values that must be set, and types. Raises ConfigError."""
        # Macros first: a value that must be set but is missing often comes from a macro whose name is misspelt.
        for name, place in self._used_macros.items():
            if ('', name) not in self._bindings:
                raise errors.ConfigError(f'{place}: macro %{name} is not set{did_you_mean(name, self._macro_names() - {name})}')
        for owner, name in self._bindings:
            if not owner:
                self._count_values(name, ())
                self._refuse_t5x(name)
        if missing := self._missing():
            names = [f'{binding.owner}.{binding.name}'.lstrip('.') for binding in missing]
            options = ' '.join(f'--gin.{name}=...' for name in names)
            places = ', '.join(f'{name} ({binding.place})' for name, binding in zip(names, missing, strict=True))
            raise errors.ConfigError(f'must be set: {places}; add {options}')
        for binding in self._bindings.values():
            self._check_type(binding)

    def _refuse_t5x(self, name: str) -> None:
        """Raises ConfigError for a macro of T5X that nothing here uses: the run would go without what it is to set."""
        if name in t5x_names.MACROS and name not in self._used_macros:
            place = self._bindings['', name].place
            raise errors.ConfigError(f'{place}: {name} is a name of T5X, here {t5x_names.MACROS[name]} ({t5x_names.PAGE})')

    def required_macros(self) -> list[str]:
        """Returns the macros that must be set and are not."""
        return [binding.name for binding in self._missing() if not binding.owner]

    def _missing(self) -> list[Binding]:
        return [binding for binding in self._bindings.values() if binding.value == gin_values.Macro(REQUIRED)]

    def _count_values(self, name: str, users: tuple[str, ...]) -> int:
        """Returns the number of values in a macro, those of its macros included. Raises ConfigError for a cycle, and for too many."""
        binding = self._bindings['', name]
        if name in users:
            way = ' -> '.join(f'%{user}' for user in (*users[users.index(name):], name))
            raise errors.ConfigError(f'{binding.place}: macro %{name} is its own value ({way}); give one of them another value')
        if len(users) > _MOST_DEPTH:
            raise errors.ConfigError(f'{binding.place}: macros stand for macros more than {_MOST_DEPTH} deep')
        if name not in self._counts:
            parts = list(gin_values.flatten(binding.value))
            self._counts[name] = 1 + sum(self._count_values(part.name, (*users, name)) for part in parts
                                         if isinstance(part, gin_values.Macro) and part.name != REQUIRED) + len(parts)
        if self._counts[name] > _MOST_VALUES:
            raise errors.ConfigError(f'{binding.place}: macro %{name} stands for more than {_MOST_VALUES} values')
        return self._counts[name]

    def _check(self, statements: Iterable[Any], place_of: Callable[[int], str], from_command_line: bool = False) -> None:
        symbols: dict[str, Any] = {}
        dynamic = False
        for statement in statements:
            place = place_of(statement.location.line_num)
            if isinstance(statement, config_parser.IncludeStatement):
                _require_inside(statement.filename, place)
                self.check_file(statement.filename, place)
            elif isinstance(statement, config_parser.ImportStatement):
                # No module but a switch of gin's parser; `import __gin__...` would be a module of the working directory.
                if statement.module == DYNAMIC_REGISTRATION and statement.is_from and not statement.alias:
                    dynamic = True
                else:
                    symbols[statement.bound_name()] = self._import(statement, place)
            elif isinstance(statement, config_parser.BlockDeclaration):
                self._resolve(statement.selector, symbols, dynamic, place)
            else:
                self._check_binding(statement, symbols, dynamic, place, from_command_line)

    def _check_binding(self, statement: Any, symbols: dict[str, Any], dynamic: bool, place: str, from_command_line: bool) -> None:
        if gin_values.depth(statement.value) > _MOST_DEPTH:
            raise errors.ConfigError(f'{place}: brackets are nested deeper than {_MOST_DEPTH}')
        # References and macros may stand inside lists and dicts.
        for value in gin_values.flatten(statement.value):
            if isinstance(value, gin_values.Reference):
                full_name, value.target = self._resolve(value.selector, symbols, dynamic, place)
                self._require_options(full_name, value.target, place)
            elif isinstance(value, gin_values.Macro) and value.name != REQUIRED:
                self._used_macros.setdefault(value.name, place)
        if not statement.arg_name:  # gin writes a macro as a binding without a parameter
            name = f'{statement.scope}/{statement.selector}' if statement.scope else statement.selector
            # A file may set macros that others use; on the command line an unused one is a misspelling.
            if from_command_line and name not in self._macro_names():
                raise errors.ConfigError(f'{place}: no gin file uses the macro {name}{did_you_mean(name, self._macro_names())}')
            self._bindings['', name] = Binding('', name, statement.value, place)
            return
        full_name, configurable = self._resolve(statement.selector, symbols, dynamic, place)
        annotation = self._annotation(statement, full_name, configurable, place)
        binding = Binding(statement.selector, statement.arg_name, statement.value, place, annotation)
        self._bindings[f'{statement.scope}/{full_name}', statement.arg_name] = binding

    def _annotation(self, statement: Any, full_name: str, configurable: Any, place: str) -> Any:
        """Returns the annotation of the parameter that is bound. Raises ConfigError if there is no such parameter."""
        names = gin_values.parameter_names(configurable)
        if statement.arg_name not in names and '**' not in names:
            if new_name := RENAMED_PARAMETERS.get((full_name, statement.arg_name)):
                raise errors.ConfigError(f'{place}: {statement.selector}.{statement.arg_name} is {new_name} now; bind it there '
                                         f'(from atlas_jax import {new_name.split(".")[0]})')
            near = did_you_mean(statement.arg_name, names) or f'; it has {", ".join(names)}'
            raise errors.ConfigError(f'{place}: {statement.selector} has no parameter "{statement.arg_name}"{near}')
        return gin_values.hints_of(configurable).get(statement.arg_name)

    def _resolve(self, selector: str, symbols: dict[str, Any], dynamic: bool, place: str) -> tuple[str, Any]:
        """Returns (full selector, class or function), found through the file's imports or by the end of a selector seen before."""
        # Bindings of the command line import nothing: gin finds the class by the end of its name.
        if not dynamic:
            matches = {name: found for name, found in self.configurables.items() if f'.{name}'.endswith(f'.{selector}')}
            if not matches and (new_name := new_selector(selector)):
                raise errors.ConfigError(f'{place}: {selector} is {new_name} now; bind it by that name')
            if len(matches) != 1:
                problem = f'"{selector}" could be any of {", ".join(matches)}' if matches else f'unknown name "{selector}"'
                ends = {'.'.join(name.split('.')[-(selector.count('.') + 1):]) for name in self.configurables}
                raise errors.ConfigError(f'{place}: {problem}{did_you_mean(selector, ends) if not matches else "; give more of it"}')
            return next(iter(matches.items()))
        first, *rest = selector.split('.')
        if first not in symbols:
            raise errors.ConfigError(f'{place}: unknown name "{selector}": no import gives "{first}"{did_you_mean(first, symbols)}')
        found = symbols[first]
        # Attribute by attribute, so that the message names the first part that is wrong.
        for name in rest:
            public = [member for member in dir(found) if not member.startswith('_')]
            if name not in public:
                raise errors.ConfigError(f'{place}: unknown name "{selector}"{did_you_mean(name, public)}')
            # Modules hold the modules that they import: through them every function of Python could be named.
            if not (isinstance(found, types.ModuleType) and self._may_use(found.__name__)):
                raise errors.ConfigError(f'{place}: "{selector}" goes through {getattr(found, "__name__", name)}, which is no module of '
                                         f'{" or ".join(self._imports)}')
            found = getattr(found, name)
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            raise errors.ConfigError(f'{place}: "{selector}" is neither a class nor a function')
        full_name = f'{found.__module__}.{found.__qualname__}'
        if not self._may_use(str(found.__module__)):
            raise errors.ConfigError(f'{place}: "{selector}" is {full_name}, which is not of {" or ".join(self._imports)}')
        self.configurables[full_name] = found
        return full_name, found

    def _may_use(self, module: str) -> bool:
        return any(f'{module}.'.startswith(f'{root}.') for root in self._imports)

    def _require_options(self, full_name: str, configurable: Any, place: str) -> None:
        """Raises ConfigError for `@name` of ours that is no class of options: calling it could do anything."""
        if full_name.startswith(f'{_OWN}.') and not _is_options(configurable):
            raise errors.ConfigError(f'{place}: @{full_name} is no class of options (docs/gin.md); values may refer to those alone')

    def _import(self, statement: Any, place: str) -> Any:
        """Imports a module of atlas_jax, or one that the user has named. Raises ConfigError."""
        name = statement.module
        if new_name := new_module_name(name):
            package, _, short = new_name.rpartition('.')
            raise errors.ConfigError(f'{place}: {name} is {new_name} now; write "from {package} import {short}" and "{short}." '
                                     'where the file names one of its classes')
        if not self._may_use(name) and name.split('.')[0] in t5x_names.MODULES:
            raise errors.ConfigError(f'{place}: {statement.format()}: a gin file of T5X; include one of runs/*.gin here and set its macros '
                                     f'({t5x_names.PAGE})')
        if not self._may_use(name):
            raise errors.ConfigError(f'{place}: {statement.format()}: gin files import {_OWN} alone; if you trust the module, '
                                     f'add --gin_import {name}')
        if any(part.startswith('_') for part in name.split('.')):  # atlas_jax.__main__ is the command itself
            raise errors.ConfigError(f'{place}: {statement.format()}: there is nothing to bind in this module')
        return self._module_of(statement, place)

    def _module_of(self, statement: Any, place: str) -> Any:
        name = statement.module
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise errors.ConfigError(f'{place}: {statement.format()}: {error}') from error
        # `import a.b` binds `a`, `from a import b` and `import a.b as b` bind the module itself.
        return module if statement.is_from or statement.alias else importlib.import_module(name.split('.')[0])

    def _import_trusted(self, modules: Iterable[str]) -> None:
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # whatever the user's own module raises
                raise errors.ConfigError(f'--gin_import {name}: {type(error).__name__}: {error}') from error

    def _check_type(self, binding: Binding) -> None:
        value, place = binding.value, binding.place
        # The type is checked where the value stands: a macro's own line is named, not the line that uses it.
        while isinstance(value, gin_values.Macro):
            macro = self._bindings['', value.name]
            value, place = macro.value, macro.place
        value = self._without_macros(value)
        if binding.owner and not gin_values.fits(value, binding.annotation):
            expected = gin_values.type_name(binding.annotation)
            raise errors.ConfigError(f'{place}: {binding.owner}.{binding.name} must be {expected}, got {gin_values.shown(value)}')

    def _without_macros(self, value: Any) -> Any:
        """Returns the value with the values of its macros in their places."""
        if isinstance(value, gin_values.Macro):
            return self._without_macros(self._bindings['', value.name].value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._without_macros, value))
        return value

    def _macro_names(self) -> set[str]:
        return {name for owner, name in self._bindings if not owner} | set(self._used_macros)


def _is_options(configurable: Any) -> bool:
    """True for a frozen dataclass: it holds values, and making it does nothing else."""
    parameters = getattr(configurable, '__dataclass_params__', None)
    return inspect.isclass(configurable) and parameters is not None and parameters.frozen


def _require_inside(name: str, place: str) -> None:
    """Raises ConfigError for an include that leaves the folders of gin files: a file from elsewhere must not read the user's others."""
    try:
        untrusted.inside(pathlib.Path(), name)
    except ValueError as error:
        raise errors.ConfigError(f'{place}: include {name!r:.80}: {error}; give that file by --gin_file') from error


def _text_of(path: pathlib.Path) -> str:
    """Reads a gin file. Raises ConfigError for a pipe, a device, a file that is too large, and one that is no text."""
    try:
        untrusted.require_regular_file(path)
        with open(path, encoding='utf-8') as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # UnicodeDecodeError too
        raise errors.ConfigError(f'{path}: cannot be read as text ({error})') from error
    if len(text) > _MOST_BYTES:
        raise errors.ConfigError(f'{path}: larger than {_MOST_BYTES // 2**20} MiB, so it is no gin file')
    return text


@contextlib.contextmanager
def _syntax_errors(place_of: Callable[[int], str], remedy: str = '') -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:
        # gin's own errors carry (file, line, ...) beside the message.
        line = int(error.args[1][1] if len(error.args) > 1 else error.lineno or 0)
        problem = error.msg.strip().splitlines()[0].rstrip('.')
        found = remedy or f', found: {" ".join((error.text or "").split()):.200}'
        raise errors.ConfigError(f'{place_of(line)}: {problem}{found}') from error
    except RecursionError as error:  # gin's parser calls itself for every bracket
        raise errors.ConfigError(f'{place_of(0).removesuffix(":0")}: brackets are nested deeper than {_MOST_DEPTH}') from error
    except (TypeError, ValueError, AssertionError) as error:  # what gin's parser says of a list as a key, and of a name without a parameter
        raise errors.ConfigError(f'{place_of(0).removesuffix(":0")}: {" ".join(str(error).split())}{remedy}') from error
    except tokenize.TokenError as error:  # the file ends inside a bracket or a string
        message, (line, _) = error.args
        raise errors.ConfigError(f'{place_of(line)}: {message}; is a bracket or quote left open?{remedy}') from error
