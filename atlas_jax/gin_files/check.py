"""Reads gin files before gin does, so that each mistake is one line with its file, line and remedy."""

import contextlib
import dataclasses
import difflib
import importlib
import pathlib
import tokenize
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gin import config_parser

from atlas_jax import errors
from atlas_jax.gin_files import values as gin_values

DYNAMIC_REGISTRATION = '__gin__.dynamic_registration'
REQUIRED = 'gin.REQUIRED'

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
    """

    def __init__(self, find_file: Callable[[str], pathlib.Path | None], known_files: Iterable[str] = ()):
        """Starts without files.

        Args:
          find_file: name of a gin file -> its path, or None.
          known_files: names to suggest where one is misspelt.
        """
        self._find_file, self._known_files = find_file, sorted(known_files)
        self.configurables: dict[str, Any] = {}
        self._bindings: dict[tuple[str, str], Binding] = {}  # the last one wins, as in gin
        self._used_macros: dict[str, str] = {}  # name -> the place of its first use
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
        try:
            text = path.read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f'{path}: cannot be read as text ({error})') from error
        # gin would read such files until Python's stack ends.
        if path in self._open_files:
            raise errors.ConfigError(f'{place}: {path} includes itself; take one include out')
        self._open_files.append(path)
        with _syntax_errors(lambda line: f'{path}:{line}'):
            self._check(config_parser.ConfigParser(text, gin_values.Delegate()), lambda line: f'{path}:{line}')
        self._open_files.pop()

    def check_command_line(self, binding: str) -> None:
        """Checks one `NAME=value` of the command line; the files must use or set its macro. Raises ConfigError."""
        place = f'--gin.{binding}'
        if '=' not in binding:
            raise errors.ConfigError(f'{place}: write --gin.NAME=value')
        with _syntax_errors(lambda line: place, '; strings need quotes inside the shell\'s: --gin.NAME=\'"text"\''):
            self._check(config_parser.ConfigParser(binding, gin_values.Delegate()), lambda line: place, from_command_line=True)

    def finish(self) -> None:
        """Checks the configuration as a whole: macros without a value, values that must be set, and types. Raises ConfigError."""
        # Macros first: a value that must be set but is missing often comes from a macro whose name is misspelt.
        for name, place in self._used_macros.items():
            if ('', name) not in self._bindings:
                raise errors.ConfigError(f'{place}: macro %{name} is not set{did_you_mean(name, self._macro_names() - {name})}')
        if missing := self._missing():
            names = [f'{binding.owner}.{binding.name}'.lstrip('.') for binding in missing]
            options = ' '.join(f'--gin.{name}=...' for name in names)
            places = ', '.join(f'{name} ({binding.place})' for name, binding in zip(names, missing, strict=True))
            raise errors.ConfigError(f'must be set: {places}; add {options}')
        for binding in self._bindings.values():
            self._check_type(binding)

    def required_macros(self) -> list[str]:
        """Returns the macros that must be set and are not."""
        return [binding.name for binding in self._missing() if not binding.owner]

    def _missing(self) -> list[Binding]:
        return [binding for binding in self._bindings.values() if binding.value == gin_values.Macro(REQUIRED)]

    def _check(self, parser: config_parser.ConfigParser, place_of: Callable[[int], str], from_command_line: bool = False) -> None:
        symbols: dict[str, Any] = {}
        dynamic = False
        for statement in parser:
            place = place_of(statement.location.line_num)
            if isinstance(statement, config_parser.IncludeStatement):
                self.check_file(statement.filename, place)
            elif isinstance(statement, config_parser.ImportStatement):
                dynamic = dynamic or statement.module == DYNAMIC_REGISTRATION
                if not statement.module.startswith('__gin__.'):  # no module: a switch of gin's parser
                    symbols[statement.bound_name()] = _import(statement, place)
            elif isinstance(statement, config_parser.BlockDeclaration):
                self._resolve(statement.selector, symbols, dynamic, place)
            else:
                self._check_binding(statement, symbols, dynamic, place, from_command_line)

    def _check_binding(self, statement: Any, symbols: dict[str, Any], dynamic: bool, place: str, from_command_line: bool) -> None:
        # References and macros may stand inside lists and dicts.
        for value in gin_values.flatten(statement.value):
            if isinstance(value, gin_values.Reference):
                self._resolve(value.selector, symbols, dynamic, place)
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
        names = gin_values.parameter_names(configurable)
        if statement.arg_name not in names and '**' not in names:
            if new_name := RENAMED_PARAMETERS.get((full_name, statement.arg_name)):
                raise errors.ConfigError(f'{place}: {statement.selector}.{statement.arg_name} is {new_name} now; bind it there '
                                         f'(from atlas_jax import {new_name.split(".")[0]})')
            near = did_you_mean(statement.arg_name, names) or f'; it has {", ".join(names)}'
            raise errors.ConfigError(f'{place}: {statement.selector} has no parameter "{statement.arg_name}"{near}')
        annotation = gin_values.hints_of(configurable).get(statement.arg_name)
        binding = Binding(statement.selector, statement.arg_name, statement.value, place, annotation)
        self._bindings[f'{statement.scope}/{full_name}', statement.arg_name] = binding

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
            if not hasattr(found, name):
                public = [member for member in dir(found) if not member.startswith('_')]
                raise errors.ConfigError(f'{place}: unknown name "{selector}"{did_you_mean(name, public)}')
            found = getattr(found, name)
        full_name = f'{found.__module__}.{found.__qualname__}' if hasattr(found, '__qualname__') else selector
        if not callable(found):
            raise errors.ConfigError(f'{place}: "{selector}" is neither a class nor a function')
        self.configurables[full_name] = found
        return full_name, found

    def _check_type(self, binding: Binding) -> None:
        value, place = binding.value, binding.place
        # The type is checked where the value stands: a macro's own line is named, not the line that uses it.
        while isinstance(value, gin_values.Macro):
            macro = self._bindings['', value.name]
            value, place = macro.value, macro.place
        is_literal = not any(isinstance(part, gin_values.Macro | gin_values.Reference) for part in gin_values.flatten(value))
        # References are checked by the class that gets them, once gin has called it.
        if binding.owner and is_literal and not gin_values.fits(value, binding.annotation):
            expected = gin_values.type_name(binding.annotation)
            raise errors.ConfigError(f'{place}: {binding.owner}.{binding.name} must be {expected}, got {value!r}')

    def _macro_names(self) -> set[str]:
        return {name for owner, name in self._bindings if not owner} | set(self._used_macros)


def _import(statement: Any, place: str) -> Any:
    try:
        module = importlib.import_module(statement.module)
    except ImportError as error:
        if new_name := new_module_name(statement.module):
            package, _, short = new_name.rpartition('.')
            raise errors.ConfigError(f'{place}: {statement.module} is {new_name} now; write "from {package} import {short}" and "{short}." '
                                     'where the file names one of its classes') from error
        raise errors.ConfigError(f'{place}: {statement.format()}: {error}') from error
    # `import a.b` binds `a`, `from a import b` and `import a.b as b` bind the module itself.
    return module if statement.is_from or statement.alias else importlib.import_module(statement.module.split('.')[0])


@contextlib.contextmanager
def _syntax_errors(place_of: Callable[[int], str], remedy: str = '') -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:
        # gin's own errors carry (file, line, ...) beside the message.
        line = int(error.args[1][1] if len(error.args) > 1 else error.lineno or 0)
        problem = error.msg.strip().splitlines()[0].rstrip('.')
        found = remedy or f', found: {(error.text or "").strip()}'
        raise errors.ConfigError(f'{place_of(line)}: {problem}{found}') from error
    except tokenize.TokenError as error:  # the file ends inside a bracket or a string
        message, (line, _) = error.args
        raise errors.ConfigError(f'{place_of(line)}: {message}; is a bracket or quote left open?{remedy}') from error
